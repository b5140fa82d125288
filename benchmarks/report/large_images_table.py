"""The section of benchmarks/README.md on pictures of 224x224: an evaluation's cost, and recoveries."""

from __future__ import annotations

from typing import Any

from benchmarks.recovery.large_images import picture_of
from benchmarks.report.markdown import machine_line, prose, read, table


def large_images_section() -> str:
    """Empty without results."""
    speed, recovered = read("large_speed"), read("large_images")
    parts = [_speed(speed) if speed else "", _recoveries(recovered) if recovered else ""]
    if not any(parts):
        return ""
    return "\n\n".join(["## Large images", *filter(None, parts)])


def _speed(found: dict[str, Any]) -> str:
    rows = []
    for network, by_count in found.items():
        for recoveries, result in by_count.items() if isinstance(by_count, dict) else ():
            for way, value in result["milliseconds"].items():
                faster = result["times faster"].get(way)
                rows.append(
                    [
                        f"{network}, R={recoveries}",
                        way,
                        f"{value['q50'] / 1e3:.2f} s",
                        f"{faster['q50']:.1f}×" if faster else "",
                        f"{result['peak MiB'][way]:,.0f} MiB",
                    ]
                )
    note = f" Its {found['cores']} cores had a load of {found['load']:.1f} when it began."
    return "\n".join(
        [
            prose(
                """
                `python -m benchmarks.search.large_speed`. 3×224×224 images, 1000 classes, evaluation
                mode; processor time of one evaluation, for each recovery. *loop* and *single* (plain
                autograd, as `recover` does it where explicit mode does not serve) evaluate one recovery,
                *explicit* all R at once; memory is the process's growth in that evaluation.
                """
            ),
            "",
            table(("network", "way", "time", "explicit is faster by", "memory"), rows),
            "",
            machine_line(found) + note,
        ]
    )


def _recoveries(found: dict[str, Any]) -> str:
    rows = []
    for line in found["lines"]:
        victims = line["victims"]
        rows.append(
            [
                f"[{line['network']}](results/large_images/{picture_of(line['network']).name})",
                ", ".join(str(victim["evaluations"]) for victim in victims),
                ", ".join(f"{victim['psnr']:.1f}" for victim in victims),
                ", ".join(f"{victim['of its mean colour']:.1f}" for victim in victims),
                ", ".join(f"{victim['seconds of processor time']:.0f} s" for victim in victims),
                ", ".join(sorted({victim["mode"] for victim in victims})),
            ]
        )
    return "\n".join(
        [
            prose(
                """
                `python -m benchmarks.recovery.large_images`. Untrained networks, bundled photographs of
                224×224 (the first is 220×220, enlarged), one gradient each, labels known, one restart,
                recipe `auto`; *of its mean colour* is the PSNR of a picture that is nothing but that.
                Published for breaching on ImageNet's ResNet-18: 14.2 dB after 24,000 iterations. Behind
                the names: truth above, recovered below.
                """
            ),
            "",
            table(
                ("network", "evaluations", "PSNR, dB", "of its mean colour", "processor time", "mode"), rows
            ),
            "",
            machine_line(found),
        ]
    )
