"""Writes benchmarks/README.md from the JSON files in benchmarks/results: nothing in it is typed by hand.

python -m benchmarks.report.tables
"""

from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.peers.report import peers_section
from benchmarks.report.deep_networks_table import deep_networks_section
from benchmarks.report.equal_labels_table import equal_labels_section
from benchmarks.report.fresh_certificates_table import fresh_certificates_section
from benchmarks.report.label_tables import batch_labels_section
from benchmarks.report.large_images_table import large_images_section
from benchmarks.report.markdown import duration, machine_line, prose, read, table
from benchmarks.report.never_wrong_table import never_wrong_section
from benchmarks.report.recovery_tables import (
    audit_section,
    breaching_section,
    certificate_section,
    exact_section,
    identifiability_section,
    recovery_section,
)
from benchmarks.report.sentences_table import sentences_section
from benchmarks.report.vit_table import vit_section

REPORT = BENCHMARKS / "README.md"
SCALING_MEMORY = "peak MiB for each recovery"
SETS = ("lenet", "64xlenet", "resnet-18", "bert-base")


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
                `python -m pytest benchmarks/distances/test_distance.py`. The `sapag` distance and
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
                `python -m benchmarks.search.attack_speed`. Optimiser included,
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


def step_section() -> str:
    found = read("step_speed")
    if not found:
        return ""
    rows = []
    for network, result in found.items():
        if not isinstance(result, dict) or "milliseconds" not in result:
            continue
        memory = result[SCALING_MEMORY]
        for way, value in result["milliseconds"].items():
            faster = [result["times faster"].get(fair, {}).get(way) for fair in ("fair", "fair, no oneDNN")]
            mode = way.removeprefix("explicit, ")
            rows.append(
                [
                    f"{network}, R={result['recoveries']}",
                    way,
                    f"{value['q50']:.3g} ms",
                    *(f"{ratio['q50']:.1f}×" if ratio else "" for ratio in faster),
                    f"{memory[mode]:.1f}" if mode in memory else "",
                ]
            )
    scaling = {unit: found[f"LeNet scaling, {unit}"] for unit in ("milliseconds", SCALING_MEMORY)}
    counts = list(scaling["milliseconds"])
    return "\n".join(
        [
            "## A step without its optimiser, one evaluation of one recovery",
            "",
            prose(
                """
                `python -m benchmarks.search.step_speed`. Distance and its gradient toward the
                input. *fair* is the sequential loop: `torch.autograd.grad` with
                create_graph, the eager distance with the target's statistics known, and
                `torch.autograd.grad` toward the input alone; *no oneDNN* the same with
                PyTorch's own convolutions, which are faster for small images. Memory is
                the process's high-water mark over what it held before, set-up included.
                """
            ),
            "",
            table(("network", "way", "time", "over fair", "over fair, no oneDNN", "MiB / recovery"), rows),
            "",
            "LeNet, explicit, at different numbers of recoveries:",
            "",
            table(
                ("R", *counts),
                (
                    ("ms", *(f"{scaling['milliseconds'][r]['q50']:.2f}" for r in counts)),
                    ("MiB", *(f"{scaling[SCALING_MEMORY][r]:.2f}" for r in counts)),
                ),
            ),
            "",
            machine_line(found),
        ]
    )


def optimizer_section() -> str:
    found = read("optimizer_speed")
    if not found:
        return ""
    rows = []
    for case in (key for key, value in found.items() if isinstance(value, dict)):
        for own, ratios in found[case]["times faster"].items():
            peers = ", ".join(f"{ratio['q50']:.1f}× {peer}" for peer, ratio in ratios.items())
            rows.append([case, own, f"{found[case]['microseconds'][own]['q50']:.3g} µs", peers])
    return "\n".join(
        [
            "## The optimisers, one step of one recovery",
            "",
            prose(
                f"""
                `python -m benchmarks.search.optimizer_speed`. N variables, R recoveries,
                history {found["history"]}; against R objects of `torch.optim`, and
                against the batched torch operations that serve other devices.
                """
            ),
            "",
            table(("case", "optimiser", "time", "times faster than"), rows),
            "",
            machine_line(found),
        ]
    )


def main() -> None:
    made = (
        distance_section(),
        step_section(),
        vit_section(),
        optimizer_section(),
        attack_section(),
        recovery_section(),
        deep_networks_section(),
        large_images_section(),
        certificate_section(),
        fresh_certificates_section(),
        identifiability_section(),
        exact_section(),
        sentences_section(),
        never_wrong_section(),
        batch_labels_section(),
        equal_labels_section(),
        peers_section(read("peers")),
        audit_section(),
        breaching_section(),
    )
    sections = filter(None, made)
    note = "Written by `python -m benchmarks.report.tables` from `results/`. No GPU has been measured yet."
    head = f"# Benchmarks\n\n{note}"
    REPORT.write_text("\n\n".join([head, *sections]) + "\n")


if __name__ == "__main__":
    main()
