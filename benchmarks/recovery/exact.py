"""What arithmetic recovers of batches through perceptrons with ReLU, beside the search.

Images: MNIST's 1000..1099, on which nothing here was set; networks trained on 2000..3999. A victim is
a batch.

    python -m benchmarks.recovery.exact --data DATA [--victims 4]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import RESULTS
from benchmarks.report.markdown import table
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import shared_gradients, succeeded
from sapag_fast.clients.training import Descent, train_to
from sapag_fast.data import read_mnist
from sapag_fast.models import make_model
from sapag_fast.recovery.exact import recover_exact
from sapag_fast.recovery.recover import recover
from sapag_fast.reports.metrics import assign

SHAPE = (1, 28, 28)
FIRST = 1000
WIDTHS = (100, 200, 1000)
SIZES = (1, 2, 4, 8, 16, 25)
SEARCHED = (1, 2, 4)
EPOCHS = (0, 3)
FILE = RESULTS / "exact.json"


def psnr(found: Tensor, truth: Tensor) -> float:
    """The least of a batch's images, in dB; at most 160."""
    errors = (found - truth[assign(found, truth)]).square().flatten(1).mean(1)
    return float(-10 * errors.max().clamp(min=1e-16).log10())


def network(folder: Path, width: int, epochs: int) -> nn.Module:
    """A perceptron with two hidden layers of that width."""
    model = make_model("mlp", activation="relu", widths=(width, width), seed=width + epochs).eval()
    if epochs == 0:
        return model
    images, labels = read_mnist(folder / "mnist", first=2000, count=2000, classes=10)
    return train_to(model, images, labels, epochs=epochs, descent=Descent(seed=width))[0]


def measure(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """One line: V batches ``[V, B, *input_shape]``."""
    target = shared_gradients(model, images, labels)
    victims, size = labels.shape
    began = time.perf_counter()
    found = recover_exact(model, target, SHAPE, batched=True, batch_size=size)
    seconds = (time.perf_counter() - began) / victims
    exact = found.found.tolist()
    pairs = list(zip(found.inputs, images, strict=True))
    line = {
        "exact": sum(exact),
        "wrong": sum(e and not succeeded(mine, truth) for e, (mine, truth) in zip(exact, pairs, strict=True)),
        "least PSNR": min((psnr(*pair) for e, pair in zip(exact, pairs, strict=True) if e), default=None),
        "labels right": sum(
            e and sorted(mine) == sorted(truth)
            for e, mine, truth in zip(exact, found.labels.tolist(), labels.tolist(), strict=True)
        ),
        "seconds a victim": round(seconds, 2),
        "reasons": Counter(reason for reason in found.reason if reason),
    }
    return line | (searched(model, target, images) if size in SEARCHED else {})


def searched(model: nn.Module, target: Sequence[Tensor], images: Tensor) -> dict[str, Any]:
    """What the search finds of the same victims, with one restart."""
    began = time.perf_counter()
    size = images.shape[1]
    found = recover(model, target, SHAPE, batched=True, batch_size=size, restarts=1, exact="off")
    pairs = list(zip(found.inputs, images, strict=True))
    values = sorted(psnr(mine.clamp(0, 1), truth) for mine, truth in pairs)
    return {
        "search recovers": sum(succeeded(*pair) for pair in pairs),
        "search, median PSNR": values[len(values) // 2],
        "search, seconds a victim": round((time.perf_counter() - began) / len(images), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    parser.add_argument("--victims", type=int, default=4, help="of each line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.victims * max(SIZES)
    images, labels = read_mnist(options.data / "mnist", first=FIRST, count=count, classes=10)
    lines = []
    for epochs in EPOCHS:
        for width in WIDTHS:
            model = network(options.data, width, epochs)
            for size in SIZES:
                taken = options.victims * size
                batches = images[:taken].view(options.victims, size, *SHAPE)
                told = measure(model, batches, labels[:taken].view(options.victims, size))
                line = {"epochs": epochs, "width": width, "batch size": size, "victims": options.victims}
                lines.append(line | told)
                print(json.dumps(lines[-1]), flush=True)
                content = {"benchmark": "exact", **machine(), "lines": lines}
                FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    columns = ("epochs", "width", "batch size", "victims", "exact", "wrong", "least PSNR")
    print(table(columns, [tuple(str(line[column]) for column in columns) for line in lines]))


if __name__ == "__main__":
    main()
