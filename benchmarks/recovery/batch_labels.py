"""Labels of batches of images behind one gradient: ours beside instance-wise restoration (iLRG).

LeNets, untrained and trained on the bundled digits; batches of digits that they were not trained
on, labels as they fall. iLRG (Ma et al. 2023) takes for each class the features that its row of the weight's
gradient over its entry of the bias's gives, and their softmax output for its images' mean output; counts then
solve a linear system by the pseudo-inverse. Counts are rounded alike.

*exact*: every count is right. *images*: the share of images whose labels are among those found. *certain*:
batches whose labels are called ``inferred``, and how many of these are wrong.

    python -m benchmarks.recovery.batch_labels
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.report.label_tables import label_table
from benchmarks.shared.interleaved import machine
from sapag_fast import data
from sapag_fast.clients.training import train_to
from sapag_fast.models import LeNet, make_model
from sapag_fast.victim.label_counts import label_counts
from sapag_fast.victim.labels import infer_labels
from sapag_fast.victim.model import VictimModel

SIZES = (2, 4, 8, 16, 64, 256)
TRAINED_ON = 1200
SHAPE = (1, 28, 28)
FILE = RESULTS / "batch_labels.json"


@dataclass
class Score:
    """What one way has come to so far, of as many batches as were counted."""

    exact: int = 0
    images: float = 0.0
    certain: int = 0
    certain_wrong: int = 0

    def add(self, found: Tensor, true: Tensor, *, certain: bool = False) -> None:
        """Count a batch, given counts of each class."""
        right = bool((found == true).all())
        self.exact += right
        self.images += float(torch.minimum(found, true).sum() / true.sum())
        self.certain += certain
        self.certain_wrong += certain and not right


def instance_wise(model: nn.Module, gradient: Sequence[Tensor], batch_size: int) -> Tensor:
    """Counts of each class by iLRG."""
    last = model.get_submodule("fc")
    matrix, vector = (parameter.detach().double() for parameter in last.parameters())
    weight, bias = (entry.double() for entry in gradient[-2:])
    classes = len(bias)
    likely = (weight / bias[:, None] @ matrix.t() + vector).softmax(-1)
    system = torch.cat((likely.t() - torch.eye(classes).double(), torch.ones(1, classes).double()))
    counts = torch.linalg.pinv(system) @ torch.cat((batch_size * bias, torch.tensor([float(batch_size)])))
    counts = counts.clamp(min=0.0)
    share = counts / counts.sum()
    return label_counts(bias, batch_size, share + bias)


def measured(model: nn.Module, batch_size: int, batches: int, seed: int) -> dict[str, Score]:
    """Infer the labels of so many batches in both ways."""
    images, labels = (part[TRAINED_ON:] for part in data.digits())
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(64, *SHAPE, generator=generator)
    scores = {"ours": Score(), "iLRG": Score()}
    for _ in range(batches):
        rows = torch.randint(0, len(labels), (batch_size,), generator=generator)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        true = torch.bincount(labels[rows], minlength=10)
        target = [entry[None] for entry in gradient]
        known = infer_labels(VictimModel(model), target, batch_size=batch_size, noise=noise)
        counts = torch.bincount(known.labels[0], minlength=10)
        scores["ours"].add(counts, true, certain=known.source[0] == "inferred")
        scores["iLRG"].add(instance_wise(model, gradient, batch_size), true)
    return scores


def networks(epochs: Sequence[int]) -> dict[str, Callable[[], nn.Module]]:
    """Networks by what they are called."""
    images, labels = (part[:TRAINED_ON] for part in data.digits())

    def trained(count: int) -> nn.Module:
        return train_to(make_model("lenet", image_size=28, seed=3), images, labels, epochs=count)[0]

    def relu() -> nn.Module:
        torch.manual_seed(0)
        return train_to(LeNet(image_size=28, activation=nn.ReLU), images, labels, epochs=2)[0]

    named: dict[str, Callable[[], nn.Module]] = {f"{n} epochs": lambda n=n: trained(n) for n in epochs}
    return named | {"ReLU, 2 epochs": relu}


def main() -> None:
    """Write the result, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs="*", default=[0, 30])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = []
    for name, make in networks(options.epochs).items():
        model = make()
        for size in SIZES:
            scores = measured(model, size, options.batches, options.seed)
            counted = {way: asdict(score) for way, score in scores.items()}
            lines.append({"network": name, "batch size": size, "batches": options.batches, **counted})
            print(json.dumps(lines[-1]), flush=True)
    FILE.write_text(json.dumps({"benchmark": "batch_labels", **machine(), "lines": lines}, indent=1) + "\n")
    print(label_table(lines))


if __name__ == "__main__":
    main()
