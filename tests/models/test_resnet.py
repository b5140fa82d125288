"""Residual networks: published sizes, strides, heads and stems, and explicit mode on each of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.models import INITIALISATIONS, ResNet, initialise, make_model
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

TINY = {"channels": 2, "image_size": 9, "classes": 4, "widths": (3, 4), "blocks": 1, "activation": "sigmoid"}
FORMS = {
    "strides 2, global": {},
    "strides 1, global": {"strides": (1, 1)},
    "strides 1, pool 4": {"strides": (1, 1), "head": 4, "shortcut": "projection"},
    "strides 2, pool 2": {"head": 2},
    "strides 2, pool 1": {"head": 1, "shortcut": "projection"},
    "stride 2 in the first stage": {"strides": (2, 2), "head": 3, "blocks": (2, 1)},
    "equal widths, stride 3": {"strides": (1, 3), "widths": (3, 3)},
    "group normalisation": {"norm": "group", "widths": (4, 6), "shortcut": "projection"},
    "no normalisation": {"norm": "none", "head": 2, "shortcut": "projection"},
    "7x7 stem": {"stem": "7x7", "image_size": 13},
    "ReLU": {"activation": "relu", "head": 2},
}


def _parameters(model):
    return sum(p.numel() for p in model.parameters())


def _sides(model):
    """Sides of what each block puts out."""
    sides = []
    blocks = [m for m in model.body if hasattr(m, "short")]
    for block in blocks:
        block.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
    return sides


def test_resnet20_is_hes():
    model = make_model("resnet20")
    assert _parameters(model) == 269_722
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 20
    sides = _sides(model)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [32] * 3 + [16] * 3 + [8] * 3


def test_resnet18_has_its_published_sizes():
    model = make_model("resnet18")
    assert _parameters(model) == 11_173_962  # CIFAR
    sides = _sides(model)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [32, 32, 16, 16, 8, 8, 4, 4]
    widths = (64, 128, 256, 512)
    assert _parameters(make_model("resnet18", classes=1000)) == 11_173_962 + 513 * 990
    imagenet = ResNet(
        image_size=224, classes=1000, widths=widths, blocks=2, shortcut="projection", stem="7x7"
    )
    assert _parameters(imagenet) == 11_689_512
    sides = _sides(imagenet)
    assert imagenet.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert sides == [56, 56, 28, 28, 14, 14, 7, 7]
    deeper = ResNet(
        image_size=224, classes=1000, widths=widths, blocks=(3, 4, 6, 3), shortcut="projection", stem="7x7"
    )
    assert _parameters(deeper) == 21_797_672  # ResNet-34


def test_the_re_implementations_resnet18_keeps_every_position():
    model = make_model("resnet18-flat", activation="sigmoid", initialisation="uniform", widths=(4, 8, 16, 32))
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert sum(isinstance(m, nn.Sigmoid) for m in model.modules()) == 17
    assert model.fc.in_features == 32 * 8 * 8
    sides = _sides(model)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [32] * 8
    whole = make_model("resnet18-flat")
    assert whole.fc.weight.shape == (10, 512 * 8 * 8)
    assert _parameters(whole) == 11_173_962 + 10 * 512 * 63


def test_names_of_the_state():
    names = list(make_model("resnet18", widths=(2, 2, 3, 3)).state_dict())
    assert names[:2] == ["body.0.weight", "body.1.weight"]
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert "body.5.short.0.weight" in names
    assert "body.4.short.0.weight" not in names
    assert list(make_model("resnet18-flat", widths=(2, 2, 3, 3)).state_dict())[-1] == "fc.bias"


def test_shortcuts():
    x = torch.rand(2, 3, 9, 9)  # an odd side: both shortcuts round the same way
    padded, projected = (ResNet(widths=(4, 7), blocks=1, shortcut=s).eval() for s in ("pad", "projection"))
    assert _parameters(projected) - _parameters(padded) == 4 * 7 + 2 * 7
    block = padded.body[4]
    inner = torch.rand(2, 4, 9, 9)
    expected = torch.zeros(2, 7, 5, 5)
    expected[:, 1:5] = inner[:, :, ::2, ::2]
    assert torch.equal(block.short(inner), expected)
    assert padded(x).shape == projected(x).shape == (2, 10)


def test_a_pooled_head_keeps_where_the_image_was():
    model = ResNet(image_size=8, widths=(3, 4), blocks=1, strides=(1, 1), head=4).eval()
    x = torch.rand(1, 3, 8, 8)
    features = model.body(x)
    means = torch.stack(
        [features[..., i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)], -1
    )
    torch.testing.assert_close(model(x), model.fc(means.flatten(1)))
    spread = ResNet(image_size=8, widths=(3, 4), blocks=1, strides=(1, 1)).eval()
    torch.testing.assert_close(spread(x), spread.fc(spread.body(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": ()}, "widths must hold at least one size, found none"),
        ({"widths": (8, 4, 4)}, r"widths: padded shortcuts cannot narrow, found \(8, 4, 4\)"),
        ({"shortcut": "none"}, "shortcut must be one of pad, projection, found 'none'"),
        ({"norm": "layer"}, "norm must be one of batch, group, none, found 'layer'"),
        ({"stem": "5x5"}, "stem must be one of 3x3, 7x7, found '5x5'"),
        ({"blocks": 0}, "blocks must be at least 1, found 0"),
        ({"blocks": (1, 2)}, r"blocks must hold one number for each of the 3 widths, found \(1, 2\)"),
        ({"blocks": (1, 0, 2)}, r"blocks\[1\] must be at least 1, found 0"),
        ({"strides": (1, 2, 2, 2)}, r"strides must hold one number for each of the 3 widths, found \(1, 2,"),
        ({"strides": (0, 2, 2)}, r"strides\[0\] must be at least 1, found 0"),
        ({"head": "mean"}, "head must be one of global, or the side of an average pool, found 'mean'"),
        ({"head": 9}, "head must be at most 8, found 9"),
        ({"head": 0}, "head must be at least 1, found 0"),
        (
            {"head": 3, "image_size": 64, "stem": "7x7", "strides": (2, 2, 4)},
            "head must be at most 1, found 3",
        ),
    ],
)
def test_options_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"strides": 2}, "strides must be a sequence of ints"), ({"head": 2.0}, "head must")],
)
def test_options_of_another_type(given, message):
    with pytest.raises(TypeError, match=message):
        ResNet(**given)


def test_names_settle_what_they_name():
    for option in ("blocks", "shortcut"):
        with pytest.raises(
            ValueError, match=f"{option}: no option of the model 'resnet18'; expected .*widths"
        ):
            make_model("resnet18", **{option: 3})
    with pytest.raises(ValueError, match="strides: no option of the model 'resnet18-flat'"):
        make_model("resnet18-flat", strides=(1, 2, 2, 2))
    assert make_model("resnet20", strides=(1, 1, 1), head=4).fc.in_features == 64 * 64


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initialisation_spares_every_normalisation(name):
    model = ResNet(**TINY | {"norm": "group", "shortcut": "projection"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    initialise(model, name)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            assert torch.equal(module.weight, torch.ones(module.num_channels))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert all((p != 7).all() for p in module.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_explicit_mode_covers_every_form(form, training):
    """Distance and gradient are those of autograd, one recovery after the other."""
    torch.manual_seed(0)
    options = TINY | FORMS[form]
    model = initialise(ResNet(**options), "uniform", seed=2).double().train(training)
    g = torch.Generator().manual_seed(1)
    shape = (2, options["image_size"], options["image_size"])
    truth = torch.rand(2, 2, *shape, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 2), generator=g)
    trained = tuple(model.parameters())
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), trained) for x, y in zip(truth, labels, strict=True)
    ]
    model.load_state_dict(state, strict=False)
    targets = [torch.stack(row) for row in zip(*rows, strict=True)]
    problem = Problem(VictimModel(model), F.cross_entropy, GradientDistance(), targets, restarts=2)
    inputs = torch.rand(4, 2, *shape, generator=g, dtype=torch.float64)
    repeated = labels.repeat_interleave(2, 0)
    choice = choose_matching(problem, inputs, repeated)
    assert choice.mode == "explicit", choice.reason
    ours = choice.matching.value_and_gradient(inputs, repeated)
    theirs = SequentialMatching(problem).value_and_gradient(inputs, repeated)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-7, atol=1e-7 * theirs[1].abs().max().item())
