"""Restarts that differ in prior weight and basis, and attacks that stop what a certificate makes needless."""

import dataclasses

import pytest
import torch
from bowls import SHAPE, Bowls, drawn_starts, search_bowls

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.certificate import Certifier
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import winners
from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.priors import total_variation
from sapag_fast.search.recipe import RECIPES, Recipe, choose_recipe
from sapag_fast.victim.surrogate import Surrogate

STEPS = 45
RECIPE = dataclasses.replace(
    RECIPES["smooth"], patience=0, scale=1.0, box=0.0, tv=0.02, tv_until=0.5, tv_rest=0.1, lr=0.3, history=5
)
BASES = ("pixel", "dct")


def _attack(victims, restarts, *, recipe=RECIPE, matching=None, bases=("pixel",), only=None, **options):
    """With `only`, the tasks of that restart alone."""
    starts = drawn_starts(victims * restarts)
    if only is not None:
        starts, restarts = starts[only::restarts], 1
    options = {"bounds": (0.0, 1.0), "check_every": 10} | options
    return search_bowls(
        matching or Bowls(victims),
        starts,
        recipe=recipe,
        steps=STEPS,
        restarts=restarts,
        bases=bases,
        **options,
    )


@pytest.mark.parametrize("rows", [12, 5, 1])
def test_a_restarts_prior_and_basis_are_its_own(rows):
    """Whatever runs beside it: restart k does what an attack of its weight and basis alone does."""
    recipe = dataclasses.replace(RECIPE, tv_weights=(1.0, 0.0, 30.0))
    found = _attack(3, 4, recipe=recipe, bases=BASES, rows=rows)
    for k in range(4):
        alone = _attack(
            3,
            4,
            recipe=dataclasses.replace(RECIPE, tv=RECIPE.tv * (1.0, 0.0, 30.0, 1.0)[k]),
            bases=BASES[k % 2 : k % 2 + 1],
            only=k,
        )
        torch.testing.assert_close(found.inputs[k::4], alone.inputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.history[:, k::4], alone.history, rtol=1e-9, atol=1e-12)
    unweighed = _attack(3, 4, recipe=dataclasses.replace(RECIPE, tv=0.0), only=2)
    assert (found.inputs[2::4] - unweighed.inputs).abs().amax() > 1e-3
    assert (total_variation(found.inputs[2::4])[0] < total_variation(unweighed.inputs)[0]).all()


def test_one_weight_for_all_leaves_every_bit():
    plain, same = (
        _attack(2, 3, recipe=dataclasses.replace(RECIPE, tv_weights=weights))
        for weights in ((1.0,), (1.0, 1.0, 1.0))
    )
    assert torch.equal(plain.inputs, same.inputs)
    assert torch.equal(plain.objective, same.objective)


def test_a_recipe_says_each_restarts_weight():
    recipe = dataclasses.replace(RECIPE, tv_weights=(1.0, 3.0))
    assert recipe.tv_of(1) == pytest.approx(0.06)
    assert recipe.tv_of(3, leading=False) == pytest.approx(0.006)
    assert recipe.tv_of(2) == recipe.tv_of() == pytest.approx(0.02)
    for weights in ((), (-1.0,), (1.0, float("inf")), (float("nan"),)):
        with pytest.raises(ValueError, match="tv_weights"):
            Recipe("mine", tv_weights=weights)
    with pytest.raises(ValueError, match="basis"):
        Recipe("mine", basis=())
    assert Recipe("mine", basis=BASES).bases == BASES
    assert Recipe("mine").bases == ("pixel",)


def test_clipping_goes_where_one_basis_is_not_pixels():
    adam = RECIPES["relu-adam"]
    assert SearchOptions(basis=("pixel",)).applied_to(adam).clip
    assert not SearchOptions(basis=["dct", "pixel"]).applied_to(adam).clip


def test_text_is_another_functions():
    with pytest.raises(ValueError, match="recover_text"):
        choose_recipe("text", (1, 28, 28), 1, piecewise_linear=False)


def test_recover_takes_several_bases():
    model = initialise(LeNet(image_size=8), "uniform")
    image, label = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    target = torch.autograd.grad(
        torch.nn.functional.cross_entropy(model(image), label), tuple(model.parameters())
    )
    options = {"restarts": 2, "steps": 30, "start": "grey"}
    mixed = recover(model, target, (1, 8, 8), basis=("pixel", "dct"), **options)
    assert mixed.recipe.basis == ("pixel", "dct")
    for k, basis in enumerate(("pixel", "dct")):
        alone = recover(model, target, (1, 8, 8), basis=basis, **options)
        torch.testing.assert_close(mixed.restarts.history[:10, 0, k], alone.restarts.history[:10, 0, k])
    assert mixed.distance[0] == mixed.restarts.distance.min()
    assert mixed.winner[0] == mixed.restarts.distance[0].argmin()
    assert torch.equal(mixed.inputs[0], mixed.restarts.inputs[0, mixed.winner[0]])
    with pytest.raises(ValueError, match=r"basis must be one of pixel, dct, .* found 'wavelet'"):
        recover(model, target, (1, 8, 8), basis=("pixel", "wavelet"), **options)


CERTIFIED = dataclasses.replace(RECIPE, tv=0.0)


@pytest.mark.parametrize(("rows", "most"), [(12, 12), (3, 3), (5, 12)])
def test_the_certified_restart_alone_goes_on(rows, most):
    matching = Bowls(3)
    found = _attack(3, 4, recipe=CERTIFIED, matching=matching, certified_at=[1e-3] * 3, rows=rows)
    whole = _attack(3, 4, recipe=CERTIFIED, rows=rows)
    spent = found.evaluations.view(3, 4)
    assert (spent == STEPS).sum(1).tolist() == [1, 1, 1]
    assert ((spent > 0).sum() <= most).all()
    assert all(found.ended)
    # What was saved is what was not evaluated.
    assert int(spent.sum()) == matching.evaluated < 0.8 * int(whole.evaluations.sum())
    survivor = spent.argmax(1) + torch.arange(3) * 4
    # A restart that goes on is not disturbed.
    torch.testing.assert_close(found.inputs[survivor], whole.inputs[survivor], rtol=1e-9, atol=1e-12)
    assert (found.distance[survivor] <= 1e-3).all()
    again = _attack(3, 4, recipe=CERTIFIED, certified_at=[1e-3] * 3, rows=rows)
    assert torch.equal(again.evaluations, found.evaluations)
    assert torch.equal(again.inputs, found.inputs)


def test_victims_of_which_nothing_is_known_go_on():
    found = _attack(3, 4, recipe=CERTIFIED, certified_at=[-1.0, 1e-3, -1.0])
    spent = found.evaluations.view(3, 4)
    assert (spent[[0, 2]] == STEPS).all()
    assert (spent[1] == STEPS).sum() == 1


def test_the_stop_distance_still_ends_a_victim_at_once():
    recipe = dataclasses.replace(CERTIFIED, stop_distance=1e-2)
    found = _attack(2, 2, recipe=recipe, certified_at=[1e-3] * 2)
    assert (found.evaluations < STEPS).all()


def test_through_a_surrogate_a_restart_counts_when_it_ends():
    """The surrogate's own distance is never so low; the network's is."""
    recipe = dataclasses.replace(
        CERTIFIED, surrogate=Surrogate(4.0, 16.0, 3, 0.5), line_search="armijo", lr=1.0
    )
    found = _attack(2, 3, recipe=recipe, certified_at=[1e-3] * 2, rows=2)
    assert found.evaluations.view(2, 3).tolist() == [[STEPS, 0, 0]] * 2
    assert (found.matched.view(2, 3)[:, 0] >= 16).all()
    assert (found.distance.view(2, 3)[:, 0] <= 1e-3).all()
    assert found.distance.view(2, 3)[:, 1:].isinf().all()


def test_a_gentle_stage_is_not_compared_with_the_last():
    """Of restarts that end together the first to be certified stops none; one that is younger is stopped on
    its way, and its surrogate's distance is of another kind."""
    recipe = dataclasses.replace(
        CERTIFIED, surrogate=Surrogate(4.0, 16.0, 3, 0.8), line_search="armijo", lr=1.0
    )
    starts = torch.full((3, 1, *SHAPE), 0.5, dtype=torch.float64)
    starts[0] = torch.nan  # ends at once, and makes room
    found = search_bowls(
        Bowls(1),
        starts,
        recipe=recipe,
        steps=STEPS,
        restarts=3,
        rows=2,
        certified_at=[1e-3],
        check_every=10,
    )
    assert found.evaluations.tolist()[1] == STEPS
    assert 0 < found.evaluations[2] < 40
    assert found.distance.isfinite().tolist() == [False, True, True]
    assert found.matched.isfinite().tolist() == [False, True, False]
    told = {
        "restarts": 3,
        "recipe": recipe,
        "certifier": Certifier(None, [""]),
        "labels_from": (("given",), ("",)),
    }
    assert winners(found, **told).winner.tolist() == [1]
    none = dataclasses.replace(found, matched=torch.full_like(found.matched, torch.inf))
    assert winners(none, **told).winner.tolist() == [int(found.distance.argmin())]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("rows", [4, 12])
@pytest.mark.parametrize("checks", [1, 2, 4])
def test_a_killed_portfolio_goes_on_with_the_same_bits(tmp_path, rows, checks):
    options = {
        "recipe": dataclasses.replace(RECIPE, tv_weights=(1.0, 0.0, 30.0), tv=1e-4),
        "bases": BASES,
        "certified_at": [1e-2, -1.0, 1e-2],
        "rows": rows,
    }
    whole = _attack(3, 4, **options)
    assert (whole.evaluations.view(3, 4)[0] < STEPS).any()
    path = tmp_path / "state.safetensors"
    seen = []

    def kill(done, _):
        seen.append(done)
        if len(seen) == checks + 1:
            raise KilledError

    with pytest.raises(KilledError):
        _attack(3, 4, checkpoint=Checkpoint(path, "this", every=0), progress=kill, **options)
    found = _attack(3, 4, checkpoint=Checkpoint(path, "this", every=0), **options)
    for name in ("inputs", "distance", "matched", "objective", "evaluations", "finite"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert torch.equal(found.history.nan_to_num(-1), whole.history.nan_to_num(-1))


class WideBowls(Bowls):
    """Bowls whose distances are divided by the rows' widths."""

    widths = None

    def retarget(self, victims, widths=None):
        super().retarget(victims)
        self.widths = widths

    def value_and_gradient(self, inputs, labels, sharpness=None):
        value, slope, none = super().value_and_gradient(inputs, labels, sharpness)
        if self.widths is None:
            return value, slope, none
        return value / self.widths, slope / self.widths.view(-1, 1, 1, 1, 1), none


@pytest.mark.parametrize("rows", [12, 5, 1])
@pytest.mark.parametrize("surrogate", [None, Surrogate(4.0, 16.0, 3, 0.5)])
def test_a_restarts_width_is_its_own_and_none_is_compared_by_it(rows, surrogate):
    recipe = dataclasses.replace(RECIPE, surrogate=surrogate, widths=(1.0, 0.1, 0.5))
    found = _attack(3, 4, recipe=recipe, matching=WideBowls(3), rows=rows)
    plain = WideBowls(3)
    plain.retarget(torch.arange(12) // 4)
    labels = torch.zeros(12, 1, dtype=torch.long)
    sharp = None if surrogate is None else torch.full((12,), surrogate.beta_last, dtype=torch.float64)
    torch.testing.assert_close(found.matched, plain.value_and_gradient(found.inputs, labels, sharp)[0])
    torch.testing.assert_close(found.distance, plain.value_and_gradient(found.inputs, labels)[0])
    for k, width in enumerate((1.0, 0.1, 0.5, 1.0)):
        alone = _attack(
            3, 4, recipe=dataclasses.replace(recipe, widths=(width,)), matching=WideBowls(3), only=k
        )
        torch.testing.assert_close(found.inputs[k::4], alone.inputs, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.history[:, k::4], alone.history, rtol=1e-9, atol=1e-12)


def test_one_width_for_all_leaves_every_bit():
    """The matching is not even told, as far as there are restarts."""
    plain = _attack(2, 2)
    for widths in ((1.0, 1.0), (1, 1, 0.1)):
        same = _attack(2, 2, recipe=dataclasses.replace(RECIPE, widths=widths))
        assert torch.equal(plain.inputs, same.inputs)
        assert torch.equal(plain.objective, same.objective)


def test_a_narrow_restart_is_certified_by_the_common_distance():
    recipe = dataclasses.replace(CERTIFIED, widths=(0.1,))
    whole = _attack(1, 2, recipe=recipe, matching=WideBowls(1))
    # What the first comes to is above it by its own width, and below it by the common one.
    at = [2 * float(whole.distance[0])]
    found = _attack(1, 2, recipe=recipe, matching=WideBowls(1), certified_at=at, rows=1)
    assert found.evaluations.tolist() == [STEPS, 0]
    assert found.distance[0] <= at[0]


def test_a_recipe_says_each_restarts_width():
    recipe = Recipe("mine", widths=(1, 0.3))
    assert [recipe.width_of(k) for k in range(3)] == [1.0, 0.3, 1.0]
    for widths in ((), (0.0,), (-1.0,), (1.0, 1.5), (float("nan"),)):
        with pytest.raises(ValueError, match="recipe 'mine': widths must"):
            Recipe("mine", widths=widths)
    for widths in (0.3, "narrow", (None,)):
        with pytest.raises(TypeError, match="recipe 'mine': widths must"):
            Recipe("mine", widths=widths)


def test_widths_are_of_the_recipes_own_kernel():
    recipe = Recipe("mine", widths=(1.0, 0.3))

    def of(**options):
        return SearchOptions(recipe=recipe, **options).settled((1, 8, 8), 1, piecewise_linear=False).widths

    assert of() == of(distance="sapag") == (1.0, 0.3)
    assert of(distance="sapag-mean") == of(distance="l2") == of(distance=GradientDistance()) == (1.0,)
    for kind in ("sapag-global", "l2", "cosine"):
        wrong = SearchOptions(recipe=dataclasses.replace(recipe, distance=kind))
        with pytest.raises(ValueError, match=rf"widths must be \(1.0,\) for the distance '{kind}', found \("):
            wrong.settled((1, 8, 8), 1, piecewise_linear=False)


@pytest.mark.parametrize("victims", [1, 2])
def test_recover_takes_widths(victims):
    model = initialise(LeNet(image_size=8), "uniform")
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(victims, 1, 1, 8, 8, generator=g), torch.arange(victims)[:, None]
    rows = [
        torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), tuple(model.parameters()))
        for x, y in zip(images, labels, strict=True)
    ]
    target = [torch.stack(each) for each in zip(*rows, strict=True)]
    smooth = dataclasses.replace(RECIPES["smooth"], patience=0, scale=1.0, widths=(1.0,))
    both = dataclasses.replace(smooth, widths=(1.0, 0.3))
    options = {"restarts": 2, "steps": 30, "start": "grey", "batched": True, "exact": "off"}
    mixed = recover(model, target, (1, 8, 8), recipe=both, **options)
    for k, bandwidth in enumerate((1.0, 0.3)):
        alone = recover(
            model, target, (1, 8, 8), recipe=dataclasses.replace(smooth, bandwidth=bandwidth), **options
        )
        ours, theirs = (found.restarts.history[:10, :, k] for found in (mixed, alone))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    # The common distance of the narrow restart's own answer.
    distance = GradientDistance(layers=model_layers(model, "modules"))
    for victim in range(victims):
        found = mixed.restarts.inputs[victim, 1]
        loss = torch.nn.functional.cross_entropy(model(found), labels[victim])
        dummy = torch.autograd.grad(loss, tuple(model.parameters()))
        common = distance(dummy, rows[victim])
        torch.testing.assert_close(mixed.restarts.distance[victim, 1], common, rtol=1e-3, atol=1e-7)
    assert torch.equal(mixed.distance, mixed.restarts.distance.amin(1))
