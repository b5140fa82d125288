"""Losses beside plain cross-entropy: what the last layer tells of their labels, and what is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, find_loss
from sapag_fast.recovery.recover import recover

SHAPE = (1, 8, 8)
BCE = F.binary_cross_entropy_with_logits


def _net(outputs, *, seed=0, activation=nn.Sigmoid, bias=True):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), activation(), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(64, outputs, bias=bias))


def _found(model, loss, truth, name=None, *, scale=1.0, images=1, **options):
    inputs = torch.rand(images, *SHAPE)
    gradient = torch.autograd.grad(loss(model(inputs), truth), list(model.parameters()))
    gradient = [scale * part for part in gradient]
    options = {"steps": 1, "batch_size": images, "loss_fn": loss if name is None else name} | options
    return recover(model, gradient, SHAPE, **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("outputs", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_yes_and_no(outputs, seed, scale):
    model = _net(outputs, seed=seed, activation=nn.Tanh)
    labels = (torch.rand(1, outputs) > 0.5).float()
    found = _found(model, BCE, labels, "bce", scale=scale)
    assert torch.equal(found.labels, labels[None])
    assert found.certificate[0].status == "unknown"


def test_yes_and_no_of_a_squeezed_output_and_weighted():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _net(1)

        def forward(self, inputs):
            return self.net(inputs).squeeze(-1)

    for label in (0.0, 1.0):
        found = _found(Squeezed(), BCE, torch.tensor([label]), "bce")
        assert found.labels.tolist() == [[label]]
        loss = BinaryCrossEntropy(pos_weight=(5.0,))
        found = _found(_net(1), partial(BCE, pos_weight=torch.tensor([5.0])), torch.tensor([[label]]), loss)
        assert found.labels.tolist() == [[[label]]]


@pytest.mark.parametrize("ones", range(5))
def test_yes_and_no_of_a_batch(ones):
    labels = torch.tensor([[0.0]] * (4 - ones) + [[1.0]] * ones)
    assert torch.equal(_found(_net(1), BCE, labels, "bce", images=4).labels[0], labels)


def test_yes_and_no_without_a_bias_needs_features_of_one_sign():
    for label in (0.0, 1.0):
        labels = torch.tensor([[label]])
        assert _found(_net(1, bias=False), BCE, labels, "bce").labels.item() == label
        with pytest.raises(ValueError, match=r"labels of bce cannot be inferred: the last layer has no bias"):
            _found(_net(1, bias=False, activation=nn.Tanh), BCE, labels, "bce")


@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_real_targets(outputs):
    for seed in range(3):
        labels = 3 * torch.randn(1, outputs)
        found = _found(_net(outputs, seed=seed, activation=nn.ReLU), F.mse_loss, labels, "mse")
        assert torch.allclose(found.labels[0], labels, atol=1e-4)


def test_real_targets_of_a_batch_are_not_told():
    with pytest.raises(ValueError, match="labels of mse cannot be inferred: that takes one input"):
        _found(_net(2), F.mse_loss, torch.randn(2, 2), "mse", images=2)
    with pytest.raises(ValueError, match=r"labels of mse cannot be inferred: .*local step"):
        _found(_net(2), F.mse_loss, torch.randn(1, 2), "mse", local_steps=2, local_lr=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("images", [1, 4])
def test_classes_smoothed_and_weighted(smoothing, weighted, images):
    for seed in range(3):
        model = _net(6, seed=seed)
        weight = torch.rand(6) + 0.2 if weighted else None
        labels = torch.randint(6, (images,)).sort().values
        loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        assert torch.equal(_found(model, loss, labels, images=images).labels[0], labels)


def test_a_smoothed_class_that_the_network_is_too_sure_of():
    """The label's own entry of the gradient is positive then."""
    model = _net(4)
    with torch.no_grad():
        model[-1].bias[2] += 12
    loss = partial(F.cross_entropy, label_smoothing=0.2)
    assert _found(model, loss, torch.tensor([2])).labels.item() == 2


def test_which_callables_are_cross_entropy():
    weight = torch.tensor([0.25, 2.0])
    assert find_loss(None) == find_loss("cross-entropy") == find_loss(F.cross_entropy) == CrossEntropy()
    assert find_loss(None).plain
    assert find_loss(nn.CrossEntropyLoss()).function is F.cross_entropy
    assert find_loss(nn.CrossEntropyLoss(weight, label_smoothing=0.5)) == CrossEntropy(0.5, (0.25, 2.0))
    assert find_loss(partial(F.cross_entropy, weight=weight)) == CrossEntropy(weight=weight)
    for other in (nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(ignore_index=1), F.mse_loss):
        assert type(find_loss(other)) is Loss
        assert find_loss(other).function is other


@pytest.mark.parametrize("labels", ["infer", "joint"])
@pytest.mark.parametrize(
    "loss", [BCE, F.mse_loss, nn.CrossEntropyLoss(reduction="sum"), lambda o, y: o.mean()]
)
def test_other_callables_need_labels(loss, labels):
    gradient = [torch.rand_like(p) for p in _net(1).parameters()]
    with pytest.raises(
        ValueError, match=f"labels: '{labels}' is not known of the loss_fn .*; give labels= a ten"
    ):
        recover(_net(1), gradient, SHAPE, loss_fn=loss, labels=labels, steps=1)


class Hinge:
    """A loss that brings what belongs to its labels, -1 and 1."""

    def __call__(self, output, labels):
        return (1 - labels * output).square().mean()

    def infer_labels(self, evidence):
        bias = evidence.target[-1]
        return -bias.sign()[:, None]

    def joint_targets(self, logits):
        return logits.tanh()


def test_a_loss_that_brings_its_inference():
    for label in (-1.0, 1.0):
        labels = torch.tensor([[label]])
        found = _found(_net(1), Hinge(), labels)
        assert found.labels.tolist() == [[[label]]]
        assert found.certificate[0].status == "unknown"
    assert _found(_net(3), Hinge(), torch.ones(1, 3), labels="joint").soft_labels.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("loss", "labels", "words"),
    [
        ("bce", torch.tensor([[1, 2]]), r"labels must be targets in 0..1, found 2 among them"),
        (
            "bce",
            torch.tensor([1]),
            r"labels must be targets in 0..1 \[1, 2\] as the model's output, found shape \[1\]",
        ),
        ("mse", torch.tensor([0.5]), r"labels must be numbers \[1, 2\] as the model's output"),
        (CrossEntropy(0.1), torch.tensor([2]), r"labels must lie in 0..1"),
        (
            CrossEntropy(weight=(1, 2, 3)),
            "infer",
            r"weight must be of 3 classes for outputs \[B, 3, ...\], found",
        ),
        (BinaryCrossEntropy((1, 2, 3)), "infer", r"pos_weight must have 2 numbers"),
        ("bce", "infer", "cannot be inferred for several inputs"),
    ],
)
def test_labels_that_do_not_fit(loss, labels, words):
    images = 4 if words.startswith("cannot") else 1
    with pytest.raises(ValueError, match=words):
        _found(_net(2), F.mse_loss, torch.rand(images, 2), loss, images=images, labels=labels)


@pytest.mark.parametrize("given", [-0.1, 1.0, float("nan"), "0.1"])
def test_smoothing_out_of_range(given):
    with pytest.raises((TypeError, ValueError), match="label_smoothing must be"):
        CrossEntropy(given)
    with pytest.raises((TypeError, ValueError), match="weight must be"):
        CrossEntropy(weight=[given if given == -0.1 else -1.0])


def test_whole_numbers_are_targets():
    found = _found(_net(1), BCE, torch.ones(1, 1), "bce", labels=[1])
    assert found.labels.tolist() == [[[1.0]]]
    assert (
        _found(_net(2), F.mse_loss, torch.ones(1, 2), MeanSquaredError(), labels=[[3, 4]]).labels.dtype
        == torch.float32
    )


@pytest.mark.parametrize(("loss", "name"), [(BCE, "bce"), (F.mse_loss, "mse")])
@pytest.mark.parametrize("restarts", [1, 2])
def test_searched_jointly(loss, name, restarts):
    model = _net(3)
    inputs = torch.rand(1, *SHAPE)
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    gradient = torch.autograd.grad(loss(model(inputs), labels), list(model.parameters()))
    found = recover(model, gradient, SHAPE, loss_fn=name, labels="joint", steps=200, restarts=restarts)
    assert (found.inputs[0] - inputs).square().mean() < 1e-2
    assert torch.allclose(found.soft_labels[0], labels, atol=0.05)
    assert torch.allclose(found.labels[0], labels, atol=0.05)


def test_one_logit_searched_jointly_from_both_sides():
    model = _net(1)
    for label in (0.0, 1.0):
        labels = torch.tensor([[label]])
        found = _found(model, BCE, labels, "bce", labels="joint", steps=200, restarts=2)
        assert found.labels.item() == label


def test_soft_classes_searched_jointly():
    model, labels = _net(4), torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    found = _found(model, F.cross_entropy, labels, "cross-entropy", labels="joint", steps=200, restarts=2)
    assert found.labels.item() == 0
    assert torch.allclose(found.soft_labels[0], labels, atol=0.1)
