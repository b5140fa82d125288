"""A search does not depend on the unit of its target."""

import pytest
import torch
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.models import LeNet


@pytest.mark.parametrize("unit", [1e30, 1e-30])
def test_a_target_in_another_unit_is_recovered_as_well(unit):
    torch.manual_seed(0)
    model = LeNet()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    loss = F.cross_entropy(model(torch.rand(1, 1, 28, 28)), torch.tensor([3]))
    target = torch.autograd.grad(loss, list(model.parameters()))
    options = {"steps": 12, "seed": 0, "labels": torch.tensor([3])}
    usual = sf.recover(model, target, (1, 28, 28), **options).distance
    other = sf.recover(model, [unit * t for t in target], (1, 28, 28), **options).distance
    assert torch.allclose(other, usual, rtol=0.2)
