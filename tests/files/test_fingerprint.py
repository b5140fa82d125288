"""What tells models apart."""

import pytest
import torch
from torch import nn

from sapag_fast.files.fingerprint import model_fingerprint, structure


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def test_what_tells_models_apart(model):
    before = model_fingerprint(model), structure(model)
    with torch.no_grad():
        model[0].bias += 1
    assert (model_fingerprint(model) == before[0], structure(model) == before[1]) == (False, True)
    model[1] = nn.Tanh()
    assert structure(model) != before[1]
    tanh = structure(model)
    model[0].weight.requires_grad_(False)
    assert structure(model) != tanh
