"""The sections of benchmarks/README.md on recoveries: audits, digits, certificates, breaching's loop."""

from typing import Any

from benchmarks.report.markdown import machine_line, prose, read, table


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
                `python -m benchmarks.audit.audit_mnist --data FOLDER --at-once 256`. One
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
                `python -m benchmarks.recovery.recover_mnist --data FOLDER` (the folder of
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
                `python -m benchmarks.recovery.certificate --data DATA`. Successes ({found["success"]}) among
                the searches at the threshold or below, with Wilson's 95 % interval: on the victims that the
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


def identifiability_section() -> str:
    found = read("identifiability")
    if not found:
        return ""
    lines = found["networks"]
    figures = ("victims", "close", "close and recovered", "certified", "false certificates")

    def left(some: list[dict[str, Any]]) -> str:
        ends = [end for line in some for end in line["least and most left"] or ()]
        return f"{min(ends):.1e} to {max(ends):.1e}" if ends else "not checked"

    rows = []
    for kind in dict.fromkeys(line["input is"] for line in lines):
        some = [line for line in lines if line["input is"] == kind]
        networks = len({line["network"] for line in some})
        totals = (str(sum(line[name] for line in some)) for name in figures)
        rows.append([kind, str(networks), *totals, left(some)])
    return "\n".join(
        [
            "## Whether the gradient determines the input",
            "",
            prose(
                """
                `python -m benchmarks.recovery.identifiability --data DATA`. Networks that leave a part of
                the picture unseen, and those that certificates were measured on. *Close*: at the family's
                threshold or below, which was all that a certificate asked for once. The check perturbs what
                was found (noise of standard deviation 0.3) and searches on until the distance is at the
                threshold again, 360 evaluations at most; certified is what has come back to a mean square
                of 0.02 by then, as have its windows, rows, columns and waves. *The check alone*: of networks
                behind fixed weights that take out a few directions (`benchmarks/recovery/fixed_weights.py`),
                half of the pictures of little contrast and bright. Waves and rows it sees, a spot it does
                not, so networks with fixed weights get no certificate: their operators are not measured.
                Each network is in `results/identifiability.json`.
                """
            ),
            "",
            table(("input is", "networks", *figures, "left of the perturbation"), rows),
            "",
            machine_line(found),
        ]
    )


def exact_section() -> str:
    found = read("exact")
    if not found:
        return ""
    rows = []
    for line in found["lines"]:
        victims, least = line["victims"], line["least PSNR"]
        searched = "search recovers" in line
        rows.append(
            [
                f"{line['epochs']} epochs" if line["epochs"] else "untrained",
                str(line["width"]),
                str(line["batch size"]),
                f"{line['exact']} of {victims}",
                str(line["wrong"]),
                "" if least is None else f"{least:.0f} dB",
                f"{line['seconds a victim']:.2f} s",
                f"{line['search recovers']} of {victims}" if searched else "",
                f"{line['search, median PSNR']:.1f} dB" if searched else "",
                f"{line['search, seconds a victim']:.1f} s" if searched else "",
            ]
        )
    columns = (
        *("network", "first width", "images", "exact", "wrong", "worst image", "a victim"),
        *("search recovers", "median", "a victim"),
    )
    return "\n".join(
        [
            "## What arithmetic recovers",
            "",
            prose(
                """
                `python -m benchmarks.recovery.exact --data DATA`. Batches of MNIST's images from 1000 on
                through perceptrons with two hidden layers of that width and ReLU; exact: all images of the
                batch were found and give the gradient; wrong: one of them is not in the batch. The worst
                image of the exact ones, at most 160 dB. Beside it the search of the same victims, one
                restart. Reasons where it fails are in `results/exact.json`.
                """
            ),
            "",
            table(columns, rows),
            "",
            machine_line(found),
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
                `python -m benchmarks.integrations.breaching_speed`. One iteration of its loop, Inverting
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
                `python -m benchmarks.integrations.breaching_speed --data FOLDER`. MNIST, sigmoid LeNet,
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
