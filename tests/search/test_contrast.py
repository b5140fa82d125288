"""Contrast behind BatchNorm in training mode: the distance does not see it, the gradient tells it."""

import pytest
import torch
from digit_victims import SHAPE, gradient_of, small_digits, stacked_gradients
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.search import prepare as preparing
from sapag_fast.search.contrast import contrast_of
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import Targets, prepare


def network(bias=False, channels=8, **norm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, 1, 1, bias=bias),
        nn.BatchNorm2d(channels, **norm),
        nn.Sigmoid(),
        nn.Conv2d(channels, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
    )


class Seen(nn.Module):
    """Contrast is seen beside BatchNorm, too."""

    def __init__(self):
        super().__init__()
        self.body, self.beside = network(), nn.Linear(256, 10)

    def forward(self, x):
        return self.body(x) + self.beside(x.flatten(1))


def dense():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(256, 20), nn.BatchNorm1d(20), nn.Sigmoid(), nn.Linear(20, 10)
    )


def contrast(model, images, labels, batch_size=1, change=None, **options):
    """Of one victim, whose gradient `change` has changed."""
    target = [g if change is None else change(g) for g in gradient_of(model, images, labels)]
    attack = prepare(
        model, Targets(target, labels), SHAPE, batch_size=batch_size, options=SearchOptions(**options)
    )
    return contrast_of(attack.problem, attack.starts[0])


@pytest.mark.parametrize(
    ("model", "count", "options"),
    [
        (network(), 1, {}),
        (network(bias=True), 1, {}),
        (network(eps=1e-3), 3, {}),
        (network().double(), 1, {}),
        (network(track_running_stats=False), 1, {}),
        (network(), 1, {"mean": 0.3, "std": 0.2}),
        (dense(), 4, {}),
    ],
)
def test_the_gradient_tells_the_contrast(model, count, options):
    images, labels = small_digits(count)
    images = images.to(next(model.parameters()).dtype)
    mean, std = options.get("mean", 0.0), options.get("std", 1.0)
    fed = (images - mean) / std
    told = contrast(model, fed, labels, count, **options)
    for factor in (0.1, 1.0, 4.0):
        other = mean + factor * (images - mean)
        assert torch.allclose(told.rescaled(other[None], [0])[0], images, atol=0.02)


@pytest.mark.parametrize("factor", [0.01, -3.0, 1e6])
def test_the_length_of_the_gradient_does_not_matter(factor):
    images, labels = small_digits(1)
    told = contrast(network(), images, labels, change=lambda g: factor * g)
    assert torch.allclose(told.rescaled(0.3 * images[None], [0])[0], images, atol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g + 0.1 * g.std() * torch.randn_like(g),
        lambda g: g * (g.abs() > g.abs().quantile(0.9)) if g.numel() > 1 else g,
        torch.zeros_like,
    ],
    ids=["noise", "sparse", "zero"],
)
def test_a_gradient_that_does_not_tell_it_leaves_the_inputs_alone(change):
    torch.manual_seed(1)
    images, labels = small_digits(1)
    told = contrast(network(), images, labels, change=change)
    assert torch.equal(told.rescaled(0.3 * images[None], [0])[0], 0.3 * images)


def test_a_channel_that_is_dead_is_left_out():
    model = network()
    with torch.no_grad():
        model[0].weight[2] = 0.0
    images, labels = small_digits(1)
    told = contrast(model, images, labels)
    assert torch.allclose(told.rescaled(0.3 * images[None], [0])[0], images, atol=0.02)


def test_it_is_looked_for_in_training_mode_alone():
    images, labels = small_digits(2)
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    for model in (
        network().eval(),
        network(affine=False),
        network(channels=2),
        frozen,
        nn.Sequential(nn.Tanh(), *network()),
        nn.Sequential(network()[0], nn.Sigmoid(), *network()[1:]),
    ):
        assert contrast(model, images, labels, 2) is None
    assert contrast(network(), images, labels, 2, local_steps=2, local_lr=0.1) is None


def found_of(model, images, labels, **options):
    target = stacked_gradients(model, images, labels)
    return sf.recover(model, target, SHAPE, labels=labels[:, None], batched=True, steps=60, **options)


def test_a_search_ends_at_the_right_contrast(monkeypatch):
    images, labels = small_digits(3)
    options = {"recipe": "smooth", "tv": 1e-2, "seed": 3}
    found = found_of(network(), images, labels, **options)
    told = found.inputs[:, 0].flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert ((told - 1).abs() < 0.1).all()
    monkeypatch.setattr(preparing, "contrast_of", lambda *_: None)
    plain = found_of(network(), images, labels, **options)
    lacking = plain.inputs[:, 0].flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert ((lacking - 1).abs() > 0.1).all()
    assert (found.distance < 1.05 * plain.distance).all()


def test_company_changes_no_bit_of_it():
    images, labels = small_digits(3)
    options = {"at_once": 2, "restarts": 2}
    whole = found_of(network(), images, labels, **options)
    alone = found_of(network(), images[1:2], labels[1:2], **options)
    assert torch.equal(whole.inputs[1], alone.inputs[0])
    assert torch.equal(whole.distance[1], alone.distance[0])


def test_where_the_distance_sees_the_contrast_it_decides(monkeypatch):
    images, labels = small_digits(1)
    found = found_of(Seen(), images, labels)
    monkeypatch.setattr(preparing, "contrast_of", lambda *_: None)
    plain = found_of(Seen(), images, labels)
    assert found.distance[0] <= 1.05 * plain.distance[0]


def test_the_users_network_keeps_its_hooks_and_statistics():
    model, (images, labels) = network(), small_digits(1)
    target = stacked_gradients(model, images, labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sf.recover(model, target, SHAPE, labels=labels[:, None], batched=True, steps=3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())
    assert F.cross_entropy(model(images), labels).isfinite()
