"""A small distance certifies nothing where the gradient does not determine the input."""

import dataclasses

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet, stacked_gradients
from torch import nn

from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.certificate import families
from sapag_fast.recovery.identifiability import LONGEST, NOISE, Identifiability
from sapag_fast.recovery.parts import Part
from sapag_fast.recovery.recover import recover

ANY = dataclasses.replace(families()[0], sides=(16, 16), layers=(1, 9), threshold=1e-5, name="any")
ANY = dataclasses.replace(ANY, operators=("addmm", "convolution", "sigmoid"))
FIXED = ("addmm with fixed weights", "convolution with fixed weights")
FIXED_TOO = dataclasses.replace(ANY, operators=(*ANY.operators, *FIXED))


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(certifying, "families", lambda: (ANY,))


@pytest.fixture
def fixed_weights_measured(monkeypatch):
    """To see what the check alone says of them."""
    monkeypatch.setattr(certifying, "families", lambda: (FIXED_TOO,))


def convolutions(*first: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    rest = (nn.Sigmoid(), nn.Conv2d(8, 8, 5, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.LazyLinear(10))
    network = nn.Sequential(*first, *rest)
    network(torch.zeros(1, *SHAPE))
    return network


def without_columns() -> nn.Module:
    """A network that does not look at the left half of the picture."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.Sigmoid(), nn.Linear(64, 10))
    with torch.no_grad():
        network[1].weight.view(64, 16, 16)[:, :, :8] = 0.0
    return network


def dead_units() -> nn.Module:
    """One hidden unit alone is alive, and its gradient's direction is the input's: all is determined."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 2), nn.Sigmoid(), nn.Linear(2, 10))


STRIDED = {
    "kernel 1, stride 2": lambda: convolutions(nn.Conv2d(1, 8, 1, 2)),
    "kernel 2, stride 4": lambda: convolutions(nn.Conv2d(1, 8, 2, 4)),
    "the border is cut": lambda: convolutions(nn.Conv2d(1, 8, 5, 4)),
}


class Behind(nn.Module):
    """A network behind a fixed matrix ``[256, 256]``."""

    def __init__(self, matrix: torch.Tensor, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("matrix", matrix)
        self.register_buffer("none", torch.zeros(256))

    def forward(self, x):
        return self.network(nn.functional.linear(x.flatten(1), self.matrix, self.none).view(x.shape))


def holed(side: int) -> nn.Module:
    """A square of pixels is set to zero."""
    seen = torch.ones(16, 16)
    seen[8 : 8 + side, 6 : 6 + side] = 0.0
    return Behind(torch.diag(seen.flatten()), small_lenet("kaiming"))


def without(*pictures: torch.Tensor) -> nn.Module:
    """These pictures' directions are taken out."""
    kept = torch.linalg.qr(torch.stack([p.flatten() for p in pictures], 1)).Q
    return Behind(torch.eye(256) - kept @ kept.T, small_lenet("kaiming"))


class Filtered(nn.Module):
    """A network behind a Laplace filter, which is blind to planes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None])
        self.network = convolutions(nn.Conv2d(1, 8, 5, 2, 2))

    def forward(self, x):
        return self.network(nn.functional.conv2d(x, self.kernel, padding=1))


def found(network, count=1, **options):
    images, labels = small_digits(count)
    target = stacked_gradients(network, images, labels)
    options = {"batched": True, "restarts": 1, "steps": 300, "seed": 1} | options
    return images, recover(network, target, SHAPE, **options)


@pytest.mark.parametrize("name", STRIDED)
def test_what_no_filter_sees_is_not_certified(measured, name):
    images, recovery = found(STRIDED[name]())
    certificate = recovery.certificate[0]
    assert recovery.distance[0] <= ANY.threshold
    assert certificate.status == "unknown", (recovery.inputs[:, 0] - images).square().mean()
    assert "the gradient does not determine the input" in certificate.reason
    assert certificate.check.left > 0.02
    assert 0.2 * 256 < certificate.check.blind <= 256


def test_a_bias_makes_half_a_picture_visible(measured):
    """A first linear layer's gradient holds the input, whatever its weights are."""
    for network in (without_columns(), dead_units()):
        images, recovery = found(network)
        assert recovery.certificate[0].certified
        assert (recovery.inputs[:, 0] - images).square().mean() < 1e-3


def test_a_small_part_unseen_is_not_certified(fixed_weights_measured):
    """A square of 5 by 5 counts little in the mean of what is left."""
    _, recovery = found(holed(5), 2)
    for certificate in recovery.certificate:
        assert certificate.status == "unknown"
        assert certificate.check.part.kept == pytest.approx(1.0, abs=1e-3)
        assert certificate.check.part.where == "around row 10, column 8"
    seen = found(holed(0), 2)[1]
    assert all(c.certified and not c.check.part.stays for c in seen.certificate)


ONE = torch.ones(16, 16)
PLACE = (torch.arange(16) + 0.5) * torch.pi / 16
WAVE = torch.cos(3 * PLACE)[:, None] * torch.cos(2 * PLACE)
UNSEEN = {
    "in its brightness": [ONE],
    "in its wave of 3 half periods down and 2 across": [WAVE],
    "in row 9": [(torch.arange(256) == 9 * 16 + column).float() for column in range(16)],
    "in column 4": [(torch.arange(256) == row * 16 + 4).float() for row in range(16)],
}


@pytest.mark.parametrize("where", UNSEEN)
def test_a_few_directions_unseen_are_not_certified(fixed_weights_measured, where):
    """Whatever penalties made of them, right or wrong: here a picture of little contrast, and bright."""
    network = without(*UNSEEN[where])
    images = 0.4 * small_digits(1)[0] + 0.5
    target = stacked_gradients(network, images, small_digits(1)[1])
    recovery = recover(network, target, SHAPE, batched=True, restarts=1, steps=300, seed=1)
    certificate = recovery.certificate[0]
    assert recovery.distance[0] <= ANY.threshold
    assert certificate.status == "unknown"
    assert "the gradient does not determine" in certificate.reason
    assert certificate.check.part.stays
    assert certificate.check.part.where == where


def test_fixed_weights_are_named(measured):
    """What a filter takes out may have any form, of which the check sees a few."""
    for network, operator in ((without(ONE), "addmm"), (Filtered(), "convolution")):
        certificate = found(network, steps=2)[1].certificate[0]
        assert certificate.status == "unknown"
        assert f"{operator} with fixed weights" in certificate.reason


def test_what_is_still_on_its_way_is_not_called_blind():
    told = Identifiability(left=0.04, numbers=256, evaluations=LONGEST, came_back=False).fault
    assert "could not be told" in told
    assert str(LONGEST) in told
    # What has come back needs no more evaluations.
    part = Part("in its brightness", 1.0, 0.5)
    told = Identifiability(left=0.01, numbers=256, evaluations=LONGEST, part=part).fault
    assert told.endswith("a part of the input: perturbed, it did not come back in its brightness")
    assert Identifiability(left=0.01, numbers=256, evaluations=LONGEST, came_back=False).fault == ""


def test_a_determined_input_comes_back(measured):
    images, recovery = found(small_lenet(), 3)
    assert (recovery.inputs[:, 0] - images).square().mean() < 1e-3
    for certificate in recovery.certificate:
        assert certificate.certified
        assert certificate.check.left < 0.01 < NOISE**2
        assert certificate.check.came_back
        assert certificate.check.evaluations < LONGEST


def test_the_check_of_a_victim_is_its_own(measured):
    """Its bits, too, are the same alone and among others, however many run at once."""
    whole = found(small_lenet(), 3)[1]
    handed = {}
    few = found(small_lenet(), 3, at_once=2, on_finished=lambda v, r: handed.__setitem__(v, r))[1]
    alone = found(small_lenet(), 1)[1]
    assert few.certificate == whole.certificate
    assert alone.certificate == whole.certificate[:1]
    assert {victim: recovery.certificate[0] for victim, recovery in handed.items()} == dict(
        enumerate(whole.certificate)
    )


def test_an_operator_that_drops_numbers_is_named():
    """Cropped, averaged, normalised by its own mean: matched exactly, and wrong."""
    crop = nn.Sequential(nn.ZeroPad2d(-2), *convolutions(nn.Conv2d(1, 8, 5, 2, 2))[:-1], nn.LazyLinear(10))
    averaged = convolutions(nn.AvgPool2d(4), nn.Conv2d(1, 8, 3, 1, 1))
    normal = convolutions(nn.Conv2d(1, 8, 5, 2, 2), nn.BatchNorm2d(8))
    for network, operator in (
        (crop, "constant_pad_nd"),
        (averaged, "avg_pool2d"),
        (normal, "native_batch_norm"),
    ):
        network(torch.zeros(1, *SHAPE))
        certifying_family = dataclasses.replace(ANY, threshold=1.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(certifying, "families", lambda family=certifying_family: (family,))
            certificate = found(network, steps=2)[1].certificate[0]
        assert certificate.status == "unknown"
        assert operator in certificate.reason
