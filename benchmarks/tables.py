"""Writes benchmarks/README.md from the JSON files in benchmarks/results: nothing in it is typed by hand.

python -m benchmarks.tables
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SETS = ("lenet", "64xlenet", "resnet-18", "bert-base")


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(found: dict[str, Any]) -> str:
    return (
        f"{found['device']} ({found['capability']}), {found['threads']} thread(s), torch {found['torch']}, "
        f"Python {found['python']}, commit {found['commit']}."
    )


def prose(text: str) -> str:
    """A paragraph on one line, however it is wrapped here."""
    return " ".join(text.split())


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def distance_section() -> str:
    results = [found for found in (read(f"distance_{name}") for name in SETS) if found]
    if not results:
        return ""
    peers = ("eager loop", "_foreach", "torch.compile")

    def times(found: dict[str, Any], own: str) -> str:
        speedup = found["speedup"][own]
        return " / ".join(f"{speedup[peer]['q50']:.1f}×" if peer in speedup else "-" for peer in peers)

    rows = [
        [
            found["set"],
            f"{found['elements']:,}",
            duration(found["seconds"]["sapag_fast"]["q50"]),
            times(found, "sapag_fast"),
            times(found, "sapag_fast (out=)"),
            times(found, "sapag_fast (autograd)"),
            f"{found['fraction_of_triad']['q50']:.2f}",
            f"{found['triad_bytes_per_second'] / 1e9:.0f} GB/s",
        ]
        for found in results
    ]
    head = (
        "gradients", "elements", "time", "distance_and_gradient", "the same, out=", "through autograd",
        "of the triad", "triad",
    )  # fmt: skip
    return "\n".join(
        [
            "## The distance with its gradient",
            "",
            prose(
                """
                `python -m pytest benchmarks/test_distance.py`. The `sapag` distance and
                V in float32, one thread; the target's norms and variances are known
                beforehand to all contenders. Speed-ups are medians, round by round,
                over the eager loop over layers with autograd / V written out by hand
                with `torch._foreach_*` / `torch.compile` of the loop (not for BERT:
                minutes of compilation). 12 bytes an element have to move (g' and g
                read, V written), 20 where a layer is too large to stay in cache between
                its sums and its V; *of the triad* is the share of a measured x = y + 2
                z at 12 bytes an element that `out=` reaches. The triad of the small
                sets runs in cache, where the distance is bound by arithmetic and, for
                one LeNet, by the call itself.
                """
            ),
            "",
            table(head, rows),
            "",
            machine_line(results[0]["machine"]),
        ]
    )


def attack_section() -> str:
    found = read("attack_speed")
    if not found:
        return ""
    rows = []
    for network in ("LeNet 1x28x28", "LeNet 3x32x32"):
        result = found[network]
        for peer in ("published", "fair"):
            rows.append([f"{network}: DLG, {peer}", f"{result['milliseconds'][peer]['q50']:.2f} ms", "", ""])
        for own, ratio in result["times faster than published"].items():
            rows.append(
                [
                    f"{network}: {own}",
                    f"{result['milliseconds'][own]['q50']:.2f} ms",
                    f"{ratio['q50']:.1f}×",
                    f"{result['times faster than fair'][own]['q50']:.1f}×",
                ]
            )
    return "\n".join(
        [
            "## The attack, one evaluation of one recovery",
            "",
            prose(
                f"""
                `python -m benchmarks.attack_speed`. Optimiser included,
                {found["evaluations"]} evaluations a round, all contenders in turns;
                labels known to all. *published* is DLG's loop with `backward()`, *fair*
                the same with `torch.autograd.grad` toward the image alone; both with
                the eager squared distance and `torch.optim.LBFGS`.
                """
            ),
            "",
            table(("loop", "time", "over published", "over fair"), rows),
            "",
            machine_line(found),
        ]
    )


def recovery_section() -> str:
    found = read("recover_mnist")
    if not found:
        return ""
    rows = []
    for init in (key for key, value in found.items() if isinstance(value, dict)):
        for name, part in found[init].items():
            success, error, seconds = part["success"], part["median mse"], part["seconds"]
            rows.append([init, name, f"{success:.0%}", f"{error:.1e}", f"{seconds:.0f} s"])
    return "\n".join(
        [
            "## What is recovered",
            "",
            prose(
                f"""
                `python -m benchmarks.recover_mnist --data FOLDER` (the folder of
                MNIST's test set in IDX format). Sigmoid LeNet, untrained,
                {found["victims"]} victims, default settings; success is
                {found["success"]} on [0, 1] pixels. `dlg` is the published loop, one
                start, labels optimised jointly; the two `R=1` rows differ in the
                optimiser alone.
                """
            ),
            "",
            table(("weights", "method", "success", "median MSE", "time"), rows),
            "",
            machine_line(found),
        ]
    )


def main() -> None:
    sections = filter(None, (distance_section(), attack_section(), recovery_section()))
    note = "Written by `python -m benchmarks.tables` from `results/`. No GPU has been measured yet."
    head = f"# Benchmarks\n\n{note}"
    (HERE / "README.md").write_text("\n\n".join([head, *sections]) + "\n")


if __name__ == "__main__":
    main()
