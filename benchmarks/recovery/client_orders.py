"""What it costs not to know which input was in which of a client's mini-batches.

Four digits of four classes behind the update of a client that trains for two epochs of two mini-batches, with
momentum and weight decay. Every epoch takes them in one order, or the second in another; labels are given in
the client's order or in another, or searched together with the inputs.

    python -m benchmarks.recovery.client_orders [networks]
"""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.models import LeNet, initialise

RATE, SETTINGS = 0.05, {"momentum": 0.9, "weight_decay": 1e-4}
SAME, SHUFFLED = [(0, 1), (2, 3), (0, 1), (2, 3)], [(0, 1), (2, 3), (2, 0), (3, 1)]
OTHER = [1, 3, 0, 2]  # of the labels: no mini-batch keeps its own


def update(
    model: nn.Module, images: Tensor, labels: Tensor, batches: Sequence[Sequence[int]]
) -> list[Tensor]:
    """What the client shares."""
    client = copy.deepcopy(model)
    optimizer = torch.optim.SGD(client.parameters(), lr=RATE, **SETTINGS)
    for taken in batches:
        optimizer.zero_grad()
        F.cross_entropy(client(images[list(taken)]), labels[list(taken)]).backward()
        optimizer.step()
    pairs = zip(model.parameters(), client.parameters(), strict=True)
    return [(before - after).detach() / RATE for before, after in pairs]


def psnrs(found: Tensor, images: Tensor) -> list[float]:
    """Of each image, where found ones are dealt out to them as fits best; ``[B, 1, H, W]`` both."""
    errors = (found[:, None] - images[None]).square().flatten(2).mean(2)
    orders = itertools.permutations(range(len(images)))
    best = min(orders, key=lambda order: sum(float(errors[i, j]) for i, j in enumerate(order)))
    return [-10 * float(errors[i, j].log10()) for i, j in enumerate(best)]


def main(networks: int) -> None:
    """Print a row for each network and case: least and largest PSNR, distance."""
    warnings.simplefilter("ignore", UserWarning)
    digits = load_digits()
    training = sf.LocalTraining(rate=RATE, epochs=2, batch_size=2, **SETTINGS)
    for seed in range(networks):
        images = torch.as_tensor(digits.images[10 * seed : 10 * seed + 4] / 16, dtype=torch.float32)[:, None]
        images = F.interpolate(images, size=16, mode="bilinear", align_corners=False)
        labels = torch.as_tensor(digits.target[10 * seed : 10 * seed + 4])
        model = initialise(LeNet(image_size=16), "uniform", seed=seed)
        cases = {
            ("same", "in order"): (SAME, labels),
            ("same", "in another order"): (SAME, labels[OTHER]),
            ("same", "joint"): (SAME, "joint"),
            ("shuffled", "in order"): (SHUFFLED, labels),
            ("shuffled", "joint"): (SHUFFLED, "joint"),
        }
        for (epochs, known), (batches, given) in cases.items():
            target = update(model, images, labels, batches)
            found = sf.recover(
                model,
                target,
                (1, 16, 16),
                batch_size=4,
                labels=given,
                restarts=2,
                steps=200,
                local_training=training,
            )
            psnr = psnrs(found.inputs[0], images)
            words = f"PSNR {min(psnr):.1f} to {max(psnr):.1f} dB, distance {float(found.distance):.1e}"
            print(f"network {seed}: epochs {epochs}, labels {known}: {words}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
