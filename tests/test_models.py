"""Victim networks: shapes and initialisations."""

import pytest
import torch
from torch import nn

from sapag_fast.models import INITIALISATIONS, ConvNet, LeNet, initialise


@pytest.mark.parametrize(("channels", "size", "features"), [(1, 28, 588), (3, 32, 768), (1, 15, 192)])
def test_lenet_has_dlgs_shapes(channels, size, features):
    model = LeNet(channels=channels, image_size=size, classes=7)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes[:2] == [(12, channels, 5, 5), (12,)]
    assert shapes[-2:] == [(7, features), (7,)]
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_convnet_is_a_relu_network():
    model = ConvNet(image_size=16)
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 4
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [32, 32, 64, 64]
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initialisation_is_seeded_and_leaves_the_global_generator(name):
    before = torch.random.get_rng_state()
    first, again, other = (initialise(LeNet(), name, seed=s) for s in (3, 3, 4))
    torch.random.set_rng_state(before)
    LeNet(), LeNet(), LeNet()
    expected = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    models = [LeNet() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        initialise(model, name, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_initialisations_have_their_spread():
    weights = {name: initialise(LeNet(), name).fc.weight.detach() for name in INITIALISATIONS}
    assert weights["uniform"].abs().max() <= 0.5
    assert weights["uniform"].std() == pytest.approx(0.5 / 3**0.5, rel=0.05)
    assert weights["normal.1"].std() == pytest.approx(0.1, rel=0.05)
    assert weights["normal.5"].std() == pytest.approx(0.5, rel=0.05)
    assert weights["xavier"].abs().max() == pytest.approx((6 / 598) ** 0.5, rel=0.01)
    assert weights["kaiming"].abs().max() == pytest.approx((6 / 588) ** 0.5, rel=0.01)
    assert weights["default"].abs().max() == pytest.approx((1 / 588) ** 0.5, rel=0.01)
    assert initialise(LeNet(), "uniform").fc.bias.abs().max() > 0
    assert initialise(LeNet(), "kaiming").fc.bias.abs().max() == 0


def test_initialisation_spares_normalisation_layers():
    model = initialise(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), "uniform")
    assert torch.equal(model[1].weight, torch.ones(4))
    assert torch.equal(model[1].running_var, torch.ones(4))


def test_unknown_initialisation():
    with pytest.raises(ValueError, match=r"unknown initialisation 'he'.*uniform"):
        initialise(LeNet(), "he")
