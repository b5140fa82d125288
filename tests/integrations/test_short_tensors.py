"""Cosines by tensor where some tensors are tiny, as key biases are, or zero: each tool's own rule."""

from types import SimpleNamespace

import pytest
import torch
from tool_formulas import gradient_pair
from torch.nn import functional as F

from sapag_fast.integrations import lamp
from sapag_fast.integrations.inverting_gradients import reconstruction_costs

NORMS = [1e-6, 1e-9, 1.1e-10, 9e-11, 1e-12, 1e-15, 1e-20]
COS = SimpleNamespace(loss="cos")


def _with_norms(dummy_norm, target_norm):
    """A pair whose second and last tensors are as long as that, each in another direction."""
    dummy, target = gradient_pair()
    for position in (1, 5):
        with torch.no_grad():
            dummy[position].mul_(dummy_norm / dummy[position].norm())
            target[position].mul_(target_norm / target[position].norm())
    return dummy, target


def _lamp(dummy, target):
    """LAMP's formula."""
    cosines = [(a * g).sum() / (a.norm() * g.norm()) for a, g in zip(dummy, target, strict=True)]
    return sum(1 - cosine for cosine in cosines) / len(cosines)


def _inverting(dummy, target):
    """The formula of Inverting Gradients' simlocal."""
    pairs = zip(dummy, target, strict=True)
    return sum(1 - F.cosine_similarity(a.flatten(), g.flatten(), 0, 1e-10) for a, g in pairs)


def _check(value, formula, dummy, target):
    """Value and each tensor's derivative are those of the formula in float64."""
    wide = [g.detach().double().requires_grad_() for g in dummy]
    expected = formula(wide, [g.double() for g in target])
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    slopes, true = torch.autograd.grad(value, dummy), torch.autograd.grad(expected, wide)
    for slope, exactly in zip(slopes, true, strict=True):
        assert (slope.double() - exactly).norm() <= 1e-5 * exactly.norm()


@pytest.mark.parametrize("norm", NORMS)
def test_lamp_gives_short_tensors_their_cosine(norm):
    """A floor of 1e-10 on norms took key biases' cosines for 0, and their derivatives away."""
    for norms in ((norm, norm), (1.0, norm), (norm, 1.0)):
        dummy, target = _with_norms(*norms)
        _check(lamp.grad_dist(target, dummy, COS), _lamp, dummy, target)


@pytest.mark.parametrize("norm", NORMS)
def test_inverting_gradients_counts_short_tensors_as_the_tool_does(norm):
    for norms in ((norm, norm), (1.0, norm), (norm, 1.0)):
        dummy, target = _with_norms(*norms)
        _check(reconstruction_costs([dummy], target, "simlocal"), _inverting, dummy, target)


@pytest.mark.parametrize("which", ["dummy", "target", "both"])
def test_zeros_count_one_and_have_no_derivative(which):
    dummy, target = gradient_pair()
    with torch.no_grad():
        if which != "target":
            dummy[1].zero_()
        if which != "dummy":
            target[1].zero_()
    others = [i for i in range(len(target)) if i != 1]
    rest = _lamp([dummy[i] for i in others], [target[i] for i in others])
    value = lamp.grad_dist(target, dummy, COS)
    assert value.item() == pytest.approx((len(others) * rest.item() + 1) / len(target), rel=1e-5)
    slopes = torch.autograd.grad(value, dummy)
    assert all(slope.isfinite().all() for slope in slopes)
    assert not slopes[1].any()
    costs = reconstruction_costs([dummy], target, "simlocal")
    _check(costs, _inverting, dummy, target) if which == "target" else None
    assert costs.item() == pytest.approx(len(others) * rest.item() + 1, rel=1e-5)


def test_an_attention_network_s_loop_goes_lamp_s_way():
    """Key biases' gradients are rounding: 60 steps from one start end where LAMP's own formula ends."""
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    head = torch.nn.Linear(8, 3)
    parameters = [*attention.parameters(), *head.parameters()]
    words, label = torch.randn(1, 5, 8), torch.tensor([1])

    def gradient(inputs, create_graph):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            output = head(attention(inputs, inputs, inputs, need_weights=False)[0].mean(1))
        loss = F.cross_entropy(output, label)
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    def split(gradients):
        """The keys' bias as a tensor of its own, as BERT has it."""
        whole = list(gradients)
        return [*whole[:1], *whole[1].chunk(3), *whole[2:]]

    target = [g.contiguous() for g in split(gradient(words, False))]
    assert target[2].norm() < 1e-6
    found = []
    for formula in (_lamp, lambda d, t: lamp.grad_dist(t, d, COS)):
        guess = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
        guess = guess.requires_grad_()
        optimizer = torch.optim.SGD([guess], 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            # The keys' own rounding would make any two runs part: theirs is given to both.
            dummy = [
                g if i != 2 else target[2] * 1.5 + 0 * g for i, g in enumerate(split(gradient(guess, True)))
            ]
            formula(dummy, target).backward()
            optimizer.step()
        found.append(guess.detach())
    assert (found[0] - found[1]).norm() < 1e-3 * (found[0] - words).norm()
