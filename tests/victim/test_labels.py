"""Label inference."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.models import INITIALISATIONS, LeNet, initialise
from sapag_fast.victim.labels import infer_labels
from sapag_fast.victim.last_layer import find_last_layer
from sapag_fast.victim.model import VictimModel


def _known(model, images, labels, **options):
    """What is inferred from the gradients of V batches, ``images [V, B, ...]``."""
    grads = [
        torch.autograd.grad(F.cross_entropy(model(x), y), model.parameters())
        for x, y in zip(images, labels, strict=True)
    ]
    targets = [torch.stack(rows) for rows in zip(*grads, strict=True)]
    noise = torch.rand(64, *images.shape[2:], generator=torch.Generator().manual_seed(9))
    return infer_labels(VictimModel(model), targets, batch_size=images.shape[1], noise=noise, **options)


def _infer(model, images, labels):
    return _known(model, images, labels).labels


def _images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_one_image(name):
    model = initialise(LeNet(image_size=16), name, seed=1)
    labels = torch.arange(10)[:, None]
    known = _known(model, _images(10, 1, 1, 16, 16), labels)
    assert torch.equal(known.labels, labels)
    assert known.source == ("inferred",) * 10
    assert known.reason == ("",) * 10


@pytest.mark.parametrize("name", INITIALISATIONS)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_batches_with_repeats(name, size):
    model = initialise(LeNet(image_size=16), name, seed=2)
    labels = torch.randint(0, 10, (12, size), generator=torch.Generator().manual_seed(size))
    labels[0] = 3  # all alike
    found = _infer(model, _images(12, size, 1, 16, 16), labels)
    assert torch.equal(found, labels.sort(1).values)


@pytest.mark.parametrize("name", ["uniform", "normal.5"])
def test_batches_unlike_noise(name):
    # With weights this large the output follows the brightness: noise images tell little about dark ones.
    model = initialise(LeNet(image_size=16), name, seed=2)
    labels = torch.randint(0, 10, (24, 8), generator=torch.Generator().manual_seed(4))
    images = _images(24, 8, 1, 16, 16) * torch.linspace(0.05, 0.6, 24).view(-1, 1, 1, 1, 1)
    assert torch.equal(_infer(model, images, labels), labels.sort(1).values)


def test_a_last_matrix_that_is_not_the_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.LogSoftmax(-1))
    labels = torch.randint(0, 6, (8, 4))
    assert torch.equal(_infer(model, _images(8, 4, 20), labels), labels.sort(1).values)


@pytest.mark.parametrize("size", [1, 4])
def test_last_layer_without_bias(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 30), nn.Sigmoid(), nn.Linear(30, 6, bias=False))
    labels = torch.randint(0, 6, (8, size))
    assert torch.equal(_infer(model, _images(8, size, 20), labels), labels.sort(1).values)


def test_the_users_model_keeps_its_buffers_and_hooks():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5, bias=False)
    )
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    probe = _images(1, 2, 1, 8, 8)
    grads = torch.autograd.grad(
        F.cross_entropy(model.eval()(probe[0]), torch.tensor([1, 3])), model.parameters()
    )
    network, targets = VictimModel(model.train()), [g[None] for g in grads]
    infer_labels(network, targets, batch_size=2, noise=_images(8, 1, 8, 8))
    assert model.training
    assert not model[3]._forward_hooks
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_errors():
    with pytest.raises(ValueError, match=r"no matrix.*labels= a tensor or 'joint'"):
        find_last_layer([torch.zeros(3, 1, 5, 5), None, torch.zeros(3)])
    with pytest.raises(ValueError, match=r"entry 0\) has shape \(7, 4\), but the model has 10 outputs"):
        find_last_layer([torch.zeros(7, 4), torch.zeros(7)], classes=10)
    layer = find_last_layer([torch.zeros(7, 4), torch.zeros(7), torch.zeros(3, 7), torch.zeros(4)])
    assert (layer.weight, layer.bias, layer.classes) == (2, None, 3)
    model = nn.Linear(4, 3)
    zeros = [torch.zeros(2, 3, 4), torch.tensor([[-0.5, 0.2, 0.3], [0.0, 0.0, 0.0]])]
    with pytest.raises(ValueError, match=r"no entry.*negative \(recovery 1\)"):
        infer_labels(VictimModel(model), zeros, batch_size=1, noise=torch.rand(8, 4))
    bare = nn.Linear(4, 3, bias=False)
    with pytest.raises(ValueError, match=r"no entry.*differs from zero, so"):
        infer_labels(VictimModel(bare), [torch.zeros(1, 3, 4)], batch_size=1, noise=torch.rand(8, 4))
