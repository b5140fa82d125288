"""What arithmetic cannot vouch for is not certified: merged pictures, tampered gradients, clamps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.data import digits

SHAPE = (1, 28, 28)
IMAGES, LABELS = digits(4)
IMAGES = IMAGES.view(4, *SHAPE)


def gradient(model, x, y, loss=F.cross_entropy):
    return [g.detach() for g in torch.autograd.grad(loss(model(x), y), list(model.parameters()))]


def alike_units(outputs):
    """Every unit of the first layer is active for every picture."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, outputs))
    with torch.no_grad():
        model[1].bias += 2.0
    return model


@pytest.mark.parametrize("size", [2, 3])
def test_pictures_behind_one_output_merge_and_are_no_answer(size):
    model = alike_units(1)
    labels = torch.ones(size, 1)
    target = gradient(model, IMAGES[:size], labels, F.binary_cross_entropy_with_logits)
    options = {"batch_size": size, "loss_fn": "bce", "labels": labels}
    found = sf.recover_exact(model, target, SHAPE, **options)
    assert not found.found.any()
    assert "merge into their mean" in found.reason[0]
    searched = sf.recover(model, target, SHAPE, steps=2, **options)
    assert searched.source == ("search",)
    assert not searched.certificate[0].certified


def test_so_do_pictures_of_two_classes():
    model = alike_units(2)
    y = torch.tensor([1, 1])
    found = sf.recover_exact(model, gradient(model, IMAGES[:2], y), SHAPE, batch_size=2, labels=y)
    assert not found.found.any()


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_output_alone_confirms_nothing(outputs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, outputs))
    y = torch.ones(1, 1) if outputs == 1 else LABELS[:1] % 2
    loss = F.binary_cross_entropy_with_logits if outputs == 1 else F.cross_entropy
    target = gradient(model, IMAGES[:1], y, loss)
    told = {"loss_fn": "bce"} if outputs == 1 else {}
    for tampered in (False, True):
        if tampered:
            kept = target[0].abs() >= target[0].abs().flatten().quantile(0.9)
            target = [target[0] * kept, target[1]]
        found = sf.recover(model, target, SHAPE, labels=y, steps=2, **told)
        assert found.certificate[0].status == "unknown"
        if found.source == ("exact",):
            assert "nothing else in it confirms it" in found.certificate[0].reason
            assert ((found.inputs[0] - IMAGES[0]).abs().max() < 1e-4) is not tampered


def test_three_outputs_notice_what_was_pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    target = gradient(model, IMAGES[:1], LABELS[:1])
    assert sf.recover(model, target, SHAPE, steps=2).certificate[0].certified
    kept = target[0].abs() >= target[0].abs().flatten().quantile(0.9)
    assert not sf.recover_exact(model, [target[0] * kept, target[1]], SHAPE).found.any()


@pytest.mark.parametrize("first", [nn.ReLU(), nn.Hardtanh(-1.0, 1.0), nn.Hardtanh(0.0, 1.0)])
def test_what_is_the_identity_on_usual_pictures_alone_is_noticed(first):
    torch.manual_seed(0)
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(784, 32), nn.Sigmoid(), nn.Linear(32, 10))
    pictures = 4 * IMAGES[:1] - 2
    found = sf.recover_exact(model, gradient(model, pictures, LABELS[:1]), SHAPE)
    assert not found.found.any()
    assert "fed the input itself" in found.reason[0]
