"""Easy victims cost few evaluations: a search that has arrived or stalled ends before its steps do."""

import dataclasses

import pytest
import torch
from bowls import Bowls, drawn_starts, search_bowls
from digit_victims import SHAPE, small_digits, small_lenet, stacked_gradients

import sapag_fast as sf
from sapag_fast.search.recipe import RECIPES, Recipe

STEPS = 400
RECIPE = dataclasses.replace(
    RECIPES["smooth"], scale=1.0, box=0.0, tv=1e-3, tv_until=0.7, tv_rest=0.1, patience=30
)


def searched(recipe, victims=3, **options):
    return search_bowls(
        Bowls(victims),
        drawn_starts(victims),
        recipe=recipe,
        steps=STEPS,
        restarts=1,
        labels=torch.arange(victims)[:, None],
        check_every=20,
        **options,
    )


def test_what_has_arrived_ends_where_total_variation_no_longer_leads():
    whole = searched(dataclasses.replace(RECIPE, patience=0))
    early = searched(RECIPE)
    assert whole.evaluations.tolist() == [STEPS] * 3
    assert (early.evaluations < STEPS / 2).all()
    assert (early.evaluations % 20 == 0).all()
    # With the weight that leads the distance would have stayed much larger.
    led = searched(dataclasses.replace(RECIPE, patience=0, tv_rest=1.0))
    assert (early.distance < 0.1 * led.distance).all()
    assert (early.objective < 1.01 * whole.objective).all()


def test_what_cannot_arrive_ends_once_it_has_stalled():
    # Without penalties nothing arrives; at the bowls' floor nothing comes lower.
    found = searched(dataclasses.replace(RECIPE, tv=0.0))
    assert (found.evaluations < STEPS).all()
    assert (found.distance < 1e-20).all()
    # A distance that stays far above the penalties: a wall around each bowl's bottom.
    walled = Bowls(3)
    inner = walled.value_and_gradient
    walled.value_and_gradient = lambda *given: (inner(*given)[0] + 5.0, *inner(*given)[1:])
    found = search_bowls(
        walled, drawn_starts(3), recipe=RECIPE, steps=STEPS, restarts=1,
        labels=torch.arange(3)[:, None], check_every=20,
    )  # fmt: skip
    assert (found.evaluations < STEPS).all()
    assert (found.distance > 5.0 - 1e-6).all()


def test_a_slow_search_that_still_comes_down_gets_all_its_steps():
    slow = dataclasses.replace(RECIPE, optimizer="adam", lr=1e-4, line_search=None, tv=1e-9, progress=1e-4)
    assert searched(slow).evaluations.tolist() == [STEPS] * 3


def test_without_patience_no_bit_changes():
    plain = dataclasses.replace(RECIPE, patience=0)
    other = dataclasses.replace(plain, progress=0.9, arrived=(5.0, 5.0))
    assert torch.equal(searched(plain).inputs, searched(other).inputs)


def test_a_surrogate_has_to_come_to_its_last_stage():
    surrogate = sf.Surrogate()
    recipe = dataclasses.replace(RECIPE, surrogate=surrogate)
    found = searched(recipe)
    assert (found.evaluations > max(surrogate.borders(STEPS))).all()
    assert torch.isfinite(found.matched).all()


def test_a_victim_ends_alike_in_any_company():
    model, (images, labels) = small_lenet(), small_digits(5)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "steps": 200, "restarts": 2, "at_once": 3, "stop_certified": False}
    whole = sf.recover(model, target, SHAPE, **options)
    part = sf.recover(model, [None if g is None else g[3:5] for g in target], SHAPE, **options)
    assert torch.equal(whole.restarts.evaluations[3:5], part.restarts.evaluations)
    assert torch.equal(whole.inputs[3:5], part.inputs)


def test_it_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    model, (images, labels) = small_lenet(), small_digits(3)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "steps": 200, "checkpoint": tmp_path / "c.safetensors"}
    whole = sf.recover(model, target, SHAPE, **options)
    assert (whole.evaluations < 200).any()

    def stop(done, lowest):
        if done >= 80:
            raise KeyboardInterrupt

    with pytest.raises(sf.Interrupted):
        sf.recover(model, target, SHAPE, **options, progress=stop)
    resumed = sf.recover(model, target, SHAPE, **options)
    assert torch.equal(resumed.evaluations, whole.evaluations)
    assert torch.equal(resumed.inputs, whole.inputs)


def test_patience_is_an_option():
    model, (images, labels) = small_lenet(), small_digits(2)
    target = stacked_gradients(model, images, labels)
    found = sf.recover(model, target, SHAPE, batched=True, steps=120, patience=0)
    assert found.evaluations.tolist() == [120, 120]
    assert sf.recover(model, target, SHAPE, batched=True, steps=120).recipe.patience > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience", -1),
        ("patience", 2.5),
        ("patience", True),
        ("progress", 1.5),
        ("arrived", (0.1,)),
        ("arrived", (0.1, -1.0)),
        ("arrived", 0.1),
    ],
)
def test_what_does_not_fit_is_refused(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        Recipe("own", **{name: value})
    if name == "patience":
        with pytest.raises((TypeError, ValueError), match=name):
            sf.SearchOptions(patience=value)


def test_noise_does_not_come_in_where_total_variation_leads():
    """What cannot be matched closely ends with total variation's lead, and no worse than after all steps."""
    model, (images, labels) = small_lenet(), small_digits(3)
    target = stacked_gradients(model, images, labels)
    chance = torch.Generator().manual_seed(0)
    noisy = [g + 0.03 * g.std() * torch.randn(g.shape, generator=chance) for g in target]
    options = {"batched": True, "labels": labels[:, None]}
    found = sf.recover(model, noisy, SHAPE, **options)
    whole = sf.recover(model, noisy, SHAPE, **options, patience=0)
    errors = [(f.inputs[:, 0].clamp(0, 1) - images).square().mean() for f in (found, whole)]
    assert (found.evaluations < whole.evaluations).all()
    assert errors[0] < 1.3 * errors[1]
