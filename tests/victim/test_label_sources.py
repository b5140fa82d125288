"""Labels that are called certain are right, and wrong ones are announced: heads, scales and losses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.defences import clip_norm, gaussian_noise
from sapag_fast.models import make_model
from sapag_fast.recovery.joint_labels import UNCONFIRMED
from sapag_fast.victim.labels import KnownLabels, infer_labels
from sapag_fast.victim.model import VictimModel

PIXELS, CLASSES = 36, 5
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky": nn.LeakyReLU,
    "norm": lambda: nn.LayerNorm(24),
}


def _network(activation: str, *, bias: bool, classes: int = CLASSES, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    head = nn.Linear(24, classes, bias=bias)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), ACTIVATIONS[activation](), head)


def _images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(seed))


def _gradient(model: nn.Module, images: Tensor, labels: Tensor, loss=F.cross_entropy) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model(images), labels), list(model.parameters())))


def _infer(model: nn.Module, gradient, batch_size: int = 1, **options) -> KnownLabels:
    noise = torch.rand(64, PIXELS, generator=torch.Generator().manual_seed(9))
    target = [entry[None] for entry in gradient]
    return infer_labels(VictimModel(model), target, batch_size=batch_size, noise=noise, **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_image_is_certain_behind_any_activation(activation, bias):
    for label in range(CLASSES):
        for scale in (1.0, 0.01, 30.0):
            model = _network(activation, bias=bias, seed=label)
            gradient = [scale * g for g in _gradient(model, _images(1, label), torch.tensor([label]))]
            known = _infer(model, gradient)
            assert (known.labels.item(), *known.source) == (label, "inferred"), (label, scale)


def test_the_issues_example():
    x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    for label in range(4):
        torch.manual_seed(label)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10, bias=False))
        found = sf.recover(model, _gradient(model, x, torch.tensor([label])), (1, 28, 28), steps=2)
        assert found.labels.item() == label
        assert found.label_source == ("inferred",)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_classes_are_certain_only_where_the_sign_is(activation, sign, bias):
    for label in range(2):
        for scale in (1.0, 0.3):
            model = _network(activation, bias=bias, classes=2, seed=label + 3)
            gradient = _gradient(model, _images(1), torch.tensor([label]))
            known = _infer(model, [sign * scale * g for g in gradient])
            if bias and sign * scale == 1.0:
                assert (known.labels.item(), *known.source) == (label, "inferred")
            else:
                assert known.source[0] != "inferred"
                assert known.reason[0]


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.03, 8.0])
@pytest.mark.parametrize("name", ["relu", "tanh", "norm", "sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_batches_of_any_scale_are_right_or_not_called_certain(name, scale, size, bias):
    classes, certain = 20, 0
    for seed in range(4):
        labels = torch.randint(0, classes, (size,), generator=torch.Generator().manual_seed(seed))
        model = _network(name, bias=bias, classes=classes, seed=seed)
        gradient = [scale * g for g in _gradient(model, _images(size, seed), labels)]
        known = _infer(model, gradient, size)
        right = known.labels[0].tolist() == labels.sort().values.tolist()
        if bias and name in ("relu", "sigmoid"):
            assert right
        assert right or known.source[0] != "inferred"
        assert known.source[0] == "inferred" or known.reason[0]
        if len(labels.unique()) == size and bias:
            assert known.source == ("inferred",)
            certain += 1
    assert certain or not bias or size == 8


def _smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.3)


def _one_hot(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, labels: loss(logits, F.one_hot(labels, logits.shape[1]).float())


def _noised(gradient):
    return gaussian_noise(gradient, 0.3, generator=torch.Generator().manual_seed(0), relative=True)


WRONG = {
    "negated": (F.cross_entropy, lambda gradient: [-g for g in gradient]),
    "bce": (_one_hot(F.binary_cross_entropy_with_logits), list),
    "mse": (_one_hot(F.mse_loss), list),
    "multi-margin": (F.multi_margin_loss, list),
    "noise": (F.cross_entropy, _noised),
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", WRONG)
def test_what_cross_entropy_does_not_explain_is_never_certain(name, size):
    loss, changed = WRONG[name]
    for seed in range(3):
        model = _network("sigmoid", bias=True, classes=10, seed=seed)
        labels = torch.randperm(10, generator=torch.Generator().manual_seed(seed))[:size]
        try:
            known = _infer(model, changed(_gradient(model, _images(size, seed), labels, loss)), size)
        except ValueError:
            continue
        right = known.labels[0].tolist() == labels.sort().values.tolist()
        assert known.source[0] != "inferred" or (right and size > 1)
        assert known.source[0] == "inferred" or known.reason[0]


def test_label_smoothing_leaves_one_images_label():
    model = _network("sigmoid", bias=True, classes=10)
    for label in range(10):
        known = _infer(model, _gradient(model, _images(1), torch.tensor([label]), _smoothed))
        assert known.labels.item() == label


def test_other_weights_are_said():
    model, other = (_network("sigmoid", bias=True, classes=10, seed=seed) for seed in (0, 1))
    known = _infer(other, _gradient(model, _images(1), torch.tensor([4])))
    assert (known.labels.item(), *known.source) == (4, "estimated")
    assert "other weights" in known.reason[0]


def test_more_images_than_said_are_not_called_certain():
    model = _network("tanh", bias=True, classes=10)
    labels = torch.tensor([4, 4, 7, 7])
    known = _infer(model, _gradient(model, _images(4), labels), 2)
    assert known.source == ("estimated",)
    assert "rank" in known.reason[0]
    known = _infer(model, _gradient(model, _images(2), labels[:2]))
    assert known.source == ("estimated",)


def test_a_layer_that_is_not_the_output_is_not_called_certain():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(PIXELS, 6)

        def forward(self, x):
            return self.fc(x).roll(1, -1)

    known = _infer(Turned(), _gradient(Turned(), _images(1), torch.tensor([2])))
    assert known.source == ("estimated",)
    assert "does not make the model's output" in known.reason[0]


def test_what_is_found_of_a_victim_does_not_follow_from_the_others():
    model = _network("norm", bias=True, classes=10)
    labels = torch.randint(0, 10, (5, 4), generator=torch.Generator().manual_seed(1))
    scales = (1.0, -1.0, 0.5, 1.0, 0.1)
    each = [
        [scale * g for g in _gradient(model, _images(4, row), y)]
        for row, (y, scale) in enumerate(zip(labels, scales, strict=True))
    ]
    noise = torch.rand(64, PIXELS, generator=torch.Generator().manual_seed(9))
    together = [torch.stack(entries) for entries in zip(*each, strict=True)]
    known = infer_labels(VictimModel(model), together, batch_size=4, noise=noise)
    for row, gradient in enumerate(each):
        alone = _infer(model, gradient, 4)
        assert torch.equal(alone.labels[0], known.labels[row])
        assert (alone.source[0], alone.reason[0]) == (known.source[row], known.reason[row])
    assert known.source[1] == "unknown"


def test_recoveries_say_where_labels_come_from():
    model = make_model("lenet", image_size=12)
    images = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 3, 3, 8])
    target = _gradient(model, images, labels)
    quick: dict = {"batch_size": 4, "steps": 2}
    scales = {1.0: "", 0.5: "0.5 times the mean's", 4.0: "4 times the mean's"}
    for scale, words in scales.items():
        found = sf.recover(model, [scale * g for g in target], (1, 12, 12), **quick)
        assert found.labels.tolist() == [labels.tolist()]
        assert found.label_source == ("estimated",)
        assert words in found.label_reason[0]
    found = sf.recover(model, clip_norm(target, max_norm=1.0), (1, 12, 12), **quick)
    assert found.labels.tolist() == [labels.tolist()]
    # Two evaluations find no labels by themselves, which the reason says.
    for given, source, reason in ((labels, "given", ""), ("joint", "joint", UNCONFIRMED)):
        found = sf.recover(model, target, (1, 12, 12), labels=given, **quick)
        assert (found.label_source, found.label_reason) == ((source,), (reason,))


def test_no_certificate_where_labels_are_unknown():
    model = make_model("lenet", image_size=28)
    target = [-g for g in _gradient(model, torch.rand(1, 1, 28, 28), torch.tensor([2]))]
    found = sf.recover(model, target, (1, 28, 28), steps=2)
    assert found.label_source == ("unknown",)
    assert found.labels.item() == 2
    assert not found.certificate[0].certified
    assert found.certificate[0].reason.startswith("labels unknown: ")
