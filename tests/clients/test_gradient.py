"""The client's gradient: of the trained parameters, in order, of whatever loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.clients.gradient import checked_loss, client_gradient
from sapag_fast.victim.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    net[0].bias.requires_grad_(False)
    net.spare = nn.Parameter(torch.ones(2))
    net.forward = lambda x: net[2](net[1](net[0](x)))
    return net


def test_trained_parameters_in_order_and_zeros_for_the_unused(model):
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 1])
    F.cross_entropy(model(x), y).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    gradient = client_gradient(model, x, y)
    assert len(gradient) == len(expected)
    assert all(torch.equal(g, e) for g, e in zip(gradient, expected, strict=True))
    assert any(not g.any() for g in gradient)


def test_a_loss_of_ones_own(model):
    x = torch.rand(3, 4)
    ours = client_gradient(model, x, torch.zeros(3, 2), F.mse_loss)
    assert not torch.equal(ours[1], client_gradient(model, x, torch.tensor([0, 1, 1]))[1])


def test_what_does_not_fit(model):
    with pytest.raises(ValueError, match="input shape 5: the model rejects it"):
        client_gradient(model, torch.rand(1, 5), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels: expected 0\.\.1, found 2"):
        client_gradient(model, torch.rand(1, 4), torch.tensor([2]), checked_loss(CrossEntropy()))


def test_a_checked_loss_is_the_loss_and_refuses_what_does_not_fit(model):
    x, y, two = torch.rand(3, 4), torch.tensor([0, 1, 1]), torch.rand(3, 2)
    weighted = CrossEntropy(0.1, (1.0, 2.0))
    expected = F.cross_entropy(model(x), y, torch.tensor([1.0, 2.0]), label_smoothing=0.1)
    assert torch.equal(checked_loss(weighted)(model(x), y), expected)
    assert torch.equal(checked_loss(MeanSquaredError())(model(x), two.double()), F.mse_loss(model(x), two))
    with pytest.raises(ValueError, match=r"labels must be numbers \[3, 2\]"):
        checked_loss(MeanSquaredError())(model(x), torch.rand(3, 1))
    with pytest.raises(ValueError, match=r"labels must be targets in 0\.\.1"):
        checked_loss(BinaryCrossEntropy())(model(x), 2 + two)
    with pytest.raises(ValueError, match="weight must be of 3 classes"):
        checked_loss(CrossEntropy(0.0, (1.0, 2.0, 3.0)))(model(x), y)
    with pytest.raises(ValueError, match="expected logits"):
        checked_loss(CrossEntropy())(model(x), torch.tensor([0, 1]))
