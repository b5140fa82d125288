"""Inputs that follow from a gradient by arithmetic: right, or a reason."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.clients.named_defences import named_defences
from sapag_fast.data import digits
from sapag_fast.models import make_model

SHAPE = (1, 28, 28)
IMAGES, LABELS = digits(20)
IMAGES = IMAGES.view(20, *SHAPE)


def _gradient(model, x, y, loss=F.cross_entropy):
    return [g.detach() for g in torch.autograd.grad(loss(model(x), y), list(model.parameters()))]


def _stacked(model, x, y):
    rows = [_gradient(model, one[None], label[None]) for one, label in zip(x, y, strict=True)]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def _mlp(activation="relu", width=200, seed=0, **options):
    return make_model("mlp", activation=activation, widths=(width, 64), seed=seed, **options)


def _trained(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    return model


def _farthest(found, truth):
    """The largest difference of any number, each image beside its nearest."""
    apart = (found[:, None] - truth[None]).abs().flatten(2).amax(2)
    assert sorted(apart.argmin(1).tolist()) == list(range(len(truth)))
    return float(apart.min(1).values.max())


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
@pytest.mark.parametrize("steps", [0, 5])
def test_single_images_are_exact_whatever_the_activation(activation, steps):
    model = _trained(_mlp(activation), steps)
    found = sf.recover_exact(model, _stacked(model, IMAGES[:5], LABELS[:5]), SHAPE, batched=True)
    assert found.found.all()
    assert (found.inputs[:, 0] - IMAGES[:5]).abs().max() < 1e-6
    assert torch.equal(found.labels[:, 0], LABELS[:5])
    assert found.distance.max() < 1e-9
    assert found.reason == ("",) * 5


@pytest.mark.parametrize(("size", "width"), [(2, 100), (4, 100), (8, 200), (16, 400)])
def test_batches_behind_relu(size, width):
    model = _mlp(width=width)
    x, y = IMAGES[:size], LABELS[:size]
    found = sf.recover_exact(model, _gradient(model, x, y), SHAPE, batch_size=size)
    assert found.found.tolist() == [True], found.reason
    assert _farthest(found.inputs[0], x) < 1e-4
    assert found.labels[0].tolist() == sorted(y.tolist())
    assert found.difference.max() < 1e-5


def test_a_batch_through_a_trained_network():
    model = _trained(_mlp(width=400), 3)
    found = sf.recover_exact(model, _gradient(model, IMAGES[:8], LABELS[:8]), SHAPE, batch_size=8)
    assert found.found.tolist() == [True], found.reason
    assert _farthest(found.inputs[0], IMAGES[:8]) < 1e-3


def test_float64_is_exact_to_its_own_rounding():
    model = _mlp().double()
    x, y = IMAGES[:4].double(), LABELS[:4]
    found = sf.recover_exact(model, _gradient(model, x, y), SHAPE, batch_size=4)
    assert _farthest(found.inputs[0], x) < 1e-11
    one = sf.recover_exact(model, _gradient(model, x[:1], y[:1]), SHAPE)
    assert (one.inputs[0] - x[:1]).abs().max() < 1e-14


def test_the_order_of_labels_that_are_given_is_kept():
    model, x = _mlp(), IMAGES[:5]
    found = sf.recover_exact(model, _gradient(model, x, LABELS[:5]), SHAPE, batch_size=5, labels=LABELS[:5])
    assert (found.inputs[0] - x).abs().max() < 1e-4
    assert torch.equal(found.labels[0], LABELS[:5])
    wrong = sf.recover_exact(
        model, _gradient(model, x, LABELS[:5]), SHAPE, batch_size=5, labels=(LABELS[:5] + 3) % 10
    )
    assert not wrong.found.any()
    assert wrong.inputs.isnan().all()


def test_the_same_call_gives_the_same_bits_and_draws_no_number():
    model = _mlp()
    target = _gradient(model, IMAGES[:6], LABELS[:6])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sf.recover_exact(model, target, SHAPE, batch_size=6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(sf.recover_exact(model, target, SHAPE, batch_size=6).inputs, first.inputs)


@pytest.mark.parametrize(
    "defence", ["relative-noise:0.1", "relative-noise:0.001", "prune:0.9", "relative-noise:0.00001"]
)
@pytest.mark.parametrize("size", [1, 4])
def test_what_defences_blur_is_refused_with_a_reason(defence, size):
    model = _mlp()
    target = named_defences((defence,), 0)(_gradient(model, IMAGES[:size], LABELS[:size]), batched=False)
    found = sf.recover_exact(model, target, SHAPE, batch_size=size)
    assert not found.found.any()
    assert found.inputs.isnan().all()
    assert found.distance.isinf().all()
    assert "first layer" in found.reason[0]


@pytest.mark.parametrize("size", [1, 4])
def test_a_clipped_gradient_gives_its_inputs_away_and_says_the_factor(size):
    model = _mlp()
    target = [0.25 * g for g in _gradient(model, IMAGES[:size], LABELS[:size])]
    found = sf.recover_exact(model, target, SHAPE, batch_size=size)
    assert found.found.all()
    assert _farthest(found.inputs[0], IMAGES[:size]) < 1e-4
    assert "0.25 times" in found.reason[0]
    other_way = sf.recover_exact(model, [-g for g in target], SHAPE, batch_size=size)
    assert not other_way.found.any()


def test_images_that_occur_twice():
    model = _mlp()
    rows = torch.tensor([0, 1, 1, 2, 1])
    found = sf.recover_exact(model, _gradient(model, IMAGES[rows], LABELS[rows]), SHAPE, batch_size=5)
    assert found.found.all(), found.reason
    assert sorted(LABELS[rows].tolist()) == found.labels[0].tolist()
    nearest = (found.inputs[0][:, None] - IMAGES[None, :3]).abs().flatten(2).amax(2)
    assert nearest.min(1).values.max() < 1e-4
    assert sorted(nearest.argmin(1).tolist()) == [0, 1, 1, 1, 2]


def test_more_inputs_than_told():
    model = _mlp()
    target = _gradient(model, IMAGES[:3], LABELS[:3])
    for told in (1, 2):
        found = sf.recover_exact(model, target, SHAPE, batch_size=told)
        assert not found.found.any()
        assert "more inputs" in found.reason[0]


def _normalised(model):
    return nn.Sequential(nn.LayerNorm(28), model)


REFUSED = {
    "no bias": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 30, bias=False), nn.ReLU(), nn.Linear(30, 10)),
        1,
        "has no bias",
    ),
    "a convolution first": (
        lambda: make_model("lenet", image_size=28),
        1,
        "no linear layer is fed the input",
    ),
    "another operator between": (lambda: _normalised(_mlp()), 1, "no linear layer is fed the input"),
    "no zeros": (lambda: _mlp("tanh"), 4, "nothing tells its inputs apart"),
    "many": (lambda: _mlp(), 33, "more than 32 inputs are not tried"),
    "more inputs than rows": (lambda: _mlp(width=8), 16, "fills the rank"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_does_not_apply(name):
    build, size, reason = REFUSED[name]
    torch.manual_seed(0)
    model, x, y = build(), IMAGES.repeat(2, 1, 1, 1)[:size], LABELS.repeat(2)[:size]
    found = sf.recover_exact(model, _gradient(model, x, y), SHAPE, batch_size=size)
    assert not found.found.any()
    assert reason in found.reason[0]


@pytest.mark.parametrize("size", [1, 3])
def test_degenerate_targets(size):
    model = _mlp(width=40)
    zero = [torch.zeros_like(p) for p in model.parameters()]
    found = sf.recover_exact(model, zero, SHAPE, batch_size=size)
    assert not found.found.any()
    assert "gradient of zero" in found.reason[0]


def test_a_withheld_first_layer():
    model = _mlp()
    target = [None, None, *_gradient(model, IMAGES[:1], LABELS[:1])[2:]]
    found = sf.recover_exact(model, target, SHAPE)
    assert "is not there" in found.reason[0]


def test_clients_that_normalise_and_orders_of_pixels():
    class Turned(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.transpose(-1, -2).contiguous())

    model = Turned(_mlp())
    target = _gradient(model, (IMAGES[:3] - 0.13) / 0.3, LABELS[:3])
    found = sf.recover_exact(model, target, SHAPE, batch_size=3, mean=0.13, std=0.3)
    assert found.found.all(), found.reason
    assert _farthest(found.inputs[0], IMAGES[:3]) < 1e-4


def test_a_linear_layer_beside_others():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.side = nn.Conv2d(1, 4, 5, stride=4), nn.Linear(784, 20)
            self.fc = nn.Linear(4 * 36 + 20, 10)

        def forward(self, x):
            both = (self.conv(x).flatten(1), self.side(x.flatten(1)))
            return self.fc(torch.cat(both, 1).sigmoid())

    torch.manual_seed(0)
    model = Both()
    found = sf.recover_exact(model, _gradient(model, IMAGES[:1], LABELS[:1]), SHAPE)
    assert (found.inputs[0] - IMAGES[:1]).abs().max() < 1e-6


def test_other_losses_take_the_labels_given():
    model, targets = _mlp(), torch.rand(4, 10)
    target = _gradient(model, IMAGES[:4], targets, F.mse_loss)
    found = sf.recover_exact(model, target, SHAPE, batch_size=4, labels=targets, loss_fn="mse")
    assert found.found.all(), found.reason
    assert (found.inputs[0] - IMAGES[:4]).abs().max() < 1e-4


def test_arguments_are_checked():
    model = _mlp(width=20)
    target = _gradient(model, IMAGES[:1], LABELS[:1])
    with pytest.raises(ValueError, match="labels must be 'infer' or a tensor"):
        sf.recover_exact(model, target, SHAPE, labels="joint")
    with pytest.raises(ValueError, match="starts must be"):
        sf.recover_exact(model, target, SHAPE, starts=0)


def test_the_model_is_left_as_it_was():
    model = _mlp(width=40)
    before = copy.deepcopy(model.state_dict())
    sf.recover_exact(model, _gradient(model, IMAGES[:2], LABELS[:2]), SHAPE, batch_size=2)
    assert all(torch.equal(entry, before[name]) for name, entry in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
