"""The DLG baseline: it recovers where it is known to, keeps its budget, and says why it stopped."""

import math

import pytest
import torch

from sapag_fast import data
from sapag_fast.clients.gradient import client_gradient
from sapag_fast.command_line.demo.dlg import deep_leakage
from sapag_fast.models import LeNet, initialise
from sapag_fast.reports.metrics import score


def attacked(initialisation, **options):
    images, labels = data.digits(1, 16)
    model = initialise(LeNet(channels=1, image_size=16), initialisation)
    gradient = client_gradient(model, images, labels)
    return deep_leakage(model, gradient, images.shape[1:], 10, **options), images, labels


def test_recovers_image_and_label():
    result, images, labels = attacked("normal.1")
    assert score(result.input[0], images[0]).success
    assert torch.equal(result.labels, labels)
    assert result.status == "stalled"
    assert result.evaluations < 6000


@pytest.mark.parametrize("evaluations", [1, 7, 20, 45])
def test_budget_is_kept(evaluations):
    result, _, _ = attacked("default", evaluations=evaluations)
    assert result.evaluations == evaluations
    assert result.status == "budget"
    assert math.isfinite(result.distance)


def test_steps_are_kept():
    result, _, _ = attacked("default", steps=2)
    assert result.evaluations <= 2 * 25


def test_same_seed_same_result_and_the_model_is_left_alone():
    first, _, _ = attacked("default", evaluations=20, seed=4)
    second, _, _ = attacked("default", evaluations=20, seed=4)
    assert torch.equal(first.input, second.input)
    assert not first.input.requires_grad


def test_non_finite_target_stops():
    images, labels = data.digits(1, 16)
    model = initialise(LeNet(channels=1, image_size=16), "default")
    gradient = [torch.full_like(g, math.nan) for g in client_gradient(model, images, labels)]
    result = deep_leakage(model, gradient, images.shape[1:], 10, evaluations=60)
    assert result.status == "non-finite"
    assert result.distance == math.inf
    assert torch.isfinite(result.input).all()
