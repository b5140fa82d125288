"""Several inputs of one label, searched as one, are found as their mean, which nothing may certify."""

import dataclasses

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet, stacked_gradients
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.certificate import SEVERAL, UNTOLD, families
from sapag_fast.recovery.identifiability import Identifiability
from sapag_fast.recovery.means import mean_passes
from sapag_fast.recovery.recover import recover
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import Targets, prepare

ANY = dataclasses.replace(families()[0], sides=(16, 16), layers=(1, 9), threshold=1e-3, name="any")
ANY = dataclasses.replace(ANY, operators=("addmm", "convolution", "sigmoid"))


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    monkeypatch.setattr(certifying, "families", lambda: (ANY,))


def of_one_label(size):
    images, labels = small_digits(200)
    images, labels = images.reshape(-1, *SHAPE), labels.flatten()
    several = (labels == labels.bincount().argmax()).nonzero().flatten()[:size]
    return images[several], labels[several]


def gradient(model, x, y):
    return [g.detach() for g in torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))]


@pytest.mark.parametrize("weights", ["normal.1", "kaiming", "uniform"])
@pytest.mark.parametrize("size", [2, 5])
def test_the_mean_of_several_is_not_certified(weights, size):
    network = small_lenet(weights)
    found = recover(network, gradient(network, *of_one_label(size)), SHAPE, restarts=1, steps=120)
    assert found.certificate[0].status == "unknown"
    assert found.certificate[0].reason == SEVERAL
    images, labels = small_digits(1)
    alone = recover(
        network, stacked_gradients(network, images, labels), SHAPE, batched=True, restarts=1, steps=300
    )
    assert alone.certificate[0].reason != SEVERAL


@pytest.mark.parametrize(("factor", "passes"), [(0.1, True), (0.3, True), (1.0, False)])
def test_a_network_that_hardly_bends_hides_a_mean(factor, passes):
    network = small_lenet("default")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)
    images, labels = of_one_label(1)
    target = [g[None] for g in gradient(network, images, labels)]
    options = SearchOptions(restarts=1)
    attack = prepare(network, Targets(target, labels[None], True), SHAPE, options=options)
    assert mean_passes(attack.problem, images, labels, 1e-5) == passes
    assert not mean_passes(attack.problem, images, labels, 0.0) or factor < 1.0


def test_two_classes_tell_nothing():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(8, 8, 5, 2, 2), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(128, 2),
    )  # fmt: skip
    images, _ = of_one_label(2)
    target = gradient(network, images, torch.tensor([1, 1]))
    found = recover(network, target, SHAPE, restarts=1, steps=2)
    assert found.certificate[0].status == "unknown"
    assert found.certificate[0].reason == UNTOLD


def test_what_hides_a_mean_is_not_certified():
    told = Identifiability(left=0.001, numbers=256, evaluations=90, alike=True).fault
    assert "the mean of several inputs of one label would be as close" in told
    assert Identifiability(left=0.001, numbers=256, evaluations=90).fault == ""


def test_a_clipped_gradient_is_still_of_one_input():
    network = small_lenet()
    images, labels = small_digits(2)
    clipped = [0.37 * g for g in stacked_gradients(network, images, labels)]
    found = recover(network, clipped, SHAPE, batched=True, restarts=1, steps=2)
    assert all(c.reason != SEVERAL for c in found.certificate)


@pytest.mark.parametrize("size", [2, 6])
def test_arithmetic_confirms_no_mean_behind_weights_of_zero(size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    images, labels = of_one_label(size)
    target = gradient(model, images, labels)
    found = sf.recover_exact(model, target, SHAPE)
    assert torch.allclose(found.inputs[0, 0], images.mean(0), atol=1e-5)
    assert found.confirmed.tolist() == found.found.tolist() == [False]
    assert "the mean of several inputs of one label" in found.reason[0]
    certificate = recover(model, target, SHAPE, steps=2).certificate[0]
    assert certificate.status == "unknown"
    assert "the mean of several inputs of one label" in certificate.reason


@pytest.mark.parametrize("deviation", [0.0, 1e-5])
def test_no_picture_is_counted_twice_where_only_biases_switch_units(deviation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(model[1].weight, std=deviation)
    images, labels = of_one_label(2)
    found = sf.recover_exact(model, gradient(model, images, labels), SHAPE, batch_size=2)
    assert not found.found.any()
    assert found.reason[0]


def test_one_picture_is_confirmed():
    torch.manual_seed(0)
    images, labels = of_one_label(1)
    for model in (
        nn.Sequential(nn.Flatten(), nn.Linear(256, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.Sigmoid(), nn.Linear(64, 10)),
    ):
        found = sf.recover_exact(model, gradient(model, images, labels), SHAPE)
        assert found.found.all(), found.reason
