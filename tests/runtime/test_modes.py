"""What is kept for the whole process is real, whatever surrounds the call that makes it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sapag_fast.runtime.modes import real_tensors
from sapag_fast.text.neighbours import orders


@pytest.mark.parametrize("mode", [lambda: torch.device("meta"), FakeTensorMode])
def test_tensors_of_no_mode(mode) -> None:
    with mode(), real_tensors():
        made = 2 * torch.arange(3)
    assert made.tolist() == [0, 2, 4]
    orders.cache_clear()
    with mode():
        orders(4)
    assert orders(4)[0].shape[1] == len(orders(4)[0].tolist()[0]) == 4


def test_tensors_of_no_transform() -> None:
    made = []

    def function(x: torch.Tensor) -> torch.Tensor:
        with real_tensors():
            made.append(2 * torch.arange(3))
        return x.sin().sum()

    torch.func.hessian(function)(torch.ones(2))
    assert made[0].tolist() == [0, 2, 4]
