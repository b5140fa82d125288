"""The smallest network that a recovery makes sense for: what the suite's audits and recoveries attack."""

from __future__ import annotations

from pathlib import Path

from torch import nn

REFERENCE = f"{Path(__file__).resolve()}:make"
INPUT_SHAPE = (1, 4, 4)


def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 4))
