"""Victim networks: shapes, activations, initialisations, and that explicit mode covers every one of them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.models import (
    ACTIVATIONS,
    INITIALISATIONS,
    MLP,
    MODELS,
    ConvNet,
    Encoder,
    EncoderOptions,
    FunctionalActivation,
    LeNet,
    ViT,
    initialise,
    make_model,
)
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

SMALL = {"channels": 1, "image_size": 8, "classes": 4}
NARROW = {"widths": (3, 4, 6, 8)}
THIN = {"width": 8, "layers": 2, "heads": 2}
SENTENCES = {"vocabulary": 30, "max_length": 6, "classes": 4, "width": 16}


def _small(name, **options):
    own = NARROW if name.startswith("resnet18") else THIN if name == "vit" else {}
    usual = SENTENCES if name == "encoder" else SMALL | own
    return make_model(name, **usual | options)


def _shape(name):
    return (6, 16) if name == "encoder" else (1, 8, 8)


@pytest.mark.parametrize(("channels", "size", "features"), [(1, 28, 588), (3, 32, 768), (1, 15, 192)])
@pytest.mark.parametrize("convolutions", [3, 4])
def test_lenet_has_dlgs_shapes(channels, size, features, convolutions):
    model = LeNet(channels=channels, image_size=size, classes=7, convolutions=convolutions)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert len(shapes) == 2 * convolutions + 2
    assert shapes[:2] == [(12, channels, 5, 5), (12,)]
    assert shapes[-2:] == [(7, features), (7,)]
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_convnet_is_a_relu_network():
    model = ConvNet(image_size=16)
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 4
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [32, 32, 64, 64]
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_mlp_has_its_widths():
    model = MLP(channels=3, image_size=4, widths=(7, 6, 5))
    assert [m.in_features for m in model.modules() if isinstance(m, nn.Linear)] == [48, 7, 6, 5]
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 10)


def test_vit_is_dosovitskiys():
    model = ViT()
    assert sum(p.numel() for p in model.embed.parameters()) == 96 * 48 + 96
    assert (model.class_token.shape, model.positions.shape) == ((1, 1, 96), (1, 65, 96))
    assert sum(p.numel() for p in model.blocks.parameters()) == 6 * (12 * 96**2 + 13 * 96)
    assert 0.015 < make_model("vit").positions.std() < 0.025
    reference = nn.TransformerEncoderLayer(96, 4, 384, 0.0, "gelu", batch_first=True, norm_first=True)
    block, state = model.blocks[0], reference.state_dict()
    with torch.no_grad():
        for mine, theirs in (
            (block.qkv.weight, "self_attn.in_proj_weight"),
            (block.qkv.bias, "self_attn.in_proj_bias"),
            (block.out.weight, "self_attn.out_proj.weight"),
            (block.out.bias, "self_attn.out_proj.bias"),
            (block.up.weight, "linear1.weight"),
            (block.up.bias, "linear1.bias"),
            (block.down.weight, "linear2.weight"),
            (block.down.bias, "linear2.bias"),
        ):
            mine.copy_(state[theirs])
    x = torch.randn(2, 65, 96)
    torch.testing.assert_close(block(x), reference(x), rtol=1e-4, atol=1e-5)
    images = torch.rand(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    # Positions count: patches in another order give something else.
    assert not torch.allclose(model(images.flip(3)), model(images), atol=1e-5)


def test_vit_without_a_class_token():
    model = _small("vit", pool="mean")
    assert model.class_token is None
    assert model.positions.shape == (1, 4, 8)
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "patch: expected a divisor of the image's side 8, found 3"),
        ({"heads": 3}, "heads: expected a divisor of the width 8, found 3"),
        ({"pool": "last"}, "pool must be one of class, mean, found 'last'"),
        ({"layers": 0}, "layers must be at least 1, found 0"),
    ],
)
def test_vit_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        _small("vit", **options)


def test_encoder_takes_tokens_and_their_embeddings():
    model = _small("encoder")
    tokens = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    output = model(tokens)
    assert output.shape == (2, 4)
    assert torch.equal(model(model.word(tokens)), output)
    assert torch.equal(model(inputs_embeds=model.word(tokens)), output)
    # Positions count: the same bag of tokens in another order, with the first one in its place.
    assert not torch.allclose(model(tokens[:, [0, 2, 1, 3]]), output, atol=1e-3)


def test_encoder_does_not_see_padding():
    model = make_model("encoder", **SENTENCES, padding=0)
    assert torch.equal(model.word.weight[0], torch.zeros(16))
    short = model(torch.tensor([[5, 6, 7]]))
    torch.testing.assert_close(model(torch.tensor([[5, 6, 7, 0, 0]])), short)
    assert not torch.allclose(model(torch.tensor([[5, 6, 7, 1, 1]])), short, atol=1e-3)
    for name in INITIALISATIONS:
        assert not initialise(model, name).word.weight[0].any()


def test_encoder_drops_out_in_training_mode_alone():
    model, tokens = Encoder(EncoderOptions(**SENTENCES, dropout=0.5)), torch.tensor([[1, 2, 3]])
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one"),
        ({"inputs": torch.zeros(1, 3)}, r"tokens \[B, T\] or embeddings \[B, T, 16\].*\[1, 3\]"),
        ({"inputs": torch.zeros(1, 3, 15)}, r"found torch.float32 \[1, 3, 15\]"),
        ({"inputs": torch.zeros(1, 7, dtype=torch.int64)}, "at most 6 tokens, found 7"),
    ],
)
def test_encoder_says_what_does_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        _small("encoder")(**given)


def test_encoder_options_that_do_not_fit():
    with pytest.raises(ValueError, match="heads: expected a divisor of the width 16, found 3"):
        EncoderOptions(width=16, heads=3)
    with pytest.raises(ValueError, match="padding must be at most 9, found 10"):
        EncoderOptions(vocabulary=10, padding=10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("activation", ["tanh", F.softplus])
def test_activation_is_an_option_of_every_network(name, activation):
    usual, other = _small(name), _small(name, activation=activation)
    places = [kind for kind in ACTIVATIONS.values() if kind is not nn.Tanh]
    wanted = nn.Tanh if activation == "tanh" else FunctionalActivation
    kinds = [type(m) for m in other.modules()]
    assert not any(kind in kinds for kind in places)
    assert kinds.count(wanted) == sum(type(m) in places for m in usual.modules()) > 0
    x = torch.rand(2, *_shape(name))
    assert not torch.equal(usual(x), other(x))


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("sigmoid", torch.sigmoid),
        ("relu", F.relu),
        ("gelu", F.gelu),
        (nn.Softplus, F.softplus),
        (partial(nn.Softplus, beta=7), lambda x: F.softplus(x, beta=7)),
        (nn.Softplus(beta=7), lambda x: F.softplus(x, beta=7)),
    ],
)
def test_a_module_is_its_function(activation, function):
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(_small("mlp", activation=activation)(x), _small("mlp", activation=function)(x))


def test_each_place_has_an_activation_of_its_own():
    given = nn.PReLU()
    found = [m for m in _small("lenet", activation=given).modules() if isinstance(m, nn.PReLU)]
    assert len({id(m) for m in found} | {id(given)}) == 4


def test_a_functional_activation_shows_its_function():
    assert "FunctionalActivation(relu)" in repr(_small("lenet", activation=F.relu))
    bound = FunctionalActivation(partial(F.leaky_relu, negative_slope=0.2))
    assert repr(bound) == "FunctionalActivation(leaky_relu(negative_slope=0.2))"


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
    for name, fan in (("xavier-normal", 598), ("kaiming-normal", 588)):
        assert weights[name].std() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
        assert weights[name].abs().max() > (6 / fan) ** 0.5  # normal: beyond the uniform form's bound
    assert weights["default"].abs().max() == pytest.approx((1 / 588) ** 0.5, rel=0.01)
    assert initialise(LeNet(), "uniform").fc.bias.abs().max() > 0
    assert initialise(LeNet(), "kaiming").fc.bias.abs().max() == 0


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initialisation_covers_embeddings_and_spares_normalisation(name):
    model = Encoder(EncoderOptions(vocabulary=500, width=32, heads=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    initialise(model, name)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones(32))
            assert torch.equal(module.bias, torch.zeros(32))
        elif isinstance(module, nn.Linear | nn.Embedding):
            assert all((p != 7).all() for p in module.parameters())
    spread = {
        "uniform": 0.5 / 3**0.5,
        "normal.1": 0.1,
        "normal.5": 0.5,
        "default": 1.0,
        "xavier": (2 / 532) ** 0.5,
        "xavier-normal": (2 / 532) ** 0.5,
        "kaiming": (2 / 32) ** 0.5,
        "kaiming-normal": (2 / 32) ** 0.5,
    }
    assert model.word.weight.std().item() == pytest.approx(spread[name], rel=0.05)


def test_initialisation_spares_normalisation_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    model(torch.rand(2, 1, 5, 5))
    initialise(model, "uniform")
    assert torch.equal(model[1].weight, torch.ones(4))
    assert torch.equal(model[1].running_var, torch.ones(4))


def test_unknown_initialisation():
    with pytest.raises(ValueError, match=r"initialisation must be one of uniform, .* found 'he'"):
        initialise(LeNet(), "he")


@pytest.mark.parametrize("name", MODELS)
def test_make_model_is_seeded_and_leaves_the_global_generator(name):
    before = torch.random.get_rng_state()
    first, again, other = (_small(name, initialisation="xavier-normal", seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_make_model_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"model must be one of lenet, lenet4, .*encoder, found 'vgg'"):
        make_model("vgg")
    with pytest.raises(
        ValueError, match=r"convolutions: no option of the model 'lenet4'; expected activation, chan"
    ):
        make_model("lenet4", convolutions=3)
    with pytest.raises(ValueError, match=r"image_size: no option of the model 'encoder'"):
        make_model("encoder", image_size=32)
    with pytest.raises(ValueError, match=r"activation must be one of sigmoid, .*relu, found 'swish'"):
        make_model("lenet", activation="swish")
    with pytest.raises(TypeError, match=r"activation: expected a name.*found 3"):
        make_model("lenet", activation=3)
    with pytest.raises(TypeError, match=r"activation: expected a name.*found <class 'int'>"):
        make_model("lenet", activation=int)
    with pytest.raises(ValueError, match="convolutions must be at most 4, found 5"):
        LeNet(convolutions=5)


@pytest.mark.parametrize("initialisation", ["default", "uniform"])
@pytest.mark.parametrize("name", MODELS)
def test_explicit_mode_covers_every_network(name, initialisation):
    """In evaluation mode, for several victims and restarts, with autograd's distance and gradient."""
    model = _small(name, initialisation=initialisation).double().eval()
    g = torch.Generator().manual_seed(1)
    victims, restarts, shape = 2, 3, _shape(name)
    truth = torch.rand(victims, 2, *shape, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 4, (victims, 2), generator=g)
    trained = tuple(model.parameters())
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), trained, allow_unused=True)
        for x, y in zip(truth, labels, strict=True)
    ]
    targets = [None if row[0] is None else torch.stack(row) for row in zip(*rows, strict=True)]
    assert targets.count(None) == (name == "encoder")  # the word embedding, whose place the inputs take
    problem = Problem(VictimModel(model), F.cross_entropy, GradientDistance(), targets, restarts=restarts)
    inputs = torch.rand(victims * restarts, 2, *shape, generator=g, dtype=torch.float64)
    repeated = labels.repeat_interleave(restarts, 0)
    choice = choose_matching(problem, inputs, repeated)
    assert choice.mode == "explicit", choice.reason
    ours = choice.matching.value_and_gradient(inputs, repeated)
    theirs = SequentialMatching(problem).value_and_gradient(inputs, repeated)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-7, atol=1e-7 * theirs[1].abs().max().item())
    # Fewer searches, and as many rows in the batch as a sentence has tokens.
    kept = torch.tensor([0, 3, 5])
    choice.matching.retarget(problem.rows()[kept])
    fewer = choice.matching.value_and_gradient(inputs[kept], repeated[kept])
    torch.testing.assert_close(fewer[1], ours[1][kept], rtol=1e-7, atol=1e-7 * ours[1].abs().max().item())
