"""The surrogate's activations, its schedule, and attacks through it, in every way of matching."""

import copy
import dataclasses
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast import recover
from sapag_fast.attack import run_attack
from sapag_fast.basis import make_basis
from sapag_fast.checkpoint import Checkpoint
from sapag_fast.explicit import ExplicitMatching
from sapag_fast.gradient_distance import GradientDistance
from sapag_fast.matching import SequentialMatching, VmapMatching, choose_matching
from sapag_fast.models import ConvNet, initialise
from sapag_fast.optimizers import LBFGS
from sapag_fast.problem import Problem
from sapag_fast.recipes import RECIPES, choose_recipe
from sapag_fast.surrogate import SmoothActivations, Surrogate, flushed_denormals

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
    with pytest.raises(ValueError, match=f"surrogate: {option}"):
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
    problem = Problem(model, F.cross_entropy, GradientDistance(), target, restarts=2, joint=joint)
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
            smooth, F.cross_entropy, problem.distance, [t[row // 2 :][:1] for t in problem.targets]
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
    matching = choose_matching(problem, inputs, labels, sharpness=SHARP)
    assert matching.mode == "vmap"
    _close(
        matching.value_and_gradient(inputs, labels, SHARP),
        SequentialMatching(problem).value_and_gradient(inputs, labels, SHARP),
    )


STEPS, SIZE = 40, 5
STAGED = Surrogate(1.0, 16.0, 5, 0.8)
RECIPE = dataclasses.replace(
    RECIPES["smooth"], box=0.0, tv=0.0, lr=0.5, history=5, surrogate=STAGED, line_search="armijo"
)


class Bowls:
    """A bowl around each victim's centre that moves from stage to stage, above a floor that rises."""

    mode, reason = "bowls", ""

    def __init__(self, victims):
        self.centres = _draw(victims, SIZE * SIZE)
        self.seen = []

    def retarget(self, victims):
        self.victims = victims

    def value_and_gradient(self, inputs, labels, sharpness):
        self.seen.append(sharpness.tolist())
        away = inputs.flatten(1) - self.centres[self.victims] * (1 + 1 / sharpness[:, None])
        scale = torch.linspace(1, 20, away.shape[1], dtype=away.dtype)
        value = (scale * away.square()).sum(1) + sharpness
        return value, (2 * scale * away).view_as(inputs), None


def _attack(matching, **options):
    starts = _draw(6, 1, 1, SIZE, SIZE, seed=1)
    options = {"recipe": RECIPE, "steps": STEPS, "bounds": None, "restarts": 2} | options
    basis = make_basis("pixel", (1, SIZE, SIZE), dtype=torch.float64)
    return run_attack(matching, starts, torch.zeros(6, 1, dtype=torch.long), basis=basis, **options)


def test_each_search_has_its_own_age():
    matching = Bowls(3)
    together = _attack(matching)
    ages = torch.arange(STEPS)
    assert [row[0] for row in matching.seen] == pytest.approx(STAGED.sharpness(ages, STEPS).tolist())
    for rows in (1, 4):
        found = _attack(Bowls(3), rows=rows, check_every=7)
        torch.testing.assert_close(found.inputs, together.inputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.history, together.history, rtol=1e-9, atol=1e-12)


def test_only_the_last_stage_counts_in_the_end():
    matching = Bowls(3)
    found = _attack(matching)
    assert found.history.min() < 5
    assert (found.distance >= 16).all()
    assert (found.distance < 16.01).all()
    matching.retarget(torch.arange(6) // 2)
    last = torch.full((6,), 16.0, dtype=torch.float64)
    torch.testing.assert_close(matching.value_and_gradient(found.inputs, None, last)[0], found.distance)


def test_a_blunt_stage_solves_no_victim():
    recipe = dataclasses.replace(RECIPE, stop_distance=15.0)
    assert (_attack(Bowls(3), recipe=recipe).evaluations == STEPS).all()
    recipe = dataclasses.replace(RECIPE, stop_distance=17.0)
    found = _attack(Bowls(3), recipe=recipe, rows=3, check_every=1)
    assert ((found.evaluations.view(3, 2)[:, 0] > 32) & (found.evaluations.view(3, 2)[:, 0] < STEPS)).all()


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_a_resumed_search_keeps_its_curvature_alone(backend):
    scale = torch.linspace(1, 9, 8, dtype=torch.float64)
    optimizer = LBFGS(2, 8, line_search="armijo", dtype=torch.float64, backend=backend)
    x, centre = _draw(2, 8), torch.zeros(2, 8, dtype=torch.float64)

    def step():
        gradient = scale * (x - centre)
        found = optimizer.step(gradient, (gradient * (x - centre)).sum(1) / 2)
        x.add_(found)

    for _ in range(30):
        step()
    assert x.abs().max() < 1e-6
    centre[1] = 5.0  # its objective rises far above what the search has seen
    optimizer.resume(torch.tensor([1]))
    before = x.clone()
    step()
    assert optimizer.accepted.all()
    # Nearly Newton's step at once, where a fresh start would go one step of length 1 in all.
    torch.testing.assert_close(x[1], centre[1], rtol=0, atol=1.0)
    assert (x[0] - before[0]).abs().max() < 1e-6
    for _ in range(10):
        step()
    torch.testing.assert_close(x, centre, rtol=0, atol=1e-4)


def _victim(channels=3, size=16):
    model = initialise(ConvNet(channels=channels, image_size=size), "default", seed=1)
    grid = torch.linspace(0, 3, size)
    wave = torch.stack([(grid * (c + 1)).sin()[:, None] * (grid + c).cos() for c in range(channels)])
    image, label = (0.5 + 0.4 * wave)[None], torch.tensor([2])
    return model, image, torch.autograd.grad(F.cross_entropy(model(image), label), tuple(model.parameters()))


def test_a_relu_network_is_recovered_through_the_surrogate():
    model, image, target = _victim()
    before = copy.deepcopy(model.state_dict())
    result = recover(model, target, (3, 16, 16), steps=150)
    assert result.recipe.name == "relu"
    assert result.recipe.basis == "dct"
    assert result.recipe.surrogate == Surrogate()
    ours = (result.inputs[0] - image).square().mean()
    bare = recover(model, target, (3, 16, 16), steps=150, surrogate=False)
    assert bare.recipe.surrogate is None
    assert ours < 1e-3
    assert ours < 0.1 * (bare.inputs[0] - image).square().mean()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    again = recover(model, target, (3, 16, 16), steps=150)
    assert torch.equal(result.inputs, again.inputs)


def test_recover_takes_a_surrogate():
    model, _, target = _victim(channels=1)
    options = {"labels": [2], "steps": 2, "recipe": "relu-adam"}
    assert recover(model, target, (1, 16, 16), **options).recipe.surrogate is None
    found = recover(model, target, (1, 16, 16), surrogate="softplus", **options)
    assert found.recipe.surrogate == Surrogate()
    adam = recover(model, target, (1, 16, 16), **options | {"recipe": "relu", "optimizer": "adam"}).recipe
    assert (adam.optimizer, adam.line_search, adam.surrogate) == ("adam", None, Surrogate())
    own = Surrogate(stages=3)
    assert recover(model, target, (1, 16, 16), surrogate=own, **options).recipe.surrogate is own
    with pytest.raises(ValueError, match="surrogate must be 'softplus', False or a Surrogate, found 'gelu'"):
        recover(model, target, (1, 16, 16), surrogate="gelu", **options)


def test_the_recipe_for_kinks():
    assert choose_recipe("relu", (1, 28, 28), 1, piecewise_linear=True).basis == "pixel"
    assert choose_recipe("relu", (3, 32, 32), 1, piecewise_linear=True).basis == "dct"
    assert choose_recipe("relu", (7,), 1, piecewise_linear=True).tv == 0


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


def test_a_stopped_search_goes_on_with_the_same_bits(tmp_path):
    def stop(done, _):
        if done >= 16:  # the second stage ends there
            raise KeyboardInterrupt

    whole = _attack(Bowls(3), rows=6, check_every=3)
    path = tmp_path / "state.safetensors"
    broken = _attack(Bowls(3), rows=6, check_every=3, progress=stop, checkpoint=Checkpoint(path, "x"))
    assert not any(broken.ended)
    again = _attack(Bowls(3), rows=6, check_every=3, checkpoint=Checkpoint(path, "x"))
    assert torch.equal(again.inputs, whole.inputs)
    assert torch.equal(again.history, whole.history)
