"""Time of one evaluation of R recoveries on a vision transformer: explicit mode, what took its place where no
layer rule covers class token and positions (``single`` for one recovery, ``vmap`` for several), and the fair
loop of `step_speed`, one recovery after the other.

Every round times every contender once, in turn; ratios are quantiles over rounds. 3x32x32 images, patches of
4, width 96, 6 layers, 4 heads, a class token, default weights.

    python -m benchmarks.search.vit_speed --rounds 5
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import RESULTS
from benchmarks.search.step_speed import explicit, fair_loop
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns
from benchmarks.shared.step_networks import Case, case_of
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.models import make_model

RECOVERIES = (1, 4, 8)
WIDTH, LAYERS, HEADS, PATCH = 96, 6, 4, 4


class AttentionModule(nn.Module):
    """The same size of network with ``nn.MultiheadAttention``, as torchvision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 65, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.fc(self.layers(x)[:, 0])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit of make_model": lambda: make_model(
        "vit", patch=PATCH, width=WIDTH, layers=LAYERS, heads=HEADS
    ).eval(),
    "nn.MultiheadAttention": lambda: AttentionModule().eval(),
}


def _one_after_the_other(case: Case) -> Callable[[], object]:
    alone = fair_loop(case)

    def evaluate() -> object:
        return [alone() for _ in range(case.inputs.shape[0])]

    return evaluate


def _fallback(case: Case) -> tuple[str, Callable[[], object]]:
    problem, labels = case.problem(), case.labels
    if case.inputs.shape[0] == 1:
        single = SequentialMatching(problem)
        return "single", lambda: single.value_and_gradient(case.inputs, labels)
    vmap = VmapMatching(problem)
    return "vmap", lambda: vmap.value_and_gradient(case.inputs, labels)


def measure(make: Callable[[], nn.Module], recoveries: int, rounds: int) -> dict:
    """Milliseconds of one evaluation of all recoveries, and how many times faster explicit mode is."""
    torch.manual_seed(0)
    case = case_of(make(), (3, 32, 32), recoveries)
    name, fallback = _fallback(case)
    runs = {"loop": _one_after_the_other(case), name: fallback, "explicit": explicit(case)[1]}
    seconds = time_in_turns(runs, rounds=rounds)
    each = {k: [value * 1e3 for value in v] for k, v in seconds.items()}
    return {
        "milliseconds": {k: quantiles(v) for k, v in each.items()},
        "times faster": {k: ratio(each[k], each["explicit"]) for k in ("loop", name)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recoveries", type=int, nargs="+", default=RECOVERIES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "vit_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict = {"benchmark": "vit_speed", **machine(), "rounds": options.rounds}
    with sdpa_kernel(SDPBackend.MATH):
        for name, make in NETWORKS.items():
            report[name] = {str(r): measure(make, r, options.rounds) for r in options.recoveries}
            for r, found in report[name].items():
                print(name, r, found["milliseconds"], found["times faster"], flush=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
