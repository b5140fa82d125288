"""Writes benchmarks/README.md from the JSON files in benchmarks/results: nothing in it is typed by hand.

python -m benchmarks.tables
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SCALING_MEMORY = "peak MiB for each recovery"
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
                `python -m benchmarks.step_speed`. Distance and its gradient toward the
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
                `python -m benchmarks.optimizer_speed`. N variables, R recoveries,
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


def audit_section() -> str:
    found = read("audit_mnist")
    if not found:
        return ""
    low, high = found["success_95"]
    rows = [
        (
            "victims × restarts, evaluations each",
            f"{found['victims']} × {found['restarts']}, {found['steps']}",
        ),
        ("searches at once", ", ".join(map(str, found["at_once"].values()))),
        ("recoveries a minute", f"{found['recoveries_per_minute']:.0f}"),
        ("victims recovered (PSNR ≥ 25 dB), 95 % interval", f"{found['success']:.3f} ({low:.3f}-{high:.3f})"),
        ("peak memory", f"{found['peak_memory_bytes'] / 2**20:.0f} MiB"),
        ("results after three kills, none twice", str(found["results"])),
        ("files identical to those of the run left alone", "yes" if found["identical"] else "NO"),
    ]
    return "\n".join(
        [
            "## An audit, killed and resumed",
            "",
            prose(
                """
                `python -m benchmarks.audit_mnist --data FOLDER --at-once 256`. One
                `sapag-fast audit` of MNIST victims left alone, and the same killed with
                SIGKILL three times and resumed.
                """
            ),
            "",
            table(("", ""), rows),
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


def certificate_section() -> str:
    found = read("certificate")
    if not found:
        return ""

    def share(part: dict[str, Any]) -> str:
        if not part["below"]:
            return f"0 of {part['searches']}"
        low, high = part["interval"]
        inside = f"{part['hits']} of {part['below']}"
        return f"{inside} ({low:.1%} to {high:.1%}); {part['searches']} in all"

    rows = [
        [
            family["name"],
            "none" if family["threshold"] is None else f"{family['threshold']:.1e}",
            *(share(part) for part in (family["set on"], family["held out"], family["held out"]["victims"])),
        ]
        for family in found["families"]
    ]
    return "\n".join(
        [
            "## What the distance certifies",
            "",
            prose(
                f"""
                `python -m benchmarks.certificate --data DATA`. Successes ({found["success"]}) among the
                searches at the threshold or below, with Wilson's 95 % interval: on the victims that the
                threshold was set on, on others with other networks, and of these the restart with the lowest
                distance of each victim. Networks, initialisations and phases are in
                `results/certificate.json`.
                """
            ),
            "",
            table(("family", "threshold", "set on", "held out", "held out, winners"), rows),
            "",
            machine_line(found["families"][0]),
        ]
    )


def breaching_section() -> str:
    found = read("breaching_speed")
    if not found:
        return ""
    lines = ["## breaching's own attack, with its objectives and with the fused ones", ""]
    if speeds := found.get("speed"):
        cases = {name: case for name, case in speeds.items() if isinstance(case, dict)}
        rows = []
        for name, case in cases.items():
            for contender, spent in case["milliseconds"].items():
                times = case["times faster"].get(contender)
                gain = "" if times is None else f"{times['q50']:.2f}×"
                rows.append([name, contender, f"{spent['q50']:.1f} ms", gain])
        lines += [
            prose(
                """
                `python -m benchmarks.breaching_speed`. One iteration of its loop, Inverting
                Gradients' configuration, all included, in the process's own time.
                *distance alone*: its gradients, our distance; *fused*: both from us; *sapag*: our
                distance for its; *free distance*: its gradients, and a distance at no cost, which
                none can surpass; *free objective*: all that is neither.
                """
            ),
            "",
            table(("network, objective", "contender", "time", "over its own"), rows),
            "",
            machine_line(speeds),
            "",
        ]
    if recovered := found.get("recovery"):
        rows = [
            [init, name, f"{case['recovered']} of {recovered['victims']}", f"{case['median mse']:.1e}"]
            for init, cases in recovered.items()
            if isinstance(cases, dict)
            for name, case in cases.items()
        ]
        lines += [
            prose(
                f"""
                `python -m benchmarks.breaching_speed --data FOLDER`. MNIST, sigmoid LeNet,
                {recovered["steps"]} steps of its L-BFGS (up to 20 evaluations each) from the same grey
                start, no priors; success is a mean squared error below {recovered["success"]:g}. All but
                `sapag` are its own objectives.
                """
            ),
            "",
            table(("weights", "objective", "recovered", "median MSE"), rows),
            "",
            machine_line(recovered),
        ]
    return "\n".join(lines).rstrip()


def main() -> None:
    from benchmarks.peers.report import peers_section  # here: it uses this module

    made = (
        distance_section(),
        step_section(),
        optimizer_section(),
        attack_section(),
        recovery_section(),
        certificate_section(),
        peers_section(read("peers")),
        audit_section(),
        breaching_section(),
    )
    sections = filter(None, made)
    note = "Written by `python -m benchmarks.tables` from `results/`. No GPU has been measured yet."
    head = f"# Benchmarks\n\n{note}"
    (HERE / "README.md").write_text("\n\n".join([head, *sections]) + "\n")


if __name__ == "__main__":
    main()
