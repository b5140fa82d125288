"""What is recovered of pictures of 224x224 behind networks of 1000 classes, by the recipe ``auto``.

Untrained networks, bundled photographs, one gradient each, labels known, one restart. ResNet-18 is
ImageNet's, with global pooling; behind ViT-B/16 the picture follows from the gradients of patches and
positions by a system of linear equations, and nothing is searched. Beside each network's figures a picture
is kept, truth above and recovered below.

Goes on where it was stopped: a network whose line has the same settings is left out, unless --again says so.

    python -m benchmarks.recovery.large_images [--pictures 2 --steps 120] [--only NAME...]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.search.large_speed import CLASSES, SHAPE, vit_b16
from benchmarks.shared.interleaved import machine
from sapag_fast import data
from sapag_fast.files.output import replacing
from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import EXACT
from sapag_fast.reports.pictures import to_picture

FILE = RESULTS / "large_images.json"


@dataclass(frozen=True)
class Row:
    """One network, and how it is made."""

    name: str
    make: Callable[[], nn.Module]


def _resnet18(activation: str) -> nn.Module:
    return make_model(
        "resnet18", image_size=SHAPE[-1], classes=CLASSES, stem="7x7", activation=activation, seed=0
    )


ROWS = {
    row.name: row
    for row in (
        Row("ResNet-18, ReLU", lambda: _resnet18("relu").eval()),
        Row("ResNet-18, sigmoid", lambda: _resnet18("sigmoid").eval()),
        Row("ResNet-18, ReLU, BatchNorm in training mode", lambda: _resnet18("relu").train()),
        Row("ViT-B/16", vit_b16),
    )
}
"""By name."""


def _search(
    model: nn.Module, gradient: list[Tensor], label: Tensor, steps: int
) -> tuple[Tensor, dict[str, Any]]:
    found = recover(model, gradient, SHAPE, labels=label, restarts=1, steps=steps)
    facts = {
        "evaluations": int(found.evaluations[0]),
        "mode": "by arithmetic" if found.source[0] == EXACT else found.mode,
        "recipe": found.recipe.name,
        "distance": float(found.distance[0]),
        "cautions": [caution.kind for caution in found.warnings],
    }
    return found.inputs[0], facts


def decibels(one: Tensor, other: Tensor) -> float:
    """PSNR."""
    return -10 * math.log10((one - other).square().mean())


def measure(row: Row, settings: dict[str, int]) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Figures of one network, the pictures and what was recovered of them."""
    torch.manual_seed(0)
    model = row.make()
    pictures = data.photographs(settings["pictures"], size=SHAPE[-1])[0]
    lines, recovered = [], []
    for number, picture in enumerate(pictures[:, None]):
        label = torch.tensor([number * 97 % CLASSES])
        gradient = list(torch.autograd.grad(F.cross_entropy(model(picture), label), list(model.parameters())))
        began = time.process_time()
        found, facts = _search(model, gradient, label, settings["steps"])
        facts["seconds of processor time"] = round(time.process_time() - began, 1)
        mean = picture.mean((2, 3), keepdim=True).expand_as(picture)
        found = found.clamp(0, 1)
        lines.append(
            {"psnr": decibels(found, picture), "of its mean colour": decibels(mean, picture), **facts}
        )
        recovered.append(found[0])
        print(row.name, lines[-1], flush=True)
    return {"network": row.name, "settings": settings, "victims": lines}, pictures, torch.stack(recovered)


def picture_of(name: str) -> Path:
    """Where a network's pictures are kept."""
    words = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return RESULTS / "large_images" / f"{'-'.join(filter(None, words.split('-')))}.jpg"


def _show(name: str, pictures: Tensor, recovered: Tensor) -> None:
    side = SHAPE[-1]
    sheet = Image.new("RGB", (side * len(pictures), 2 * side))
    for row, images in enumerate((pictures, recovered)):
        for column, image in enumerate(images):
            sheet.paste(to_picture(image), (column * side, row * side))
    path = picture_of(name)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=85)


def lines_of_file() -> dict[str, dict[str, Any]]:
    """By network."""
    if not FILE.exists():
        return {}
    return {line["network"]: line for line in json.loads(FILE.read_text(encoding="utf-8"))["lines"]}


def _keep(line: dict[str, Any], here: dict[str, str | int]) -> None:
    known = lines_of_file() | {line["network"]: line | {"commit": here["commit"]}}
    content = {"benchmark": "large_images", **here, "lines": [known[name] for name in ROWS if name in known]}
    with replacing(FILE) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--steps", type=int, default=120, help="evaluations of a search")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help="networks")
    parser.add_argument("--again", action="store_true", help="measure what has a line, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = machine()  # before anything runs: the sources may change meanwhile
    settings = {"pictures": options.pictures, "steps": options.steps}
    for name in options.only or ROWS:
        line = lines_of_file().get(name)
        if line is not None and line["settings"] == settings and not options.again:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result holds them
            line, pictures, recovered = measure(ROWS[name], settings)
        _keep(line, here)
        _show(name, pictures, recovered)


if __name__ == "__main__":
    main()
