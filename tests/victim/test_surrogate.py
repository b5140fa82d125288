"""The surrogate's activations, its schedule, and its gradients in every way of matching."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.models import ConvNet
from sapag_fast.runtime.denormals import flushed_denormals
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem
from sapag_fast.victim.surrogate import SmoothActivations, Surrogate

BETA = 3.0


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softplus(z, b):
    return torch.log1p(torch.exp(-(b * z).abs())) / b + z.clamp(min=0)


def _expected(z):
    b = BETA / z.std(correction=0)
    bent = _softplus(z, b)
    return {
        "relu": bent,
        "leaky": 0.2 * z + 0.8 * bent,
        "relu6": _softplus(z, b) - _softplus(z - 6, b),
        "hardtanh": -0.5 + _softplus(z + 0.5, b) - _softplus(z - 2, b),
    }


CALLS = {
    "module": ("relu", nn.ReLU()),
    "module in place": ("relu", nn.ReLU(inplace=True)),
    "F.relu": ("relu", F.relu),
    "by keyword": ("relu", lambda z: F.relu(input=z)),
    "F.relu in place": ("relu", lambda z: F.relu(z, inplace=True)),
    "F.relu_": ("relu", F.relu_),
    "torch.relu": ("relu", torch.relu),
    "torch.relu_": ("relu", torch.relu_),
    "method": ("relu", lambda z: z.relu()),
    "method in place": ("relu", lambda z: z.relu_()),
    "leaky module": ("leaky", nn.LeakyReLU(0.2)),
    "F.leaky_relu": ("leaky", lambda z: F.leaky_relu(z, 0.2)),
    "F.leaky_relu_": ("leaky", lambda z: F.leaky_relu_(z, 0.2)),
    "relu6 module": ("relu6", nn.ReLU6()),
    "F.relu6": ("relu6", F.relu6),
    "hardtanh module": ("hardtanh", nn.Hardtanh(-0.5, 2.0)),
    "F.hardtanh_": ("hardtanh", lambda z: F.hardtanh_(z, -0.5, 2.0)),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_replaced(call):
    name, function = CALLS[call]
    z = 3 * _draw(4, 7)
    given = z.clone()
    with SmoothActivations(torch.tensor(BETA)):
        found = function(given)
    # softplus is linear from 20 on
    torch.testing.assert_close(found, _expected(z)[name], rtol=0, atol=1e-8)
    in_place = "place" in call or call.endswith("_")
    assert torch.equal(given, found if in_place else z)
    assert (function(z.clone()) - found).abs().max() > 1e-3  # outside of it all is as before


def test_in_place_has_the_same_derivatives():
    z = _draw(3, 5).requires_grad_()
    slopes = []
    for function in (F.relu, F.relu_):
        with SmoothActivations(torch.tensor(BETA)):
            (first,) = torch.autograd.grad(function(2 * z).square().sum(), z, create_graph=True)
        slopes.append((first, *torch.autograd.grad(first.square().sum(), z)))
    for plain, in_place in zip(*slopes, strict=True):
        torch.testing.assert_close(plain, in_place)


@pytest.mark.parametrize("call", ["module", "method in place", "leaky module", "relu6 module"])
def test_second_derivatives_hold_b_constant(call, monkeypatch):
    function = CALLS[call][1]
    z = _draw(2, 6).requires_grad_()
    b = SmoothActivations(torch.tensor(BETA)).steepness(z)
    monkeypatch.setattr(SmoothActivations, "steepness", lambda self, z: b)

    def smooth(z):
        with SmoothActivations(torch.tensor(BETA)):
            return function(z.clone())

    assert torch.autograd.gradcheck(smooth, z)
    assert torch.autograd.gradgradcheck(smooth, z)
    monkeypatch.undo()
    first = torch.autograd.grad(smooth(z).sum(), z)[0]
    monkeypatch.setattr(SmoothActivations, "steepness", lambda self, z: b)
    assert torch.equal(first, torch.autograd.grad(smooth(z).sum(), z)[0])


def test_b_follows_the_deviation_of_each_recovery():
    z = _draw(3, 2, 4, 5, 5) * torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64).view(3, 1, 1, 1, 1)
    beta = torch.tensor([2.0, 5.0, 50.0], dtype=torch.float64)
    b = SmoothActivations(beta).steepness((z + 7.0).flatten(0, 1))
    assert b.shape == (6, 1, 1, 1)
    for row in range(3):
        within = z[row] - z[row].mean((0, 2, 3), keepdim=True)
        expected = (beta[row] / within.square().mean().sqrt()).expand(2)
        torch.testing.assert_close(b.flatten()[2 * row : 2 * row + 2], expected)
        torch.testing.assert_close(SmoothActivations(beta[row]).steepness(z[row]), expected[0])
    rows = SmoothActivations(beta).steepness(z[:, 0, :, 0, 0])
    torch.testing.assert_close(rows[:, 0], beta / z[:, 0, :, 0, 0].std(1, correction=0))


def test_b_where_there_is_no_deviation():
    mode = SmoothActivations(torch.tensor([2.0, 5.0, 7.0], dtype=torch.float64))
    z = torch.stack((torch.full((4,), 3.0), torch.tensor([0.0, 1.0, torch.nan, 1.0]), torch.zeros(4)))
    b = mode.steepness(z.double()).flatten()
    assert b[0] == 2.0
    assert b[1].isnan()
    assert b[2] == 7.0
    assert SmoothActivations(torch.tensor(2.0)).steepness(torch.tensor(4.0)) == 2.0
    with pytest.raises(ValueError, match=r"shape \[4, 2\] does not hold 3 recoveries"):
        mode.steepness(torch.zeros(4, 2))


def test_schedule():
    surrogate = Surrogate(beta_first=2.0, beta_last=32.0, stages=5, until=0.8)
    assert surrogate.betas == pytest.approx((2.0, 4.0, 8.0, 16.0, 32.0))
    assert surrogate.borders(100) == (20, 40, 60, 80)
    found = surrogate.sharpness(torch.tensor([0, 19, 20, 79, 80, 99]), 100)
    assert found.tolist() == pytest.approx([2.0, 2.0, 4.0, 16.0, 32.0, 32.0])
    alone = Surrogate(stages=1, beta_last=9.0)
    assert alone.borders(100) == ()
    assert alone.sharpness(torch.tensor([0, 99]), 100).tolist() == [9.0, 9.0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("beta_first", 0.0), ("beta_last", float("inf")), ("stages", 0), ("stages", 2.5), ("until", 1.1)],
)
def test_a_schedule_that_is_none(option, value):
    with pytest.raises((ValueError, TypeError), match=f"surrogate: {option}"):
        Surrogate(**{option: value})


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.middle, self.last = nn.Linear(3 * 36, 7), nn.Linear(7, 4)

    def forward(self, x):
        x = F.leaky_relu(self.second(torch.relu(self.first(x))), 0.1)
        return self.last(F.relu6(self.middle(x.flatten(1)).mul(5.0)).relu_())


def _modules():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(3 * 36, 5),
        nn.ReLU(),
        nn.Linear(5, 4),
    )


def _problem(network, joint=False):
    torch.manual_seed(0)
    model = network().double()
    g = torch.Generator().manual_seed(1)
    draw = {"generator": g, "dtype": torch.float64}
    truth, labels = torch.rand(2, 2, 1, 6, 6, **draw), torch.randint(0, 4, (2, 2), generator=g)
    rows = [_gradient(model, x, y) for x, y in zip(truth, labels, strict=True)]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    problem = Problem(
        VictimModel(model), F.cross_entropy, GradientDistance(), target, restarts=2, joint=joint
    )
    known = torch.randn(4, 2, 4, **draw) if joint else labels.repeat_interleave(2, 0)
    return problem, torch.rand(4, 2, 1, 6, 6, **draw), known


def _gradient(model, x, y):
    model = copy.deepcopy(model)
    return torch.autograd.grad(F.cross_entropy(model(x), y), tuple(model.parameters()))


SHARP = torch.tensor([2.0, 100.0, 7.0, 20.0], dtype=torch.float64)


def _close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("network", [Functional, _modules])
def test_all_ways_of_matching_agree(network, joint):
    problem, inputs, labels = _problem(network, joint)
    before = copy.deepcopy(problem.model.state_dict())
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels, SHARP)
    assert (expected[0] > 0).all()
    for way in (VmapMatching, ExplicitMatching):
        _close(way(problem).value_and_gradient(inputs, labels, SHARP), expected)
    # A recovery's values are its own, whatever the others' stages.
    other = SHARP.roll(1)
    other[2] = SHARP[2]
    again = VmapMatching(problem).value_and_gradient(inputs, labels, other)
    torch.testing.assert_close(again[0][2], expected[0][2], rtol=1e-10, atol=0)
    assert (again[0] != expected[0])[[0, 1, 3]].all()
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    found = choose_matching(problem, inputs, labels, sharpness=SHARP)
    assert found.mode == "explicit", found.reason


def test_the_gradient_is_that_of_a_network_with_softplus():
    problem, inputs, labels = _problem(lambda: ConvNet(channels=1, image_size=6, classes=4))
    found = SequentialMatching(problem).value_and_gradient(inputs, labels, SHARP)
    for row in range(4):
        smooth = copy.deepcopy(problem.model)
        x = inputs[row]
        for index, module in enumerate(smooth.body):
            if isinstance(module, nn.ReLU):
                b = SmoothActivations(SHARP[row]).steepness(x).item()
                module = smooth.body[index] = nn.Softplus(beta=b)
            x = module(x).detach()
        plain = Problem(
            VictimModel(smooth),
            F.cross_entropy,
            problem.distance,
            [t[row // 2 :][:1] for t in problem.targets],
        )
        expected = SequentialMatching(plain).value_and_gradient(inputs[row : row + 1], labels[row : row + 1])
        _close([part[row : row + 1] for part in found[:2]], expected[:2])


def test_explicit_mode_gives_way_where_recoveries_cannot_be_told_apart():
    class Mixed(nn.Module):
        """Its first dimension holds channels, not recoveries."""

        def __init__(self):
            super().__init__()
            self.last = nn.Linear(36, 4)

        def forward(self, x):
            return self.last(F.relu((x.flatten(1) - 0.5).mT).mT)

    problem, inputs, labels = _problem(Mixed)
    matching = choose_matching(problem, inputs, labels, sharpness=SHARP).matching
    assert matching.mode == "vmap"
    _close(
        matching.value_and_gradient(inputs, labels, SHARP),
        SequentialMatching(problem).value_and_gradient(inputs, labels, SHARP),
    )


def _flushes():
    return sys.float_info.min / 2.0 == 0.0


def test_denormals_are_given_back():
    assert not _flushes()
    with flushed_denormals(True):
        flushed = _flushes()
        with flushed_denormals(True):
            pass
        assert _flushes() == flushed
    assert not _flushes()
    with flushed_denormals(False):
        assert not _flushes()
    assert flushed == torch.set_flush_denormal(False)
