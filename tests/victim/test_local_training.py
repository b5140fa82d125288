"""`LocalTraining`: the client's steps as torch's own optimiser takes them, and labels behind their update."""

import itertools

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet
from local_clients import in_turn, shared_by
from torch import nn
from torch.nn import functional as F

from sapag_fast import LocalTraining, SearchOptions, recover
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

RATE = 0.1


class _WithIdle(nn.Module):
    """A network of which one layer takes no part and one parameter is not trained."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(2, 2)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4))
        self.body[1].bias.requires_grad_(False)

    def forward(self, inputs):
        return self.body(inputs)


def _client(inputs=5, recoveries=2):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    images = torch.rand(recoveries, inputs, 1, 3, 3, dtype=torch.float64, generator=generator)
    labels = torch.randint(4, (recoveries, inputs), generator=generator)
    return _WithIdle().double(), images, labels


def _problem(model, training, targets):
    return Problem(VictimModel(model), F.cross_entropy, GradientDistance("l2"), targets, training=training)


SETTINGS = [
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.05},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
]
STEPS = [
    ({"steps": 3}, [range(5)] * 3, RATE),
    ({"epochs": 2, "batch_size": 2}, in_turn(5, 2, 2), RATE),
    ({"epochs": 1, "batch_size": 4}, in_turn(5, 4), RATE),
    ({"steps": 4, "batch_size": 3}, in_turn(5, 3, 2), RATE),
    ({"epochs": 2, "batch_size": 9}, [range(5)] * 2, RATE),
    ({"steps": 3}, [range(5)] * 3, (0.1, 0.3, 0.0)),
    ({"epochs": 2, "batch_size": 3}, in_turn(5, 3, 2), (0.2, 0.1, 0.1, 0.05)),
    ({"steps": 1}, [range(5)], RATE),
]


@pytest.mark.parametrize(("told", "batches", "rate"), STEPS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_update_is_that_of_torchs_optimiser(settings, told, batches, rate):
    model, images, labels = _client()
    training = LocalTraining(rate=rate, **told, **settings)
    truth = shared_by(model, images[0], labels[0], [list(taken) for taken in batches], rate, **settings)
    problem = _problem(model, training, [row[None] for row in truth])
    mine = problem.gradients(images[0], labels[0])
    for ours, theirs in zip(mine, truth, strict=True):
        ours = torch.zeros_like(theirs) if ours is None else ours
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_rates_may_be_one_an_epoch():
    model, images, labels = _client()
    each = shared_by(model, images[0], labels[0], in_turn(5, 2, 2), (0.2,) * 3 + (0.1,) * 3, momentum=0.9)
    training = LocalTraining(rate=[0.2, 0.1], epochs=2, batch_size=2, momentum=0.9)
    mine = _problem(model, training, []).gradients(images[0], labels[0])
    assert mine[0] is None
    assert all(torch.allclose(a, b) for a, b in zip(mine[2:], each[2:], strict=True))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("way", [VmapMatching, SequentialMatching])
@pytest.mark.parametrize("settings", SETTINGS[-2:])
def test_the_ways_differentiate_through_it(way, settings, joint):
    model, images, labels = _client()
    training = LocalTraining(rate=RATE, epochs=2, batch_size=2, **settings)
    rows = [
        shared_by(model, x, y, in_turn(5, 2, 2), RATE, **settings)
        for x, y in zip(images, labels, strict=True)
    ]
    targets = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    problem = _problem(model, training, targets)
    value, _, _ = way(problem).value_and_gradient(images, labels)
    assert (value < 1e-20).all()
    searched = torch.randn(2, 5, 4, dtype=torch.float64) if joint else labels
    problem = Problem(
        problem.network, F.cross_entropy, problem.distance, targets, joint=joint, training=training
    )
    moved = images + 0.1
    value, slope, _ = way(problem).value_and_gradient(moved, searched)
    step = torch.randn(moved.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ahead, behind = (
        way(problem).value_and_gradient(moved + sign * 1e-5 * step, searched)[0] for sign in (1, -1)
    )
    expected = (ahead - behind) / 2e-5
    assert torch.allclose((slope * step).flatten(1).sum(1), expected, rtol=1e-6)


MIXED = {"momentum": 0.9, "weight_decay": 1e-3}


@pytest.mark.parametrize("labels", ["given", "joint"])
def test_digits_come_back_from_epochs_of_mini_batches(labels):
    model = small_lenet(seed=1)
    images, classes = small_digits(4)
    target = shared_by(model, images, classes, in_turn(4, 2, 2), RATE / 2, **MIXED)
    training = LocalTraining(rate=RATE / 2, epochs=2, batch_size=2, order="given", **MIXED)
    found = recover(
        model,
        target,
        SHAPE,
        batch_size=4,
        labels=classes if labels == "given" else "joint",
        steps=160,
        local_training=training,
    )
    assert found.warnings == ()
    assert found.certificate[0].reason == "not measured: local training"
    wrong = (found.inputs[0][:, None] - images[None]).square().flatten(2).mean(2)
    orders = itertools.permutations(range(4))
    best = min(orders, key=lambda order: sum(wrong[i, j] for i, j in enumerate(order)))
    assert max(wrong[i, j] for i, j in enumerate(best)) < 10**-2.5
    if labels == "given":
        assert best == (0, 1, 2, 3)


def test_an_order_that_is_not_known_is_warned_of():
    model = small_lenet()
    images, classes = small_digits(4)
    target = shared_by(model, images, classes, in_turn(4, 2, 2), RATE)
    told = {"batch_size": 4, "steps": 2, "local_lr": RATE, "local_epochs": 2, "labels": classes}
    with pytest.warns(UserWarning, match="in which of the client's 2 mini-batches each input was"):
        found = recover(model, target, SHAPE, local_batch_size=2, **told)
    assert [caution.kind for caution in found.warnings] == ["order"]
    assert "later epochs are" in found.warnings[0].message
    assert recover(model, target, SHAPE, local_batch_size=4, **told).warnings == ()
    # Labels that are searched find the first epoch's mini-batches.
    told["labels"] = "joint"
    (caution,) = recover(model, target, SHAPE, local_batch_size=2, **told).warnings
    assert "later epochs are searched in the order of the first" in caution.message
    assert "labels" not in caution.message
    assert recover(model, target, SHAPE, local_batch_size=2, **told | {"local_epochs": 1}).warnings == ()


def _labels_behind(target, model, inputs, **settings):
    training = LocalTraining(rate=RATE, order="given", **settings)
    found = recover(model, target, SHAPE, batch_size=inputs, steps=1, local_training=training)
    return found.labels[0].tolist(), found.label_source[0], found.label_reason[0]


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"weight_decay": 0.5}, {"momentum": 0.5, "nesterov": True}]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_label_of_one_input_stays_right(settings, steps):
    model = small_lenet("kaiming")
    for digit in range(3):
        images, labels = small_digits(1, digit)
        target = shared_by(model, images, labels, [[0]] * steps, RATE, **settings)
        found, source, _ = _labels_behind(target, model, 1, steps=steps, **settings)
        assert found == labels.tolist()
        assert source in ("inferred", "estimated")


def test_labels_of_mini_batches_say_what_is_not_known():
    model = small_lenet("kaiming")
    images, labels = small_digits(4)
    target = shared_by(model, images, labels, in_turn(4, 2, 2), RATE)
    found, source, reason = _labels_behind(target, model, 4, epochs=2, batch_size=2)
    assert (found, source) == ([0, 1, 2, 3], "estimated")
    assert "which mini-batch each was in" in reason
    # Three of one class, and one input that counts three times as much.
    several = torch.tensor([0, 0, 0, 1])
    target = shared_by(model, images, several, in_turn(4, 3), RATE)
    _, source, reason = _labels_behind(target, model, 4, batch_size=3)
    assert source == "unknown"
    assert "inputs count differently" in reason


def test_short_and_long_form_are_one():
    short = SearchOptions(local_epochs=2, local_batch_size=3, local_lr=(0.1, 0.05)).training
    assert short == LocalTraining(rate=[0.1, 0.05], epochs=2, batch_size=3)
    assert SearchOptions(local_steps=3, local_lr=0.1).training == LocalTraining(rate=0.1, steps=3)
    assert SearchOptions(local_lr=0.1).training is None
    assert hash(SearchOptions(local_training=short)) == hash(SearchOptions(local_training=short))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"rate": 0}, ValueError, "rate must be positive and finite, found 0"),
        ({"rate": "fast"}, TypeError, "rate must be a number, found str"),
        ({"rate": []}, ValueError, "rate must be a number, or one for each step, found none"),
        ({"rate": [0, 1]}, ValueError, r"rate\[0\] must be positive"),
        ({"rate": [1, -1]}, ValueError, r"rate\[1\] must be finite and not negative, found -1"),
        ({"steps": 0}, ValueError, "steps must be at least 1, found 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an int, found float"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"steps": 2, "epochs": 2}, ValueError, "epochs must be left out where steps are given"),
        ({"order": "random"}, ValueError, "order must be one of unknown, given, found 'random'"),
        ({"optimizer": "adam"}, ValueError, "optimizer must be 'sgd', .* found 'adam'.* ask the client"),
        ({"momentum": 1.0}, ValueError, "momentum must be below 1, found 1.0"),
        ({"momentum": -0.1}, ValueError, "momentum must be finite and not negative, found -0.1"),
        ({"dampening": 2}, ValueError, "dampening must be at most 1, found 2"),
        ({"nesterov": True}, ValueError, "nesterov must be left out without a momentum"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay must be finite and not negative"),
    ],
)
def test_settings_that_do_not_fit(given, error, message):
    with pytest.raises(error, match=message):
        LocalTraining(**{"rate": 0.1} | given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"local_training": {"rate": 0.1}}, TypeError, "local_training must be a LocalTraining, found dict"),
        (
            {"local_optimizer": "adam", "local_lr": 1},
            ValueError,
            "local_optimizer must be 'sgd', .*LocalTraining",
        ),
        ({"local_epochs": 2}, ValueError, "local_lr must be given with local_epochs=2, found None"),
        ({"local_batch_size": 2}, ValueError, "local_lr must be given with local_batch_size=2, found None"),
        ({"local_batch_size": 0, "local_lr": 1}, ValueError, "local_batch_size must be at least 1, found 0"),
        (
            {"local_epochs": 2, "local_steps": 2, "local_lr": 1},
            ValueError,
            "local_epochs must be left out where local_steps=2, found 2",
        ),
        (
            {"local_training": LocalTraining(rate=0.1), "local_lr": 0.1},
            ValueError,
            "local_training must be left out where local_steps, local_lr, .* found both",
        ),
    ],
)
def test_short_forms_that_do_not_fit(given, error, message):
    with pytest.raises(error, match=message):
        SearchOptions(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rate": (0.1, 0.1, 0.1)},
            "must be one number, one for each of 4 steps or one for each of 2 epochs",
        ),
        ({"rate": 0.1, "epochs": 10**6}, "must be at most 100000, found 2000000"),
        (
            {"rate": 0.1, "epochs": None, "steps": 1},
            "must be at least 2, for mini-batches of 2 to take all of 4 inputs, found 1",
        ),
    ],
)
def test_settings_that_do_not_fit_the_batch(given, message):
    model = small_lenet()
    target = [torch.zeros_like(p) for p in model.parameters()]
    training = LocalTraining(**{"epochs": 2, "batch_size": 2} | given)
    with pytest.raises(ValueError, match=message):
        recover(model, target, SHAPE, batch_size=4, local_training=training)
