"""The image behind a patch embedding follows from its gradient and that of the positions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.exact.patches import recover_patches
from sapag_fast.models import make_model
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

SMALL = {"image_size": 16, "width": 24, "layers": 2, "heads": 2, "classes": 4}


class Positions(nn.Module):
    """Positions as a map, added before the picture is made a row of tokens, and in another order."""

    def __init__(self, kind="map"):
        super().__init__()
        self.kind = kind
        self.embed = nn.Conv2d(3, 24, 4, 4)
        shape = (1, 24, 4, 4) if kind == "map" else (16, 24)
        self.positions = nn.Parameter(torch.randn(shape) * 0.1)
        self.mixed, self.last = nn.Linear(24, 24), nn.Linear(24, 4)
        self.order = torch.arange(16).flip(0)

    def forward(self, x):
        x = self.embed(x)
        if self.kind == "map":
            x = (x + self.positions).flatten(2).mT
        else:
            x = x.flatten(2).mT + self.positions[self.order]
        y = torch.tanh(self.mixed(x))
        return self.last((y @ y.mT / 5).softmax(-1) @ y * x).mean(1)


def _problem(model, dtype=torch.float64, victims=1, batch=1, side=16):
    model = model.to(dtype)
    g = torch.Generator().manual_seed(5)
    truth = torch.rand(victims, batch, 3, side, side, generator=g, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 4, (victims, batch), generator=g)
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), tuple(model.parameters()))
        for x, y in zip(truth, labels, strict=True)
    ]
    targets = [torch.stack(row) for row in zip(*rows, strict=True)]
    return Problem(VictimModel(model), F.cross_entropy, GradientDistance(), targets), truth, labels


MODELS = {
    "class": lambda: make_model("vit", **SMALL),
    "mean": lambda: make_model("vit", **SMALL, pool="mean"),
    "hardly-wider": lambda: make_model("vit", **SMALL | {"width": 17, "heads": 1}),
    "one-patch": lambda: make_model("vit", **SMALL, patch=16),
    "map": Positions,
    "reordered": lambda: Positions("reordered"),
    "normalised": lambda: Normalised(
        make_model("vit", **SMALL),
        torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
        torch.tensor([0.2, 0.3, 0.2]).view(3, 1, 1),
    ),
}


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-8), (torch.float32, 3e-3)])
@pytest.mark.parametrize("name", MODELS)
def test_the_image_comes_back(name, dtype, most):
    torch.manual_seed(0)
    problem, truth, labels = _problem(MODELS[name](), dtype, victims=2)
    for victim in (0, 1):
        for known in ({"labels": labels[victim]}, {"classes": 4}):
            found = recover_patches(problem, victim, (3, 16, 16), **known)
            assert found.reason == ""
            assert (found.inputs - truth[victim]).abs().max() < most
            assert torch.equal(found.labels, labels[victim])
            assert found.reproduction.difference < most
            assert found.condition >= 1


def test_what_it_leaves_alone():
    model = make_model("vit", **SMALL)
    problem, *_ = _problem(model)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    recover_patches(problem, 0, (3, 16, 16), classes=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def _without_positions():
    return nn.Sequential(nn.Conv2d(3, 24, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(24 * 16, 4))


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (_without_positions, {}, "no parameter of positions has a gradient"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), {}, "no convolution cuts the input itself"),
        (lambda: make_model("vit", **SMALL, patch=2), {}, "64 patches are more than the 24 equations"),
        # Behind normalisation a token's gradient sums to zero: of 16 numbers 15 are free.
        (lambda: make_model("vit", **SMALL | {"width": 16}), {}, "do not tell all patches apart"),
        (MODELS["class"], {"batch": 2}, "the gradient at what fits the patch embedding differs by"),
    ],
)
def test_where_it_does_not_apply(make, options, reason):
    torch.manual_seed(0)
    problem, *_ = _problem(make(), **options)
    found = recover_patches(problem, 0, (3, 16, 16), classes=4)
    assert found.inputs is None
    assert reason in found.reason


def test_a_withheld_or_noisy_gradient():
    problem, _, labels = _problem(make_model("vit", **SMALL))
    at = problem.names.index("positions")
    problem.targets[at] = None
    assert "positions" in recover_patches(problem, 0, (3, 16, 16), labels=labels[0]).reason
    problem, _, labels = _problem(make_model("vit", **SMALL))
    problem.targets[at] += problem.targets[at].std() * torch.randn(problem.targets[at].shape)
    assert "differs by" in recover_patches(problem, 0, (3, 16, 16), labels=labels[0]).reason
    with pytest.raises(ValueError, match="labels, classes: expected one of them"):
        recover_patches(problem, 0, (3, 16, 16))


def test_a_clipped_gradient_tells_the_same_image():
    problem, truth, labels = _problem(make_model("vit", **SMALL))
    for target in problem.targets:
        target *= 0.1
    found = recover_patches(problem, 0, (3, 16, 16), labels=labels[0])
    torch.testing.assert_close(found.inputs, truth[0])
    assert found.reproduction.factor == pytest.approx(0.1)
