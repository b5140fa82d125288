"""Attacks through the surrogate: stages, restarts, checkpoints, and `recover`."""

import copy
import dataclasses

import pytest
import torch
from bowls import SIZE, Bowls, search_bowls
from torch.nn import functional as F

from sapag_fast import recover
from sapag_fast.clients.training import Descent, train_to
from sapag_fast.models import ConvNet, initialise
from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.optimizers import LBFGS
from sapag_fast.search.recipe import RECIPES, choose_recipe
from sapag_fast.victim.surrogate import Surrogate

STEPS = 40
STAGED = Surrogate(1.0, 16.0, 5, 0.8)
RECIPE = dataclasses.replace(
    RECIPES["smooth"], scale=1.0, box=0.0, tv=0.0, lr=0.5, history=5, surrogate=STAGED, line_search="armijo"
)


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class MovingBowls(Bowls):
    """A bowl around each victim's centre that moves from stage to stage, above a floor that rises."""

    def __init__(self, victims):
        super().__init__(victims)
        self.centres = _draw(victims, SIZE * SIZE)

    def value_and_gradient(self, inputs, labels, sharpness=None):
        if sharpness is None:  # the network itself: what β → ∞ comes to, on the ground
            away = inputs.flatten(1) - self.centres[self.victims]
            return away.square().sum(1), torch.zeros_like(inputs), None
        self.seen.append(sharpness.tolist())
        away = inputs.flatten(1) - self.centres[self.victims] * (1 + 1 / sharpness[:, None])
        scale = torch.linspace(1, 20, away.shape[1], dtype=away.dtype)
        value = (scale * away.square()).sum(1) + sharpness
        return value, (2 * scale * away).view_as(inputs), None


def _attack(matching, **options):
    starts = _draw(6, 1, 1, SIZE, SIZE, seed=1)
    options = {"recipe": RECIPE, "steps": STEPS, "restarts": 2} | options
    return search_bowls(matching, starts, **options)


def test_each_search_has_its_own_age():
    matching = MovingBowls(3)
    together = _attack(matching)
    ages = torch.arange(STEPS)
    assert [row[0] for row in matching.seen] == pytest.approx(STAGED.sharpness(ages, STEPS).tolist())
    for rows in (1, 4):
        found = _attack(MovingBowls(3), rows=rows, check_every=7)
        torch.testing.assert_close(found.inputs, together.inputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.history, together.history, rtol=1e-9, atol=1e-12)


def test_only_the_last_stage_counts_in_the_end():
    matching = MovingBowls(3)
    found = _attack(matching)
    assert found.history.min() < 5
    assert (found.matched >= 16).all()
    assert (found.matched < 16.01).all()
    matching.retarget(torch.arange(6) // 2)
    last = torch.full((6,), 16.0, dtype=torch.float64)
    torch.testing.assert_close(matching.value_and_gradient(found.inputs, None, last)[0], found.matched)


@pytest.mark.parametrize("rows", [6, 2])
def test_the_distance_is_the_networks_own(rows):
    matching = MovingBowls(3)
    found = _attack(matching, rows=rows)
    matching.retarget(torch.arange(6) // 2)
    torch.testing.assert_close(matching.value_and_gradient(found.inputs, None)[0], found.distance)
    assert (found.distance < 1).all()
    assert (found.matched >= 16).all()


def test_a_blunt_stage_solves_no_victim():
    recipe = dataclasses.replace(RECIPE, stop_distance=15.0)
    assert (_attack(MovingBowls(3), recipe=recipe).evaluations == STEPS).all()
    recipe = dataclasses.replace(RECIPE, stop_distance=17.0)
    found = _attack(MovingBowls(3), recipe=recipe, rows=3, check_every=1)
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


def _waves(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    frequency = 1 + 3 * torch.rand(count, 3, 2, 1, 1, generator=generator)
    phase = 6 * torch.rand(count, 3, 2, 1, 1, generator=generator)
    grid = torch.linspace(0, 3, size)
    down = (frequency[:, :, 0] * grid[:, None] + phase[:, :, 0]).sin()
    return 0.5 + 0.4 * down * (frequency[:, :, 1] * grid + phase[:, :, 1]).cos()


@pytest.mark.long
def test_a_narrow_kernel_loses_what_a_trained_network_shows():
    """Victim by victim: single searches through a surrogate end differently from processor to processor."""
    images, labels = _waves(60, 16, seed=0), torch.arange(60) % 10
    model = initialise(ConvNet(image_size=16), "default", seed=1)
    trained, phase = train_to(model, images, labels, epochs=20, descent=Descent(lr=3e-3))
    assert phase.accuracy > 0.8
    victims, known = _waves(12, 16, seed=9), (torch.arange(12) % 10)[:, None]
    parameters = tuple(trained.parameters())
    rows = [
        torch.autograd.grad(F.cross_entropy(trained(image[None]), label), parameters)
        for image, label in zip(victims, known, strict=True)
    ]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]

    def errors(recipe):
        found = recover(trained, target, (3, 16, 16), labels=known, batched=True, steps=300, recipe=recipe)
        return (found.inputs[:, 0].clamp(0, 1) - victims).square().mean((1, 2, 3))

    chosen = choose_recipe("auto", (3, 16, 16), 1, piecewise_linear=True)
    ours, narrow = errors(chosen), errors(dataclasses.replace(chosen, bandwidth=0.1))
    assert ours.max() < 2e-2
    assert (ours / narrow).median() < 0.9
    assert (ours < narrow).sum() >= 8


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


def test_a_stopped_search_goes_on_with_the_same_bits(tmp_path):
    def stop(done, _):
        if done >= 16:  # the second stage ends there
            raise KeyboardInterrupt

    whole = _attack(MovingBowls(3), rows=6, check_every=3)
    path = tmp_path / "state.safetensors"
    broken = _attack(MovingBowls(3), rows=6, check_every=3, progress=stop, checkpoint=Checkpoint(path, "x"))
    assert not any(broken.ended)
    again = _attack(MovingBowls(3), rows=6, check_every=3, checkpoint=Checkpoint(path, "x"))
    assert torch.equal(again.inputs, whole.inputs)
    assert torch.equal(again.history, whole.history)
