"""The image behind a patch embedding follows from its gradient and that of the positions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.exact.likely_labels import likely_labels
from sapag_fast.exact.patch_embedding import find_patch_embedding
from sapag_fast.exact.patches import METHOD, solve_patches
from sapag_fast.exact.solve import MEANS_ALIKE, Arithmetic
from sapag_fast.models import initialise, make_model
from sapag_fast.recovery.exact import recover_exact
from sapag_fast.recovery.recover import recover
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

SMALL = {"image_size": 16, "width": 24, "layers": 2, "heads": 2, "classes": 4}


class Positions(nn.Module):
    """Positions as a map, added before the picture is made a row of tokens, and in another order."""

    def __init__(self, kind="map", width=24):
        super().__init__()
        self.kind = kind
        self.embed = nn.Conv2d(3, width, 4, 4)
        shape = (1, width, 4, 4) if kind == "map" else (16, width)
        self.positions = nn.Parameter(torch.randn(shape) * 0.1)
        self.mixed, self.last = nn.Linear(width, width), nn.Linear(width, 4)
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
        torch.autograd.grad(
            F.cross_entropy(model(x.clone()), y), [p for p in model.parameters() if p.requires_grad]
        )
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


def _solved(problem, victim=0, labels=None, classes=4):
    return Arithmetic(problem, 1, (3, 16, 16), classes=classes).solve(victim, labels)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-8), (torch.float32, 3e-3)])
@pytest.mark.parametrize("name", MODELS)
def test_the_image_comes_back(name, dtype, most):
    torch.manual_seed(0)
    problem, truth, labels = _problem(MODELS[name](), dtype, victims=2)
    for victim in (0, 1):
        for known in (labels[victim], None):
            found = _solved(problem, victim, known)
            assert (found.reason, found.doubt, found.method) == ("", "", METHOD)
            assert (found.inputs - truth[victim]).abs().max() < most
            assert torch.equal(found.labels, labels[victim])
            assert found.reproduction.difference < most


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_error_that_it_names_is_the_error(dtype):
    torch.manual_seed(0)
    for name in MODELS:
        problem, truth, _ = _problem(MODELS[name](), dtype)
        embedding = find_patch_embedding(problem, (3, 16, 16))
        found = solve_patches(problem, 0, embedding, (3, 16, 16))
        apart = (found.image - truth[0]).double().abs()
        rounding = 4 * torch.finfo(dtype).eps
        assert (
            apart.square().mean().sqrt() < 2 * found.errors + rounding
        )  # the largest of the standard errors
        assert found.errors < 100 * max(float(apart.max()), rounding)
        assert found.condition >= 1


def test_the_label_is_the_class_whose_logit_the_gradient_lowers():
    model = make_model("vit", **SMALL | {"classes": 50})
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for label in range(0, 50, 7):
        loss = F.cross_entropy(model(image), torch.tensor([label]))
        targets = [g[None] for g in torch.autograd.grad(loss, tuple(model.parameters()))]
        problem = Problem(VictimModel(model), F.cross_entropy, GradientDistance(), targets)
        ordered = likely_labels(problem, 0, image)
        assert ordered.shape == (50, 1)
        assert int(ordered[0]) == label


def test_recover_takes_it_before_it_searches():
    model = make_model("vit", **SMALL)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    target = torch.autograd.grad(F.cross_entropy(model(image), torch.tensor([2])), tuple(model.parameters()))
    found = recover(model, target, (3, 16, 16), steps=2)
    assert (found.source, found.label_source) == (("exact",), ("inferred",))
    assert found.certificate[0].status == "certified"
    assert (found.inputs[0] - image).abs().max() < 3e-3
    assert recover(model, target, (3, 16, 16), steps=2, exact="off").source == ("search",)
    assert recover_exact(model, target, (3, 16, 16)).found.all()


def test_what_it_leaves_alone():
    model = make_model("vit", **SMALL)
    problem, *_ = _problem(model)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    _solved(problem)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_networks_without_patches_are_not_run():
    model = make_model("lenet", channels=3, image_size=16)
    problem, *_ = _problem(model)
    model.register_forward_hook(lambda *_: pytest.fail("was run"))
    assert "no convolution cuts the input itself into patches" in _solved(problem, classes=None).reason


class Between(nn.Module):
    """Something between the input and the patches."""

    def __init__(self, change):
        super().__init__()
        self.change, self.vit = change, make_model("vit", **SMALL)

    def forward(self, x):
        return self.vit(self.change(x))


def _only_pictures(x):
    if x.max() > 1.01:
        raise ValueError("no picture")
    return x


class Frozen(nn.Module):
    """A layer is not trained."""

    def __init__(self, name):
        super().__init__()
        self.vit = make_model("vit", **SMALL)
        self.vit.get_submodule(name).requires_grad_(False)

    def forward(self, x):
        return self.vit(x)


def _without_positions():
    return nn.Sequential(nn.Conv2d(3, 24, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(24 * 16, 4))


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (lambda: Between(lambda x: x.clamp(0, 1)), {}, "no convolution cuts the input itself"),
        (lambda: Between(torch.abs), {}, "no convolution cuts the input itself"),
        (lambda: Between(lambda x: x.flip(3)), {}, "no convolution cuts the input itself"),
        (_without_positions, {}, "no parameter of positions has a gradient"),
        (lambda: make_model("vit", **SMALL, patch=2), {}, "64 patches leave none of the 24 equations"),
        # As many equations as unknowns: anything is fitted.
        (lambda: Positions("reordered", width=16), {}, "16 patches leave none of the 16 equations"),
        (MODELS["class"], {"batch": 2}, "or more inputs: patches leave"),
        (lambda: Frozen("embed"), {}, "the gradient of the patch embedding is not there"),
        (lambda: Between(lambda x: x.clamp_(0, 1)), {}, "no convolution cuts the input itself"),
        (lambda: Between(lambda x: x.abs_()), {}, "no convolution cuts the input itself"),
        (lambda: Between(_only_pictures), {}, "a run on noise fails (ValueError)"),
    ],
)
def test_where_it_does_not_apply(make, options, reason):
    torch.manual_seed(0)
    problem, *_ = _problem(make(), **options)
    found = _solved(problem)
    assert found.inputs is None
    assert reason in found.reason


def test_a_withheld_or_noisy_gradient():
    problem, _, labels = _problem(make_model("vit", **SMALL))
    at = problem.names.index("positions")
    problem.targets[at] = None
    assert "positions" in _solved(problem, labels=labels[0]).reason
    problem, _, labels = _problem(make_model("vit", **SMALL))
    problem.targets[at] += problem.targets[at].std() * torch.randn(problem.targets[at].shape)
    assert "noise" in _solved(problem, labels=labels[0]).reason


def test_a_wrong_label_is_refused():
    problem, _, labels = _problem(make_model("vit", **SMALL))
    assert "differs by" in _solved(problem, labels=(labels[0] + 1) % 4).reason


def test_behind_weights_of_zero_a_mean_would_do_as_well():
    model = initialise(make_model("vit", **SMALL, pool="mean"), "default", seed=0)
    for block in model.blocks:  # what is left is linear but for the normalisation, and that is off
        nn.init.zeros_(block.out.weight), nn.init.zeros_(block.down.weight)
    model.norm = nn.Identity()
    problem, *_ = _problem(model)
    found = _solved(problem)
    assert found.inputs is None or found.doubt == MEANS_ALIKE


def test_a_clipped_gradient_tells_the_same_image():
    problem, truth, labels = _problem(make_model("vit", **SMALL))
    for target in problem.targets:
        target *= 0.1
    found = _solved(problem, labels=labels[0])
    torch.testing.assert_close(found.inputs, truth[0])
    assert found.reproduction.factor == pytest.approx(0.1)
    assert "clipped or scaled" in found.reason


@pytest.mark.parametrize("size", [0.1, 0.3])
@pytest.mark.parametrize("where", [(5, 5), (slice(4, 8), slice(4, 8))])
def test_two_pictures_that_differ_in_a_place_are_not_one(where, size):
    """Their mean fits the patches, and nearly the gradient: by rounding alone they are told."""
    for seed in range(3):
        model = make_model("vit", layers=2, seed=seed)
        g = torch.Generator().manual_seed(seed)
        middle = 0.2 + 0.6 * torch.rand(1, 3, 32, 32, generator=g)
        apart = torch.zeros_like(middle)
        apart[..., where[0], where[1]] = size
        pair = torch.cat((middle - apart, middle + apart))
        loss = F.cross_entropy(model(pair), torch.tensor([3, 3]))
        found = recover_exact(model, torch.autograd.grad(loss, tuple(model.parameters())), (3, 32, 32))
        assert not found.found.any()
        assert "roundings of it" in found.reason[0]


def test_one_number_that_was_changed_shows():
    model = make_model("vit", **SMALL | {"width": 48, "heads": 1})
    problem, _, labels = _problem(model, torch.float32)
    entry = problem.targets[problem.names.index("embed.weight")].view(-1)
    for place in (7, 1000, -1):
        kept = entry[place].clone()
        entry[place] += 1e-2 * entry.square().mean().sqrt()
        assert "roundings of it" in _solved(problem, labels=labels[0]).reason
        entry[place] = kept


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model("vit", **SMALL | {"classes": 2}),
        lambda: make_model("mlp", channels=3, image_size=16, classes=2, widths=(32, 16)),
    ],
)
def test_a_label_that_another_would_do_for_is_doubted(make):
    """Of two classes the gradients are opposite, whatever the loss makes of it."""
    model = make()
    with torch.no_grad():
        list(model.parameters())[-1].copy_(torch.tensor([4.0, 0.0]))
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    loss = F.cross_entropy(model(image), torch.tensor([0]), label_smoothing=0.1)
    target = torch.autograd.grad(loss, tuple(model.parameters()))
    found = recover_exact(model, target, (3, 16, 16))
    assert not found.found.any()
    assert "clipped or scaled" in found.reason[0]
    assert "the label is not" in found.reason[0]
    opposite = recover_exact(model, target, (3, 16, 16), labels=[0])
    assert not opposite.found.any()
    assert opposite.reason[0]
