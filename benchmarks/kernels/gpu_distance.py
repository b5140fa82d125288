"""The distance with its gradient on a GPU: both kernel families against what plain PyTorch offers.

Every contender is timed by events in turns, after a write that pushes its data out of the second-level cache;
medians with 20 and 80 % quantiles. The ceiling is the best of torch's own copy and of x = y + 2 z at 12 bytes
an element, on arrays far larger than the cache.

    python -m benchmarks.kernels.gpu_distance --output results.json
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import sapag_fast as sf
from benchmarks.shared.distance_peers import Eager, Foreach
from benchmarks.shared.gradient_sets import Shape, bert_base, lenet, resnet18, resnet50
from benchmarks.shared.interleaved import machine, quantiles, ratio
from sapag_fast.distances import operators as ops

LEAST_BYTES = 12
SETS: dict[str, tuple[list[Shape], tuple[int | None, ...]]] = {
    "LeNet": (lenet(), (None, 64, 256, 1024)),
    "ResNet-18": (resnet18(), (None, 16, 64)),
    "ResNet-50": (resnet50(), (None, 16)),
    "BERT-base": (bert_base(), (None, 16)),
}
COMPILE_LIMIT = 80  # tensors: a longer loop takes minutes to compile
Contender = Callable[[], object]


def time_on_device(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds a call by events, one number a round, with the cache flushed before each."""
    flush = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        for _ in range(3):
            contender()
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            flush.zero_()
            torch.cuda._sleep(2_000_000)  # lets the host run ahead: launches are not what is measured here
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            contenders[name]()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) * 1e-3)
    return seconds


def ceiling() -> float:
    """Bytes a second that plain streaming reaches."""
    count = 256 << 20
    x, y, z = (torch.rand(count, device="cuda") for _ in range(3))
    contenders = {"copy": lambda: x.copy_(y), "triad": lambda: torch.add(y, z, alpha=2.0, out=x)}
    seconds = time_on_device(contenders, 15)
    moved = {"copy": 8 * count, "triad": LEAST_BYTES * count}
    return max(moved[name] / statistics.median(seconds[name]) for name in contenders)


def replayed(call: Contender) -> Contender:
    """The same call as a captured graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def families() -> list[str]:
    found = ["cuda"] if ops.has_cuda_kernels() else []
    return [*found, "triton"] if ops.has_triton() else found


def own(dummy: list[Tensor], target: list[Tensor], batched: bool) -> dict[str, Contender]:
    contenders: dict[str, Contender] = {}
    for family in families():
        distance = sf.GradientDistance(batched=batched, backend=family)
        out = [torch.empty_like(t) for t in dummy]

        def call(distance: sf.GradientDistance = distance, out: list[Tensor] = out) -> object:
            return distance.distance_and_gradient(dummy, target, out)

        contenders[family] = call
        contenders[f"{family}, graph"] = replayed(call)
    return contenders


def peers(dummy: list[Tensor], target: list[Tensor], batched: bool) -> dict[str, Contender]:
    leaves = [t.clone().requires_grad_() for t in dummy]
    eager = Eager(target, batched)
    contenders: dict[str, Contender] = {"eager loop": lambda: eager.distance_and_gradient(leaves)}
    if not batched:
        foreach = Foreach(target)
        contenders["_foreach"] = lambda: foreach.distance_and_gradient(dummy)
    if len(dummy) <= COMPILE_LIMIT:
        compiled = torch.compile(eager.distance, dynamic=False)
        contenders["torch.compile"] = lambda: torch.autograd.grad(compiled(leaves).sum(), leaves)
    return contenders


def measure(name: str, recoveries: int | None, rounds: int, limit: float) -> dict:
    shapes = SETS[name][0]
    batched = recoveries is not None
    lead = () if recoveries is None else (recoveries,)
    generator = torch.Generator("cuda").manual_seed(0)
    target = [torch.randn(*lead, *shape, generator=generator, device="cuda") for shape in shapes]
    dummy = [t + 0.5 * torch.randn(t.shape, generator=generator, device="cuda") for t in target]
    elements = sum(t.numel() for t in dummy)
    contenders = own(dummy, target, batched) | peers(dummy, target, batched)
    seconds = time_on_device(contenders, rounds)
    rate = {
        contender: LEAST_BYTES * elements / statistics.median(values) for contender, values in seconds.items()
    }
    return {
        "set": name,
        "recoveries": recoveries or 1,
        "megabytes": 4 * elements / 1e6,
        "seconds": {contender: quantiles(values) for contender, values in seconds.items()},
        "gigabytes_per_second": {contender: value / 1e9 for contender, value in rate.items()},
        "fraction_of_ceiling": {contender: value / limit for contender, value in rate.items()},
        "speedup": {
            contender: {
                peer: ratio(seconds[peer], seconds[contender])["q50"]
                for peer in ("eager loop", "_foreach", "torch.compile")
                if peer in seconds
            }
            for contender in seconds
            if contender.split(",")[0] in families()
        },
    }


def as_table(rows: list[dict]) -> str:
    head = ["gradients", "R", "MB", "kernels", "time", "GB/s", "of ceiling", "eager", "_foreach", "compile"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        for contender, speedup in row["speedup"].items():
            lines.append(
                [
                    row["set"],
                    str(row["recoveries"]),
                    f"{row['megabytes']:.1f}",
                    contender,
                    f"{row['seconds'][contender]['q50'] * 1e6:.1f} µs",
                    f"{row['gigabytes_per_second'][contender]:.0f}",
                    f"{row['fraction_of_ceiling'][contender]:.2f}",
                    *(
                        f"{speedup[peer]:.1f}×" if peer in speedup else "-"
                        for peer in ("eager loop", "_foreach", "torch.compile")
                    ),
                ]
            )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file; a Markdown table goes beside it"
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU to measure")
    limit = ceiling()
    rows = []
    for name in options.sets:
        for recoveries in SETS[name][1]:
            rows.append(measure(name, recoveries, options.rounds, limit))
            torch.cuda.empty_cache()
            # Written after every row: a run that is cut short keeps what it has.
            found = {"ceiling_bytes_per_second": limit, "machine": machine(), "rows": rows}
            found["machine"]["gpu"] = torch.cuda.get_device_name()
            options.output.write_text(json.dumps(found, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(as_table(rows))


if __name__ == "__main__":
    main()
