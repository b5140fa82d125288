"""Vision transformers, bare parameters and weights made of others: explicit mode is the plain loop."""

import copy

import pytest
import torch
from explicit_cases import CLASSES, make_problem
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from vision_cases import EVERYTHING, LAYERS, TRANSFORMERS, make_vision

from sapag_fast.matching.choose import choose_isolated, choose_matching
from sapag_fast.matching.explicit import ExplicitMatching, NotCovered
from sapag_fast.matching.one_by_one import SequentialMatching

V, RESTARTS = 2, 3
WAYS = ("materialised", "ghost", "low-rank")


@pytest.fixture(autouse=True)
def _plain_attention():
    """As every search sets it."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _setup(model, shape, *, batch=1, victims=V, dtype=torch.float64, loss_fn=F.cross_entropy):
    model = model.to(dtype)
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(victims, batch, *shape, generator=g, dtype=dtype)
    labels = torch.randint(0, CLASSES, (victims, batch), generator=g)
    parameters = tuple(model.parameters())
    rows = [
        torch.autograd.grad(loss_fn(model(x), y), parameters, allow_unused=True, materialize_grads=True)
        for x, y in zip(truth, labels, strict=True)
    ]
    targets = [torch.stack(row) for row in zip(*rows, strict=True)]
    inputs = torch.rand(victims * RESTARTS, batch, *shape, generator=g, dtype=dtype)
    return make_problem(model, targets, restarts=RESTARTS), inputs, labels.repeat_interleave(RESTARTS, 0)


def _agrees(problem, inputs, labels, **options):
    matching = ExplicitMatching(problem, **options)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    for _ in range(2):
        found = matching.value_and_gradient(inputs, labels)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-13)
        for mine, other in zip(found[1], expected[1], strict=True):
            assert (mine - other).norm() <= 1e-8 * other.norm()
    return matching


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", EVERYTHING)
def test_is_the_plain_loop(name, batch):
    model, shape = make_vision(name)
    problem, inputs, labels = _setup(model, shape, batch=batch)
    matching = _agrees(problem, inputs, labels)
    assert {f"{row['layer']}.{row['parameter']}".lstrip(".") for row in matching.describe()} >= set(
        problem.names
    )
    torch.testing.assert_close(
        matching.value(inputs, labels), SequentialMatching(problem).value_and_gradient(inputs, labels)[0]
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [n for n in EVERYTHING if n not in LAYERS])
def test_without_forming_matrices(name, way):
    model, shape = make_vision(name)
    matching = _agrees(*_setup(model, shape), ways=way)
    assert way in {row["way"] for row in matching.describe()}


@pytest.mark.parametrize("name", EVERYTHING)
def test_is_chosen(name):
    model, shape = make_vision(name)
    choice = choose_matching(*_setup(model, shape, dtype=torch.float32))
    assert (choice.mode, choice.reason) == ("explicit", "")


@pytest.mark.parametrize("name", [*TRANSFORMERS, "added", "repeated", "tied-function"])
def test_recoveries_never_mix(name):
    """Another recovery's input and target, or none at all, change nothing."""
    model, shape = make_vision(name)
    problem, inputs, labels = _setup(model, shape)
    matching = ExplicitMatching(problem)
    _, whole, _ = matching.value_and_gradient(inputs, labels)
    changed = inputs.clone()
    changed[1:] = changed[1:].flip(0) * 3 - 1
    victims = problem.rows()
    matching.retarget(torch.cat([victims[:1], 1 - victims[1:]]))
    _, found, _ = matching.value_and_gradient(changed, labels)
    torch.testing.assert_close(found[0], whole[0], rtol=1e-10, atol=1e-14)
    for rows in ([4], [2, 5, 0], list(range(6)) * 3):
        matching.retarget(victims[rows])
        _, some, _ = matching.value_and_gradient(inputs[rows], labels[rows])
        torch.testing.assert_close(some, whole[rows], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["swin", "torchvision", "scalar"])
def test_the_size_of_isolated_evaluations_does_not_hang_on_how_many_there_are(name):
    """What is computed of parameters alone is not taken for a row's."""
    model, shape = make_vision(name)
    problem, inputs, labels = _setup(model, shape, dtype=torch.float32)
    sizes = {
        choose_isolated(problem, inputs[:rows], labels[:rows], problem.rows()[:rows]).matching.quantum
        for rows in (1, 2, 5)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["torchvision", "hugging-face", "timm-in-place", "swin"])
def test_the_users_module_stays_as_it_is(name):
    model, shape = make_vision(name)
    problem, inputs, labels = _setup(model, shape)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    choose_matching(problem, inputs, labels).matching.value_and_gradient(inputs, labels)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(type(p) is nn.Parameter and p.grad is None for p in model.parameters())
    copy.deepcopy(model)


def test_dropout_in_attention_draws_for_every_recovery():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(6, 2, 9, 0.5, batch_first=True), nn.Flatten(), nn.Linear(30, CLASSES)
    )
    torch.manual_seed(0)
    problem, inputs, labels = _setup(model, (5, 6))
    matching = ExplicitMatching(problem)
    same, alike = inputs[:1].expand_as(inputs), labels[:1].expand_as(labels)
    matching.retarget(torch.zeros(V * RESTARTS, dtype=torch.long))
    assert matching.value_and_gradient(same, alike)[0].unique().numel() == V * RESTARTS


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.last = nn.GRU(6, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.last(self.gru(x)[0][:, -1])


class Flattened(nn.Module):
    """Recoveries are not side by side when the parameter meets them."""

    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(6, 6)), nn.Linear(30, CLASSES)

    def forward(self, x):
        y = x.transpose(0, 1).reshape(-1, 6) @ self.weight
        return self.last(y.view(5, -1, 6).transpose(0, 1).flatten(1).sin())


class Stray(nn.Module):
    """A convolution's weight is used outside of it as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(72, CLASSES)

    def forward(self, x):
        return self.last(F.conv2d(self.conv(x).sin(), self.conv.weight, padding=1).flatten(1))


class Coupling(nn.Module):
    """A parameter meets a mean over the batch."""

    def __init__(self):
        super().__init__()
        self.offset, self.last = nn.Parameter(torch.rand(8)), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(x.sin() * (x.mean(0) * self.offset))


class Normed(nn.Module):
    """A layer is called with a parameter that all inputs share."""

    def __init__(self):
        super().__init__()
        self.offset, self.norm, self.last = (
            nn.Parameter(torch.rand(8)),
            nn.LayerNorm(8),
            nn.Linear(8, CLASSES),
        )

    def forward(self, x):
        return self.last((x + self.norm(self.offset)).sin())


class Changing(nn.Module):
    """Writes to its parameter."""

    def __init__(self):
        super().__init__()
        self.offset, self.last = nn.Parameter(torch.rand(8)), nn.Linear(8, CLASSES)

    def forward(self, x):
        y = x.sin().clone()
        y[:, :4] = self.offset[:4]
        return self.last(y)


REFUSED = {
    "recurrent": (
        (5, 6),
        Recurrent,
        "module 'gru' (GRU): the operator 'gru' on its parameter 'weight_ih_l0'",
    ),
    "flattened": ((5, 6), Flattened, "explicit mode and autograd disagree on the gradient of 'weight'"),
    "stray": (
        (2, 6, 6),
        Stray,
        "module 'conv' (Conv2d): outside of it the operator 'conv2d' uses its 'weight'",
    ),
    "coupling": (
        (8,),
        Coupling,
        "the model (Coupling): the operator 'mul' on its parameter 'offset' gives something that all inputs",
    ),
    "normed": (
        (8,),
        Normed,
        "module 'norm' (LayerNorm) maps [8] to [8], which does not have",
    ),
    "changing": (
        (8,),
        Changing,
        "the model (Changing): the operator 'setitem' on its parameter 'offset' writes in place",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_say_which_module_and_operator(name):
    shape, make, reason = REFUSED[name]
    torch.manual_seed(0)
    problem, inputs, labels = _setup(make(), shape)
    choice = choose_matching(problem, inputs, labels)
    assert choice.mode in ("vmap", "sequential")
    assert reason in choice.reason
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    torch.testing.assert_close(choice.matching.value_and_gradient(inputs, labels)[1], expected[1])


def test_another_path_later_is_noticed():
    class Twofold(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.last, self.calls = nn.Parameter(torch.rand(8)), nn.Linear(8, CLASSES), 0

        def forward(self, x):
            return self.last((x + self.gain if self.other else x * self.gain).sin())

    model = Twofold()
    model.other = False
    problem, inputs, labels = _setup(model, (8,))
    matching = ExplicitMatching(problem)
    matching.value_and_gradient(inputs, labels)
    matching.network.model.other = True
    with pytest.raises(NotCovered, match=r"the model \(Twofold\).*'add'.*does otherwise than at first"):
        matching.value_and_gradient(inputs, labels)
