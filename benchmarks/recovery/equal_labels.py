"""Where the information about images of one label ends: gradients of eight digits through small weights.

LeNets with torch's own initialisation, labels as they fall. What sets the images of one label apart shows in
the gradient's second order alone. Three questions, each on the same batches: what searches find, with targets
and arithmetic of float32 and of float64; how far the gradients of what they find are from the target,
counted in the errors that float32 makes of it; and what the gradient holds, by a linear analysis at the true
images: how far they are expected to be missed by who knows what digits look like in the mean, and the
gradient with normal noise in each parameter, so many times what float32 makes of its tensor.

Images: MNIST's 1000..1099, on which nothing here was set.

    python -m benchmarks.recovery.equal_labels --data DATA [--victims 4]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.report.markdown import table
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS, shared_gradients
from sapag_fast.data import read_mnist
from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.recovery.separation import separate_equal_labels
from sapag_fast.reports.metrics import assign
from sapag_fast.search.basis import make_basis

SHAPE = (1, 28, 28)
PIXELS = 28 * 28
FIRST = 1000
SIZE = 8
EACH = 2
"""Victims of a network."""
LOW = 16
"""Frequencies along each side in which images may differ, in the linear analysis."""
NOISE = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""In the errors that float32 makes."""
STEPS = 3200
"""Evaluations of the second search."""
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
FILE = RESULTS / "equal_labels.json"


def spread_of(folder: Path) -> Tensor:
    """Standard deviations ``[*SHAPE]`` of the digits' DCT coordinates, of those that networks train on."""
    images, _ = read_mnist(folder / "mnist", first=2000, count=1000, classes=10)
    return make_basis("dct", SHAPE, dtype=torch.float64).inverse(images.double()).std(0)


def float32_errors(model: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Of each parameter's gradient of one batch the root mean square error that float32 makes."""
    plain, exact = copy.deepcopy(model).float(), copy.deepcopy(model).double()
    rounded = shared_gradients(plain, images[None].float(), labels[None])
    right = shared_gradients(exact, images[None].double(), labels[None])
    return [float((a - b).square().mean().sqrt()) for a, b in zip(rounded, right, strict=True)]


class Information:
    """What one gradient holds of its images ``[B, *SHAPE]``, near them.

    Attributes
    ----------
    strength : Tensor
        ``[k]``, singular values of the gradient's derivative along the coordinates of all images, in units of
        float32's errors and of the digits' deviations.
    directions : Tensor
        ``[B, n, k]``, the directions that go with them.
    deviation : Tensor
        ``[n]``, the digits'.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, spread: Tensor) -> None:
        low = torch.zeros(SHAPE, dtype=torch.bool)
        low[..., :LOW, :LOW] = True
        self.deviation = spread[low]
        basis = make_basis("dct", SHAPE, dtype=torch.float64)
        units = torch.eye(low.numel(), dtype=torch.float64)[low.flatten()].view(-1, *SHAPE)
        units = basis.forward(units) - basis.forward(torch.zeros(1, *SHAPE, dtype=torch.float64))
        errors = float32_errors(model, images, labels)
        model = copy.deepcopy(model).double()
        columns = [
            _along(model, image, label, units, errors)
            for image, label in zip(images.double(), labels, strict=True)
        ]
        matrix = torch.cat([rows * self.deviation[:, None] for rows in columns]).T / len(images)
        triangular = torch.linalg.qr(matrix, mode="r").R
        _, self.strength, turned = torch.linalg.svd(triangular, full_matrices=False)
        self.directions = turned.T.reshape(len(images), len(units), -1)

    def errors(self, noise: float) -> Tensor:
        """Expected squared error of each image, ``[B]``, a mean over pixels, with so many float32 errors."""
        kept = 1 / (1 + (self.strength / noise).square())
        variance = (self.directions.square() * kept).sum(-1) * self.deviation.square()
        # The basis' scales have a root mean square of 1: a coordinate counts as its scale's square.
        scale = make_basis("dct", SHAPE, dtype=torch.float64).scale[..., :LOW, :LOW].flatten()
        return (variance * scale.square()).sum(-1) / PIXELS


def _along(model: nn.Module, image: Tensor, label: Tensor, units: Tensor, errors: list[float]) -> Tensor:
    """``[n, parameters]``, derivatives of one image's gradient along the `units`, in the `errors`."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(own: dict[str, Tensor], x: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, own, (x[None],)), label[None])

    def gradient(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.func.grad(loss)(parameters, x).values())

    def along(unit: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(gradient, (image,), (unit,))[1]

    parts = torch.func.vmap(along)(units)
    return torch.cat([part.flatten(1) / error for part, error in zip(parts, errors, strict=True)], 1)


def averaged(images: Tensor, labels: Tensor) -> Tensor:
    """``[B, *SHAPE]`` with the mean of those of its label in each image's place."""
    return torch.stack([images[labels == label].mean(0) for label in labels])


def difference(model: nn.Module, inputs: Tensor, images: Tensor, labels: Tensor) -> float:
    """Root mean square of gradient minus target, over all parameters, in the errors that float32 makes."""
    exact = copy.deepcopy(model).double()
    pair = torch.stack((inputs.double(), images.double()))
    gradients = shared_gradients(exact, pair, labels.expand(2, -1))
    errors = float32_errors(model, images, labels)
    parts = [(g[0] - g[1]).flatten() / error for g, error in zip(gradients, errors, strict=True)]
    return float(torch.cat(parts).square().mean().sqrt())


def found_images(found: Tensor, truth: Tensor) -> int:
    """How many images of one batch are there."""
    errors = (found.clamp(0, 1) - truth[assign(found, truth)]).square().flatten(1).mean(1)
    return int((errors < SUCCESS).sum())


def searched(
    model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
) -> dict[str, list[dict[str, Any]]]:
    """Of each batch ``[V, B, *SHAPE]`` what both searches find, in that arithmetic."""
    own = copy.deepcopy(model).to(dtype)
    target = shared_gradients(own, images.to(dtype), labels)
    first = recover(own, target, SHAPE, batched=True, batch_size=SIZE, labels=labels, exact="off")
    second = separate_equal_labels(own, target, first, batched=True, steps=STEPS)

    def told(found: Recovery) -> list[dict[str, Any]]:
        batches = zip(found.inputs, images.to(dtype), labels, strict=True)
        return [
            {"images": found_images(mine, truth), "difference": difference(model, mine, truth, known)}
            for mine, truth, known in batches
        ]

    return {"first": told(first), "second": told(second)}


def measure(model: nn.Module, images: Tensor, labels: Tensor, spread: Tensor) -> list[dict[str, Any]]:
    """One line a batch."""
    lines: list[dict[str, Any]] = []
    for truth, known in zip(images, labels, strict=True):
        information = Information(model, truth, known, spread)
        lines.append(
            {
                "labels": known.tolist(),
                "averages, difference": difference(model, averaged(truth, known), truth, known),
                "determined": {f"{n:g}": (information.errors(n) < SUCCESS).tolist() for n in NOISE},
                "expected error": {f"{n:g}": float(information.errors(n).max()) for n in NOISE},
            }
        )
    for name, dtype in PRECISIONS.items():
        began = time.perf_counter()
        found = searched(model, images, labels, dtype)
        seconds = round((time.perf_counter() - began) / len(images), 1)
        for number, line in enumerate(lines):
            line[name] = {which: told[number] for which, told in found.items()} | {"seconds": seconds}
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--victims", type=int, default=4, help="batches, two to a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.victims * SIZE
    images, labels = read_mnist(options.data / "mnist", first=FIRST, count=count, classes=10)
    batches = images.view(-1, SIZE, *SHAPE), labels.view(-1, SIZE)
    spread = spread_of(options.data)
    lines: list[dict[str, Any]] = []
    for number, (some, known) in enumerate(zip(*(t.split(EACH) for t in batches), strict=True)):
        lines += measure(make_model("lenet", seed=7000 + number).eval(), some, known, spread)
        print(json.dumps(lines[-len(some) :]), flush=True)
        content = {"benchmark": "equal_labels", **machine(), "steps": STEPS, "lines": lines}
        FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    columns = ("labels", *PRECISIONS)
    rows = [[str(line["labels"]), *(str(line[p]["second"]["images"]) for p in PRECISIONS)] for line in lines]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
