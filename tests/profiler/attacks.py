"""Small models, one for each way in which recoveries are batched, and attacks on them."""

import torch
from torch import nn

from sapag_fast.profiler.preparation import prepare_profile
from sapag_fast.search.options import SearchOptions

SHAPE = (1, 8, 8)


def small():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 10)
    )


class Scaled(nn.Module):
    """It looks at its batch, which explicit mode refuses; vmap bears it."""

    def __init__(self):
        super().__init__()
        self.net = small()
        self.gain = nn.Parameter(torch.ones(10))

    def forward(self, x):
        return self.gain * self.net(x - x.mean())


class Stubborn(Scaled):
    """vmap does not bear it: it asks for a number."""

    def forward(self, x):
        return self.gain * self.net(x) * (1.0 if x.sum().item() < 1e9 else 2.0)


def scaled():
    torch.manual_seed(3)
    return Scaled()


def stubborn():
    torch.manual_seed(3)
    return Stubborn()


MODES = {"single": (small, 1), "explicit": (small, 4), "vmap": (scaled, 4), "sequential": (stubborn, 3)}
"""Model and R, by mode."""


def prepared(model, **overrides):
    given = {"loss_fn": None, "batch_size": 1, "labels": None, "device": None}
    return prepare_profile(model, SHAPE, options=SearchOptions(**overrides), **given)
