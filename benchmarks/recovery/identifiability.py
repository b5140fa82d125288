"""Are certificates false where the gradient does not determine the input, and kept where it does?

Networks of the operators that certificates were measured on, some of which do not see all of a picture: they
are matched closely by wrong ones. Of fixed weights that take out a few directions the check alone is
measured, as if certificates knew them, which they do not. MNIST's test images, which no threshold was set on,
a network of its own for each; one restart. A false certificate is one whose picture has a mean squared error
of 0.01 or more.

    python -m benchmarks.recovery.identifiability --data DATA [--victims 10]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks import RESULTS
from benchmarks.recovery.fixed_weights import FIXED
from benchmarks.report.markdown import table
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import shared_gradients, succeeded
from sapag_fast.data import read_mnist
from sapag_fast.models import initialise, make_model
from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.recover import recover

SHAPE = (1, 28, 28)
FIRST = 7000
"""Of MNIST's images: nothing was set on these, neither thresholds nor this check."""
FILE = RESULTS / "identifiability.json"
CHECK_ALONE = "not determined, the check alone"


def convolutions(*strides: tuple[int, int, int], first: Sequence[nn.Module] = ()) -> nn.Module:
    """Convolutions of (kernel, stride, padding), each with a sigmoid, and a linear layer."""
    modules: list[nn.Module] = list(first)
    channels = 1
    for kernel, stride, padding in strides:
        modules += [nn.Conv2d(channels, 12, kernel, stride, padding), nn.Sigmoid()]
        channels = 12
    network = nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(10))
    network(torch.zeros(1, *SHAPE))
    return network


def unseen_rows(count: int) -> Callable[[], nn.Module]:
    """A LeNet whose first filters have no weight in their upper rows, with a stride that skips those."""

    def build() -> nn.Module:
        network = convolutions((5, 5, 0), (3, 1, 1), (3, 1, 1))
        with torch.no_grad():
            network[0].weight[:, :, :count] = 0.0
        return network

    return build


BLIND: dict[str, Callable[[], nn.Module]] = {
    "kernel 1, stride 2": lambda: convolutions((1, 2, 0), (5, 2, 2), (5, 1, 2)),
    "kernel 1, stride 2, two layers": lambda: convolutions((1, 2, 0), (5, 2, 2)),
    "kernel 1, stride 3": lambda: convolutions((1, 3, 0), (5, 1, 2), (5, 1, 2)),
    "kernel 2, stride 3": lambda: convolutions((2, 3, 0), (5, 1, 2), (5, 1, 2)),
    "kernel 2, stride 4": lambda: convolutions((2, 4, 0), (3, 1, 1), (3, 1, 1)),
    "kernel 3, stride 4": lambda: convolutions((3, 4, 0), (3, 1, 1), (3, 1, 1)),
    "kernel 3, stride 4, four layers": lambda: convolutions((3, 4, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1)),
    "kernel 4, stride 6": lambda: convolutions((4, 6, 0), (3, 1, 1), (3, 1, 1)),
    "kernel 5, stride 12": lambda: convolutions((5, 12, 0), (3, 1, 1), (3, 1, 1)),
    "two strides that skip": lambda: convolutions((2, 3, 0), (1, 2, 0), (3, 1, 1)),
    "two rows of five without weight": unseen_rows(2),
    "three rows of five without weight": unseen_rows(3),
}
"""Networks of measured operators that leave a part of the picture unseen."""

STRANGE: dict[str, Callable[[], nn.Module]] = {
    "cropped by 4": lambda: convolutions((5, 2, 2), (5, 1, 2), first=[nn.ZeroPad2d(-4)]),
    "average pool of 4 first": lambda: convolutions((5, 1, 2), (5, 1, 2), first=[nn.AvgPool2d(4)]),
    "BatchNorm in training mode": lambda: nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), nn.BatchNorm2d(12), nn.Sigmoid(), nn.Flatten(), nn.Linear(2352, 10)
    ),
    "global average pool": lambda: nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 2, 2), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    ),
    "a mean over 4 by 4 before a perceptron": lambda: nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 64), nn.Sigmoid(), nn.Linear(64, 32), nn.Sigmoid(),
        nn.Linear(32, 10),
    ),
}  # fmt: skip
"""Networks with an operator that no family was measured on."""

SEEN: dict[str, Callable[[], nn.Module]] = {
    **{
        f"lenet ({name})": lambda name=name: initialise(make_model("lenet", channels=1, image_size=28), name)
        for name in ("default", "uniform", "normal.1", "normal.5", "xavier", "kaiming")
    },
    "lenet4 (default)": lambda: make_model("lenet4", channels=1, image_size=28),
    "mlp (default)": lambda: make_model("mlp", channels=1, image_size=28),
    "mlp (kaiming)": lambda: initialise(make_model("mlp", channels=1, image_size=28), "kaiming"),
}
"""Networks that certificates were measured on."""


KNOWN = ("addmm with fixed weights", "convolution with fixed weights")


@contextmanager
def fixed_weights_known() -> Iterator[None]:
    """Certificates for networks with fixed weights, too, as far as the check allows."""
    measured = certifying.families()
    widened = tuple(replace(family, operators=(*family.operators, *KNOWN)) for family in measured)
    with patch.object(certifying, "families", lambda: widened):
        yield


def measure(
    kind: str, name: str, build: Callable[[], nn.Module], folder: Path, victims: int, at: int
) -> dict[str, Any]:
    """One network's line."""
    images, labels = read_mnist(folder / "mnist", first=FIRST + victims * at, count=victims, classes=10)
    if kind == CHECK_ALONE:  # Half the pictures of little contrast and bright, as penalties do not expect.
        images = torch.where(torch.arange(victims)[:, None, None, None] % 2 == 0, images, 0.4 * images + 0.5)
    torch.manual_seed(7000 + at)
    model = build()
    found = recover(
        model, shared_gradients(model, images[:, None], labels[:, None]), SHAPE, batched=True, restarts=1,
        seed=at, exact="off",
    )  # fmt: skip
    good = [succeeded(found.inputs[v], images[v : v + 1]) for v in range(victims)]
    certificates = found.certificate
    pairs = zip(certificates, found.distance.tolist(), strict=True)
    close = [c.threshold is not None and d <= c.threshold for c, d in pairs]
    certified = [certificate.certified for certificate in certificates]
    left = [certificate.check.left for certificate in certificates if certificate.check is not None]
    line = {
        "network": name,
        "input is": kind,
        "victims": victims,
        "recovered": sum(good),
        "close": sum(close),
        "close and recovered": sum(a and b for a, b in zip(close, good, strict=True)),
        "certified": sum(certified),
        "false certificates": sum(a and not b for a, b in zip(certified, good, strict=True)),
        "least and most left": [min(left), max(left)] if left else None,
        "evaluations of a check": max(
            (c.check.evaluations for c in certificates if c.check is not None), default=0
        ),
        "evaluations of a search": int(found.evaluations.max()),
        "reason": next((c.reason for c in certificates if c.reason), ""),
    }
    print(json.dumps(line), flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--victims", type=int, default=10, help="of each network")
    parser.add_argument("--rounds", type=int, default=1, help="networks drawn of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    groups = {
        "not determined": BLIND,
        "not determined, strange operator": STRANGE,
        "determined": SEEN,
        CHECK_ALONE: FIXED,
    }
    for turn in range(options.rounds):
        for kind, networks in groups.items():
            for name, build in networks.items():
                if kind == CHECK_ALONE and turn > 0:
                    continue  # The directions are fixed, and the pictures not so many.
                at = len(lines)
                with fixed_weights_known() if kind == CHECK_ALONE else nullcontext():
                    lines.append(measure(kind, name, build, options.data, options.victims, at))
                content = {"benchmark": "identifiability", **machine(), "rounds": turn + 1, "networks": lines}
                FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    columns = ("network", "input is", "victims", "recovered", "close", "certified", "false certificates")
    print(table(columns, [tuple(str(line[column]) for column in columns) for line in lines]))


if __name__ == "__main__":
    main()
