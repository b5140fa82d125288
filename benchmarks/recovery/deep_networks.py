"""What one search recovers behind deep networks, with the recipe ``auto`` and nothing set by hand.

VGG style (3x3 convolutions of width 24, strides 2 at the third and the fifth), residual networks (widths
16-32-64, three blocks each) and vision transformers, all untrained; bundled photographs of 32x32, one
gradient each, labels known; the first two are the victims that the figures beside them were measured on. One
restart of 300 evaluations each. A picture of a mean squared error below 0.01 (20 dB) is recovered.

The ResNet-18 that the published re-implementation of SAPAG attacks, at half its widths and with others'
distances beside, takes hours, and is measured where --only names it (resnet18-flat).

Goes on where it was stopped: a network whose line has the same settings is left out, unless --again says so.

    python -m benchmarks.recovery.deep_networks [--victims 2 --others 8] [--only NAME...]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import RESULTS
from benchmarks.recovery.deep_rows import ROWS, SIDE, Row
from benchmarks.report.deep_networks_table import deep_networks_table
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS, shared_gradients
from sapag_fast import data
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.files.output import replacing
from sapag_fast.recovery.recover import recover

FILE = RESULTS / "deep_networks.json"


def noise_distances(model: nn.Module, targets: Sequence[Tensor], labels: Tensor) -> list[float]:
    """Each victim's distance at noise, of the network itself: geometric means over two draws."""
    distance = GradientDistance("sapag", batched=True)
    generator = torch.Generator().manual_seed(0)
    logarithm = torch.zeros(len(labels), dtype=targets[0].dtype)
    for _ in range(2):
        noise = torch.rand(1, 1, 3, SIDE, SIDE, generator=generator).to(targets[0].dtype)
        dummy = shared_gradients(model, noise.expand(len(labels), -1, -1, -1, -1), labels)
        logarithm += distance(dummy, targets).log() / 2
    return logarithm.exp().tolist()


def measure(row: Row, settings: dict[str, int]) -> dict[str, Any]:
    """Search all victims of one network; their figures in the photographs' order."""
    began = time.perf_counter()
    model = row.make()
    dtype = next(model.parameters()).dtype
    images = data.photographs(settings["victims"] + settings["others"], size=SIDE)[0].to(dtype)
    labels = torch.arange(len(images))[:, None] % 10
    targets = shared_gradients(model, images[:, None], labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result holds them
        found = recover(
            model,
            targets,
            tuple(images.shape[1:]),
            labels=labels,
            batched=True,
            restarts=settings["restarts"],
            steps=settings["steps"],
            **row.search,
        )
    errors = (found.inputs[:, 0].clamp(0, 1) - images).square().flatten(1).mean(1)
    return {
        "network": row.name,
        "settings": settings,
        "search": dict(row.search),
        "distance at noise": noise_distances(model, targets, labels),
        "psnr": [-10 * math.log10(error) for error in errors.tolist()],
        "recovered": int((errors < SUCCESS).sum()),
        "scale": found.scale.tolist(),
        "distance": found.distance.tolist(),
        "evaluations": found.evaluations.tolist(),
        "certificates": [certificate.status for certificate in found.certificate],
        "cautions": {caution.kind: caution.message for caution in found.warnings},
        "source": list(found.source),
        "mode": found.mode,
        "recipe": found.recipe.name,
        "seconds": round(time.perf_counter() - began, 1),
    }


def lines_of_file() -> dict[str, dict[str, Any]]:
    """By network."""
    if not FILE.exists():
        return {}
    return {line["network"]: line for line in json.loads(FILE.read_text(encoding="utf-8"))["lines"]}


def keep(line: dict[str, Any], here: dict[str, str | int]) -> None:
    """Put a line into the file, among those that it holds by now."""
    known = lines_of_file() | {line["network"]: line}
    lines = [known[name] for name in ROWS if name in known]
    content = {"benchmark": "deep_networks", **here, "success": f"mse < {SUCCESS}", "lines": lines}
    with replacing(FILE) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", type=int, default=2, help="that the figures beside were measured on")
    parser.add_argument("--others", type=int, default=8, help="further photographs")
    parser.add_argument("--steps", type=int, default=300, help="evaluations of a restart")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks, by the beginning of their names")
    parser.add_argument("--again", action="store_true", help="measure what has a line, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = machine()  # before anything runs: the sources may change meanwhile
    settings = {name: getattr(options, name) for name in ("victims", "others", "steps", "restarts")}
    named = tuple(options.only or ())
    chosen = [row for name, row in ROWS.items() if (name.startswith(named) if named else not row.hours)]
    if not chosen:
        parser.error(f"--only: expected the beginning of one of {', '.join(ROWS)}")
    for row in chosen:
        line = lines_of_file().get(row.name)
        if line is not None and line["settings"] == settings and not options.again:
            continue
        line = {**measure(row, settings), "commit": here["commit"]}
        keep(line, here)
        print(json.dumps(line), flush=True)
    print(deep_networks_table(list(lines_of_file().values())))


if __name__ == "__main__":
    main()
