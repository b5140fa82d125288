"""What tells models apart."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.files.fingerprint import code_of, model_fingerprint, structure


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


class Acting(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x.tanh()


class Sigmoidal(Acting):
    def forward(self, x):
        return self.factor * x.sigmoid()


def test_structure_sees_the_code_of_modules_of_ones_own():
    Sigmoidal.__qualname__ = Acting.__qualname__  # as a class that was defined anew, in a notebook
    Sigmoidal.__name__ = Acting.__name__
    assert structure(nn.Sequential(Acting(1))) != structure(nn.Sequential(Sigmoidal(1)))
    assert structure(nn.Sequential(Acting(1))) == structure(nn.Sequential(Acting(1)))
    assert structure(nn.Sequential(Acting(1))) != structure(nn.Sequential(Acting(2)))


def smoothed(amount):
    return lambda output, labels: F.cross_entropy(output, labels, label_smoothing=amount)


class Loss:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, output, labels):
        return self.weight * F.cross_entropy(output, labels)


def test_functions_are_told_apart_by_code_and_by_what_they_hold():
    different = [
        F.cross_entropy,
        F.mse_loss,
        partial(F.cross_entropy, label_smoothing=0.1),
        partial(F.cross_entropy, label_smoothing=0.2),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        smoothed(0.1),
        smoothed(0.2),
        Loss(1.0),
        Loss(2.0),
        Loss(2.0).__call__,
        lambda output, labels: output.sum(),
        lambda output, labels: output.mean(),
        lambda output, labels, power=2: output.mean(),
        lambda output, labels, power=3: output.mean(),
    ]
    told = [code_of(function) for function in different]
    assert len(set(told)) == len(told)
    assert code_of(smoothed(0.1)) == told[7]
    assert code_of(Loss(1.0)) == told[9]
    assert "0x" not in "".join(told)


def test_modules_that_hold_each_other_have_a_structure():
    parent = nn.Sequential(Acting(1))
    parent[0].parents = [parent]
    assert structure(parent) == structure(parent)
    assert code_of(parent) == code_of(parent)


def test_code_is_told_in_the_same_words_by_every_process():
    program = (
        "from sapag_fast.files.fingerprint import code_of\n"
        "print(code_of(lambda a: a in {'b', 'c', 'd', ('e', 1.5)}))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": str(seed)},
            check=True, capture_output=True,
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(told) == 1
