"""Networks with attention on the CPU, in breaching's loop: fused operator has no second derivative."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import sapag_fast as sf
from sapag_fast.integrations.attention import PLAIN_ATTENTION
from sapag_fast.integrations.breaching_base import Objective
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.victim.searchable import NoSecondDerivativeError


class _Sentences(nn.Module):
    """A small encoder on embedded words, whose attention goes by torch's fused operator."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        return self.head(self.encoder(words).mean(1))


class _Theirs(nn.Module):
    """What `Objective` needs of breaching's ``GradientLoss``."""

    local_hyperparams = None
    cfg_impl = SimpleNamespace(mixed_precision=False)
    loss_fn = staticmethod(F.cross_entropy)

    def forward(self, model, gradient_data, candidate, labels):
        loss = F.cross_entropy(model(candidate), labels)
        gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return self.gradient_based_loss(gradient, gradient_data), loss.detach()


class _Own(Objective, _Theirs):
    def make(self, count):
        return sf.GradientDistance("sapag")


def _victim():
    torch.manual_seed(0)
    model = _Sentences()
    words, labels = torch.randn(1, 5, 8), torch.tensor([1])
    target = torch.autograd.grad(F.cross_entropy(model(words), labels), list(model.parameters()))
    return model, [g.detach() for g in target], labels, torch.randn(1, 5, 8)


def _slope(evaluate, start):
    candidate = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(evaluate(candidate), candidate)
    return slope


def _plain_slope(model, target, labels, start):
    def evaluate(candidate):
        with sdpa_kernel(SDPBackend.MATH):
            loss = F.cross_entropy(model(candidate), labels)
            dummy = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return sf.distance(dummy, target)

    return _slope(evaluate, start)


@pytest.mark.parametrize("distance_only", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_objectives_go_through_attention(distance_only, training):
    model, target, labels, start = _victim()
    model.train(training)
    objective = _Own(type="sapag")
    objective.distance_only = distance_only
    before = torch.backends.cuda.flash_sdp_enabled()
    slope = _slope(lambda candidate: objective(model, target, candidate, labels)[0], start)
    assert torch.backends.cuda.flash_sdp_enabled() == before
    assert torch.allclose(slope, _plain_slope(model, target, labels, start), rtol=1e-3, atol=1e-6)
    again = _slope(lambda candidate: objective(model, target, candidate, labels)[0], start)
    assert torch.equal(again, slope)


def test_the_switches_are_given_back():
    def found():
        return [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()]

    before = found()
    with PLAIN_ATTENTION:
        with PLAIN_ATTENTION:
            assert found() == [False, True]
        assert found() == [False, True]
    assert found() == before
    with pytest.raises(ZeroDivisionError), PLAIN_ATTENTION:
        1 / 0  # noqa: B018
    assert found() == before
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with PLAIN_ATTENTION:
            assert found() == [False, True]
        assert found() == [True, False]
    assert found() == before


class _Fixed(nn.Module):
    """Calls the fused operator itself, past all switches."""

    def __init__(self):
        super().__init__()
        self.mapped, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, words):
        mapped = self.mapped(words)[:, None]
        attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(mapped, mapped, mapped)[0]
        return self.head(attended[:, 0].mean(1))


def test_a_layer_without_second_derivative_is_named():
    torch.manual_seed(0)
    model, labels, candidate = _Fixed(), torch.tensor([1]), torch.rand(1, 5, 8).requires_grad_()
    loss = F.cross_entropy(model(torch.rand(1, 5, 8)), labels)
    target = [g.detach() for g in torch.autograd.grad(loss, list(model.parameters()))]
    words = r"model: a layer of it has no second derivative, which the search needs \(.*flash_attention"
    with pytest.raises(NoSecondDerivativeError, match=words):
        CandidateDistance(model, F.cross_entropy, sf.GradientDistance(), target, candidate, labels)
    with pytest.raises(NoSecondDerivativeError, match=words):
        _Own(type="sapag")(model, target, candidate, labels)
