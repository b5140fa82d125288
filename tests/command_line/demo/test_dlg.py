"""The DLG baseline: it recovers where it is known to, keeps its budget, and says why it stopped."""

import math

import pytest
import torch

from sapag_fast import data
from sapag_fast.command_line.demo.demo import client_gradient
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


def test_known_labels_stay_and_a_given_start_is_the_first_iterate():
    start, seen = torch.rand(1, 1, 16, 16), []
    result, _, _ = attacked(
        "default",
        evaluations=7,
        start=start,
        labels=torch.tensor([4]),
        look=lambda count, inputs: seen.append((count, inputs.detach().clone())),
    )
    assert result.labels.tolist() == [4]
    assert [count for count, _ in seen] == list(range(1, 8))
    assert torch.equal(seen[0][1], start)


def test_backward_gives_the_same_numbers_and_leaves_no_gradients_behind():
    images, labels = data.digits(1, 16)
    model = initialise(LeNet(channels=1, image_size=16), "default")
    gradient = client_gradient(model, images, labels)
    found = [
        deep_leakage(model, gradient, images.shape[1:], 10, evaluations=30, backward=backward)
        for backward in (False, True)
    ]
    torch.testing.assert_close(found[0].input, found[1].input, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_stop_distance_ends_it():
    whole, _, _ = attacked("default", evaluations=60)
    result, _, _ = attacked("default", evaluations=60, stop_distance=2 * whole.distance)
    assert result.status == "reached"
    assert result.distance < 2 * whole.distance
