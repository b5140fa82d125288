"""What a distance certifies, what it leaves unknown, and what a certificate saves."""

import dataclasses

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet, stacked_gradients
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import find_kind
from sapag_fast.distances.layering import model_layers
from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.certificate import (
    NEVER,
    Certificate,
    Certifier,
    Family,
    Task,
    certifier_for,
    families,
)
from sapag_fast.recovery.identifiability import DETERMINED, Identifiability
from sapag_fast.recovery.recover import recover
from sapag_fast.search.recipe import RECIPES
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

FAMILY = Family(
    name="digits",
    piecewise_linear=False,
    distance="sapag",
    bandwidth=1.0,
    channels=1,
    sides=(16, 16),
    batch_sizes=(1, 2),
    layers=(4, 4),
    operators=("addmm", "convolution", "sigmoid"),
    threshold=1e-4,
    searches=200,
    below=150,
    hits=150,
    precision=1.0,
    interval=(0.975, 1.0),
    measured_on="digits",
)


OPERATORS = frozenset(("addmm", "convolution", "sigmoid", "t", "view"))
RETURNED = Identifiability(left=DETERMINED, numbers=256, evaluations=90)
STAYED = Identifiability(left=0.045, numbers=256, evaluations=90, blind=128)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(certifying, "families", lambda: (FAMILY,))


def _victims(count, name="uniform", **options):
    model = small_lenet(name, **options)
    images, labels = small_digits(count)
    return model, images, stacked_gradients(model, images, labels)


def _certifier(
    model,
    target,
    recipe=RECIPES["smooth"],
    shape=SHAPE,
    batch_size=1,
    piecewise_linear=False,
    operators=OPERATORS,
    **options,
):
    layers = model_layers(model, "modules")
    own = None if find_kind(recipe.distance).merged else layers
    distance = GradientDistance(recipe.distance, bandwidth=recipe.bandwidth, layers=own)
    problem = Problem(VictimModel(model), F.cross_entropy, distance, target)
    task = Task(
        piecewise_linear=piecewise_linear,
        surrogate=recipe.surrogate is not None,
        distance=recipe.distance,
        bandwidth=distance.bandwidth,
        input_shape=shape,
        batch_size=batch_size,
        layers=len(set(layers)),
        operators=operators,
    )
    return certifier_for(problem, task, **{"known": (FAMILY,)} | options)


def test_the_family_is_told_by_what_an_attacker_knows():
    model, _, target = _victims(2)
    assert _certifier(model, target).thresholds == [1e-4, 1e-4]
    assert _certifier(model, target, batch_size=2).thresholds == [1e-4, 1e-4]
    others = (
        {"batch_size": 3},
        {"shape": (3, 16, 16)},
        {"shape": (1, 16, 17)},
        {"shape": (256,)},
        {"piecewise_linear": True},
        {"recipe": RECIPES["relu"]},
        {"recipe": dataclasses.replace(RECIPES["smooth"], distance="cosine")},
        {"recipe": dataclasses.replace(RECIPES["smooth"], bandwidth=0.5)},
        {"known": (dataclasses.replace(FAMILY, layers=(5, 6)),)},
        {"known": ()},
        {"unusual": "a loss of one's own"},
    )
    for options in others:
        found = _certifier(model, target, **options)
        assert found.thresholds == [NEVER, NEVER], options
        assert found.certificate(1, 0.0).status == "unknown"
        assert "not measured" in found.certificate(1, 0.0).reason
    assert "a loss of one's own" in found.certificate(0, 0.0).reason


def test_operators_that_were_not_measured_are_named():
    model, _, target = _victims(2)
    found = _certifier(model, target, operators=OPERATORS | {"slice", "avg_pool2d"})
    assert found.thresholds == [NEVER, NEVER]
    assert found.certificate(0, 0.0).reason.endswith("a network with the operators avg_pool2d, slice")
    assert _certifier(model, target, operators=OPERATORS - {"convolution"}).thresholds == [1e-4, 1e-4]


def test_a_gradient_with_parts_missing_is_unknown():
    model, _, target = _victims(2)
    withheld = [*target[:-1], None]
    assert "not there" in _certifier(model, withheld).certificate(0, 0.0).reason
    model.body[0].weight.requires_grad_(False)
    assert _certifier(model, target[1:]).thresholds == [NEVER, NEVER]


def test_layers_without_weight_leave_their_victim_alone_unknown():
    """A gradient that constrains nothing is matched at once."""
    model, _, target = _victims(3)
    for tensor in target[:2]:
        tensor[1] = 0.0
    found = _certifier(model, target)
    assert found.thresholds == [1e-4, NEVER, 1e-4]
    assert "carry no weight" in found.certificate(1, 0.0).reason
    assert found.certificate(2, 0.0, RETURNED).certified


def test_what_a_certificate_says():
    certifier = Certifier(FAMILY, ["", ""])
    known = {"family": "digits", "threshold": 1e-4, "precision": 1.0, "interval": (0.975, 1.0), "below": 150}
    known["measured_on"] = "digits"
    assert certifier.certificate(1, 1e-4, RETURNED) == Certificate("certified", "", **known, check=RETURNED)
    blind = certifier.certificate(1, 1e-4, STAYED)
    assert blind.status == "unknown"
    assert "perturbed, it did not come back (blind in about 128 of 256 directions)" in blind.reason
    assert certifier.certificate(1, 1e-4).status == "unknown"
    assert "before it was checked" in certifier.certificate(1, 1e-4).reason
    nothing = dataclasses.replace(STAYED, left=torch.nan)
    assert "did not come back" in certifier.certificate(1, 1e-4, nothing).reason
    for distance in (1.01e-4, float("inf"), float("nan")):
        found = certifier.certificate(0, distance)
        assert (found.status, found.certified) == ("unknown", False)
        assert found.reason == "the distance is above the threshold"
        assert found.family == "digits"
    none = Certifier(dataclasses.replace(FAMILY, threshold=None, precision=None, interval=None), [""])
    assert none.thresholds == [NEVER]
    assert none.certificate(0, 0.0).status == "unknown"
    assert "no distance was found" in none.certificate(0, 0.0).reason


def test_measured_families_keep_the_rule():
    found = families()
    assert len({family.name for family in found}) == len(found)
    for family in found:
        assert family.searches >= family.below >= family.hits >= 0
        if family.threshold is None:
            assert family.below == 0
            assert family.precision is None
        else:
            assert family.precision == family.hits / family.below >= 0.995
            assert 0.95 <= family.interval[0] < family.precision <= family.interval[1] <= 1
            assert family.threshold > 0


def test_a_certificate_stops_the_victims_other_restarts(measured):
    model, images, target = _victims(3)
    options = {"batched": True, "restarts": 4, "seed": 1, "steps": 300, "patience": 0}
    whole = recover(model, target, SHAPE, stop_certified=False, **options)
    assert whole.evaluations.tolist() == [4 * 300] * 3
    found = recover(model, target, SHAPE, **options)
    assert all(certificate.certified for certificate in found.certificate)
    assert (found.inputs[:, 0] - images).square().mean() < 1e-4
    winner = found.restarts.evaluations.gather(1, found.winner[:, None])[:, 0]
    assert winner.tolist() == [300] * 3
    assert (found.evaluations < 0.8 * whole.evaluations).all()
    again = recover(model, target, SHAPE, **options)
    assert torch.equal(again.restarts.evaluations, found.restarts.evaluations)
    assert torch.equal(again.inputs, found.inputs)
    # One victim's restarts after the other: those that wait never begin.
    few = recover(model, target, SHAPE, at_once=3, **options)
    assert few.restarts.evaluations.tolist() == [[300, 0, 0, 0]] * 3
    assert few.restarts.distance[:, 1:].isinf().all()
    assert few.winner.tolist() == [0, 0, 0]


def test_unknown_where_the_attack_is_of_another_kind(measured):
    model, _, target = _victims(1)
    one = [entry[0] for entry in target]
    usual = {"steps": 2, "labels": [0]}
    assert recover(model, one, SHAPE, **usual).certificate[0].family == "digits"
    weighed = GradientDistance(
        "sapag", layer_weights=[1.0, 1.0, 1.0, 0.0], layers=model_layers(model, "modules")
    )
    for options in (
        {"bounds": (-1.0, 1.0)},
        {"bounds": None},
        {"labels": "joint"},
        {"loss_fn": lambda output, labels: F.cross_entropy(output, labels)},
        {"distance": "cosine"},
        {"distance": weighed},
        {"layers": "separate"},
    ):
        found = recover(model, one, SHAPE, **(usual | options)).certificate[0]
        assert (found.status, found.family) == ("unknown", None), options
        assert found.reason.startswith("not measured")
    kinked = nn.Sequential(model, nn.ReLU())
    target = torch.autograd.grad(
        F.cross_entropy(kinked(torch.rand(1, *SHAPE)), torch.tensor([1])), kinked.parameters()
    )
    assert recover(kinked, target, SHAPE, **usual).certificate[0].family is None
