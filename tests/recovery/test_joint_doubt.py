"""Joint labels are doubted where the search has not come to the target."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.recovery.joint_labels import UNCONFIRMED

SHAPE = (1, 8, 8)


def network(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, outputs))


def searched(model, loss, function, truth, **options):
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    target = torch.autograd.grad(function(model(x), truth), list(model.parameters()))
    options = {"loss_fn": loss, "labels": "joint", "exact": "off", "steps": 200} | options
    return sf.recover(model, target, SHAPE, **options)


@pytest.mark.parametrize("truth", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_label_of_one_output_is_doubted(truth, seed):
    label = torch.tensor([[truth]])
    found = searched(network(1), "bce", F.binary_cross_entropy_with_logits, label, seed=seed)
    right = found.labels[0].tolist() == label.tolist()
    assert found.label_reason[0] == ("" if right else UNCONFIRMED)


@pytest.mark.parametrize("truth", [-3.0, 0.3, 5.0])
def test_so_is_a_wrong_number(truth):
    label = torch.tensor([[truth]])
    found = searched(network(1), "mse", F.mse_loss, label)
    right = torch.allclose(found.labels[0], label, atol=0.05)
    assert found.label_reason[0] == ("" if right else UNCONFIRMED)


def test_classes_that_were_found_are_not_doubted():
    label = torch.tensor([2])
    found = searched(network(5), None, F.cross_entropy, label)
    assert found.labels.flatten().tolist() == [2]
    assert found.label_reason == ("",)
    begun = searched(network(5), None, F.cross_entropy, label, steps=1)
    assert begun.label_reason == (UNCONFIRMED,)
