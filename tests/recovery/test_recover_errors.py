"""Every mistake in an argument of `recover` gets a message that names it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.recover import recover

SHAPE = (1, 8, 8)
MODEL = initialise(LeNet(image_size=8), "uniform")
GRADIENT = torch.autograd.grad(
    F.cross_entropy(MODEL(torch.zeros(1, *SHAPE)), torch.tensor([3])), MODEL.parameters()
)


def _with(index, entry):
    return [entry if i == index else g for i, g in enumerate(GRADIENT)]


def _fails(error, match, *, model=MODEL, target=GRADIENT, shape=SHAPE, **options):
    with pytest.raises(error, match=match):
        recover(model, target, shape, **{"steps": 2, **options})


def test_model():
    _fails(TypeError, "model must be a torch.nn.Module, found function", model=lambda x: x)
    frozen = nn.Linear(3, 2).requires_grad_(False)
    _fails(
        ValueError, "model must have a parameter with requires_grad=True, found none", model=frozen, target=[]
    )


def test_target_numbers_and_shapes():
    _fails(TypeError, "target must be a sequence of tensors.*Tensor", target=GRADIENT[0])
    _fails(TypeError, "target must be a sequence of tensors.*dict", target=dict(enumerate(GRADIENT)))
    _fails(TypeError, "target must be a sequence of tensors, found int", target=3)
    _fails(ValueError, "target must hold 8 tensors, one for each trainable .*, found 7", target=GRADIENT[:-1])
    _fails(
        ValueError,
        r"target entry 0 must have its parameter's shape \[12, 1, 5, 5\], found \[12, 5, 5, 1\]",
        target=_with(0, GRADIENT[0].movedim(1, 3)),
    )
    _fails(ValueError, r"entry 0 must .* \[victims, 12, 1, 5, 5\], found \[12, 1, 5, 5\]", batched=True)
    rows = [g.expand(2, *g.shape) for g in GRADIENT]
    rows[3] = rows[3][:1].expand(3, -1)
    _fails(
        ValueError, "entry 3 must have 2 victims as the entries before it, found 3", target=rows, batched=True
    )
    _fails(ValueError, "target must hold a gradient, found only None", target=[None] * 8)
    _fails(
        ValueError,
        "target must hold a gradient, found one of 0 victims",
        target=[g[None][:0] for g in GRADIENT],
        batched=True,
    )


def test_target_contents():
    _fails(TypeError, "target entry 1 must be a tensor or None, found list", target=_with(1, [1.0]))
    _fails(
        TypeError,
        "target entry 1 must be floating point, found torch.int64",
        target=_with(1, torch.ones(12).long()),
    )
    _fails(
        ValueError, "target entry 7 must be finite, found non-finite values", target=_with(7, GRADIENT[7] / 0)
    )
    _fails(
        ValueError,
        "target entry 2 must be on cpu as the model, found it on meta",
        target=_with(2, GRADIENT[2].to("meta")),
    )


def test_devices():
    mixed = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2).to("meta"))
    _fails(
        ValueError,
        r"model must be on one device, found several \(cpu, meta\); give device=",
        model=mixed,
        target=[],
    )


def test_input_shape():
    _fails(TypeError, "input_shape must be a sequence of ints", shape="wide")
    _fails(ValueError, r"input_shape must hold positive sizes.*\(1, 0, 8\)", shape=(1, 0, 8))
    _fails(
        ValueError,
        r"input_shape \[3, 8, 8\] with batch_size 1: the model rejects.*\[1, 3, 8, 8\]",
        shape=(3, 8, 8),
    )


@pytest.mark.parametrize("name", ["batch_size", "restarts", "steps"])
def test_counts(name):
    _fails(ValueError, f"{name} must be at least 1, found 0", **{name: 0})
    _fails(TypeError, f"{name} must be an int, found float", **{name: 2.0})


@pytest.mark.parametrize("name", ["box", "tv"])
def test_penalties(name):
    _fails(ValueError, f"{name} must be finite and not negative, found -1", **{name: -1})
    _fails(TypeError, f"{name} must be a number, found str", **{name: "1"})


def test_variation_of_vectors():
    model = nn.Linear(5, 2)
    target = torch.autograd.grad(
        F.cross_entropy(model(torch.rand(1, 5)), torch.tensor([0])), model.parameters()
    )
    _fails(ValueError, r"total variation needs.*\(5,\)", model=model, target=target, shape=(5,), tv=0.1)
    _fails(ValueError, r"basis: 'dct' needs", model=model, target=target, shape=(5,), basis="dct")


def test_names():
    _fails(ValueError, "recipe must be one of auto, .*, or a Recipe, found 'fast'", recipe="fast")
    _fails(ValueError, "optimizer must be one of lbfgs, adam, signed-adam, found 'sgd'", optimizer="sgd")
    _fails(ValueError, "basis must be one of pixel, dct, .* found 'fourier'", basis="fourier")
    _fails(ValueError, "start must be one of grey, .* found 'black'", start="black")
    _fails(ValueError, "distance must be one of sapag, .* found 'nearest'", distance="nearest")
    _fails(TypeError, "distance must be a kind's name, a Kind or a GradientDistance, found int", distance=3)
    _fails(ValueError, "labels must be 'infer', 'joint' or a tensor, found 'guess'", labels="guess")


def test_bounds_seed_progress():
    _fails(TypeError, "bounds must be a pair of numbers or None", bounds=3)
    _fails(ValueError, r"bounds must be finite with low < high, found \(1.0, 0.0\)", bounds=(1, 0))
    _fails(TypeError, "seed must be an int, found str", seed="7")
    _fails(TypeError, "progress must be callable, found int", progress=3)


def test_labels():
    _fails(ValueError, r"labels must have shape \[1, \.\.\.\], found \[2\]", labels=[1, 2])
    _fails(ValueError, "labels must lie in 0..9 .*found 10", labels=[10])
    _fails(ValueError, "labels must lie in 0..9 .*found -1", labels=torch.tensor([-1]))
    _fails(
        ValueError, r"labels must be probabilities \[1, 10\], found shape \[1, 4\]", labels=torch.rand(1, 4)
    )
    _fails(TypeError, "labels must be 'infer', 'joint' or a tensor", labels=object())
    zero = [torch.zeros_like(g) for g in GRADIENT]
    _fails(ValueError, "labels cannot be inferred: no entry", target=zero)
    conv = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    target = torch.autograd.grad(
        F.cross_entropy(conv(torch.rand(1, *SHAPE)), torch.tensor([0])), conv.parameters()
    )
    _fails(ValueError, "labels cannot be inferred.*no matrix", model=conv, target=target)
    plane = nn.Conv2d(1, 4, 3)
    target = torch.autograd.grad(plane(torch.rand(1, *SHAPE)).square().mean(), plane.parameters())
    _fails(
        ValueError,
        r"labels='joint' needs a model whose output is \[B, classes\]",
        model=plane,
        target=target,
        labels="joint",
    )


def test_start_tensor():
    _fails(ValueError, r"start must have shape \[1, 8, 8\] or .*, found \[8, 8\]", start=torch.zeros(8, 8))
    _fails(
        ValueError,
        r"start must have shape \[1, 3, 1, 1, 8, 8\] for 3 restarts, found one point for all",
        start=torch.zeros(SHAPE),
        restarts=3,
    )


def test_loss():
    _fails(TypeError, "loss_fn must be callable, found int", loss_fn=3)
    _fails(ValueError, "loss_fn must be one of cross-entropy, bce, mse, or a callable", loss_fn="hinge")
    _fails(
        ValueError, r"loss_fn must return one number.*shape \[1\]", loss_fn=lambda o, y: o[:, 0], labels=[1]
    )
    _fails(ValueError, "loss_fn must return one number.*found float", loss_fn=lambda o, y: 1.0, labels=[1])
    _fails(ValueError, "loss_fn rejects the model's output", loss_fn=F.nll_loss, labels=torch.rand(1, 3))


def test_gradient_without_the_input():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return self.bias.expand(x.shape[0], -1)

    _fails(ValueError, "does not depend on its input", model=Deaf(), target=[torch.randn(4)], labels=[1])
