"""Explicit mode gives what one recovery after the other gives, and leaves the user's module alone."""

from dataclasses import replace

import pytest
import torch
from explicit_cases import CLASSES, MODELS, ROW, gradients, make_model, make_problem
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances import kind as distances
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.explicit import ExplicitMatching, shared_convolution
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

V, RESTARTS, B = 2, 3, 2
R = V * RESTARTS
WAYS = ("materialised", "ghost", "low-rank")


def _setup(model, shape, *, victims=V, kind="sapag", loss_fn=F.cross_entropy, **options):
    model = model.double()
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(victims, B, *shape, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (victims, B), generator=g)
    targets = gradients(model, truth, labels)
    problem = make_problem(model, targets, restarts=RESTARTS, kind=kind, loss_fn=loss_fn, **options)
    inputs = torch.rand(victims * RESTARTS, B, *shape, generator=g, dtype=torch.float64)
    return problem, inputs, labels.repeat_interleave(RESTARTS, 0)


def _close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def _agrees(problem, inputs, labels, **options):
    matching = ExplicitMatching(problem, **options)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    # The second evaluation writes where the first did.
    for _ in range(2):
        _close(matching.value_and_gradient(inputs, labels), expected)
    return matching


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("victims", [1, V])
@pytest.mark.parametrize("name", MODELS)
def test_is_sequential(name, victims, way):
    model, shape = make_model(name)
    problem, inputs, labels = _setup(model, shape, victims=victims)
    matching = _agrees(problem, inputs, labels, ways=way)
    ways = {row["way"] for row in matching.describe()}
    assert way in ways
    assert {row["layer"] for row in matching.describe()} == {
        name.rpartition(".")[0] for name in problem.names
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["linear", "conv2d", "embedding", "twice"])
def test_the_value_alone_is_the_same(name, way):
    model, shape = make_model(name)
    problem, inputs, labels = _setup(model, shape)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)[0]
    found = ExplicitMatching(problem, ways=way).value(inputs, labels)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    assert not found.requires_grad


def test_withheld_layers_keep_the_others_numbers():
    """The distance is told each tensor's layer, and some tensors are not there."""
    model, shape = make_model("linear-tokens")
    problem, inputs, labels = _setup(model, shape, layer_weights=[0.5, 1.0, 2.0, 3.0, 4.0])
    for withheld in ([0, 1], [2, 3], [5]):
        targets = [None if i in withheld else t for i, t in enumerate(problem.targets)]
        problem = replace(problem, targets=targets)
        _agrees(problem, inputs, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [n for n in MODELS if "conv" in n or "norm" in n])
def test_large_convolutions(monkeypatch, name, dtype):
    """One call of oneDNN for each recovery, channels innermost: made to work on small ones."""
    monkeypatch.setattr(shared_convolution, "LARGE_WORK", 1)
    model, shape = make_model(name)
    problem, inputs, labels = _setup(model, shape)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)[:2]
    matching = ExplicitMatching(
        make_problem(model.to(dtype), [t.to(dtype) for t in problem.targets], restarts=RESTARTS)
    )
    matching.network.check(inputs.to(dtype))
    images = len(shape) == 3
    assert matching.network.memory_format == (torch.channels_last if images else torch.contiguous_format)
    found = matching.value_and_gradient(inputs.to(dtype), labels)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for a, b in zip(found, expected, strict=False):
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("kind", sorted(k for k in distances.kinds()))
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_every_distance(name, kind):
    model, shape = make_model(name)
    problem, inputs, labels = _setup(model, shape, kind=kind)
    matching = _agrees(problem, inputs, labels, ways="ghost")
    ways = {row["way"] for row in matching.describe()}
    assert ("ghost" in ways) == (kind not in ("l1", "tag"))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(distances, "_KINDS", dict(distances._KINDS))

    def constant(sums):
        return (sums.sum.square() / sums.size + sums.square + 0.1 * sums.dummy_square).sum(-1)

    distances.register_distance("with-a-constant", constant)
    distances.register_distance("absolute", lambda sums: sums.absolute.sum(-1))


@pytest.mark.parametrize("way", ["ghost", "low-rank"])
def test_distances_of_ones_own(registered, way):
    model, shape = make_model("linear")
    problem, inputs, labels = _setup(model, shape, kind="with-a-constant")
    assert way in {row["way"] for row in _agrees(problem, inputs, labels, ways=way).describe()}
    problem, inputs, labels = _setup(model, shape, kind="absolute")
    assert {row["way"] for row in _agrees(problem, inputs, labels, ways=way).describe()} == {"materialised"}


@pytest.mark.parametrize("way", ["materialised", "ghost"])
def test_options_of_the_distance(way):
    model, shape = make_model("linear")
    options = {"layer_weights": [2.0, 0.5], "bandwidth": 0.3, "variance": [1e-3, 2e-3]}
    _agrees(*_setup(model, shape, **options), ways=way)
    problem, inputs, labels = _setup(model, shape)
    for distance in (
        GradientDistance(layers=[0, 1, 1, 0], backend="cpu"),
        GradientDistance(merge_bias=False, backend="reference"),
    ):
        _agrees(replace(problem, distance=distance), inputs, labels, ways=way)


@pytest.mark.parametrize("way", WAYS)
def test_joint_labels(way):
    model, shape = make_model("linear")
    problem, inputs, _ = _setup(model, shape)
    problem = replace(problem, joint=True)
    logits = torch.randn(R, B, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    matching = _agrees(problem, inputs, logits, ways=way)
    assert matching.value_and_gradient(inputs, logits)[2].shape == logits.shape


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["linear", "conv2d", "batch-norm-train"])
def test_retarget(name, way):
    model, shape = make_model(name)
    problem, inputs, labels = _setup(model, shape, victims=3)
    matching = ExplicitMatching(problem, ways=way)
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)[:2]
    rows = torch.arange(9)
    for left in (rows, rows[[0, 1, 3, 7]], rows[[8, 0, 4]], rows[[0, 3, 6]], rows[[4]], rows):
        matching.retarget(left // RESTARTS)
        found = matching.value_and_gradient(inputs[left], labels[left])
        _close(found[:2], [t[left] for t in expected])
    with pytest.raises(ValueError, match="inputs: expected 9 recoveries as last retargeted, found 2"):
        matching.value_and_gradient(inputs[:2], labels[:2])


def test_retarget_errors():
    model, shape = make_model("linear")
    matching = ExplicitMatching(_setup(model, shape)[0])
    with pytest.raises(ValueError, match=r"victims: expected numbers from 0 to 1, found \[0, 2\]"):
        matching.retarget(torch.tensor([0, 2]))
    with pytest.raises(TypeError, match=r"victims: expected an int64 tensor, found torch.float32"):
        matching.retarget(torch.zeros(2))
    with pytest.raises(TypeError, match="victims: expected an int64 tensor, found list"):
        matching.retarget([0, 1])
    with pytest.raises(ValueError, match=r"victims: expected shape \[R\] with R > 0, found \[0\]"):
        matching.retarget(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="ways: unknown way 'phantom'"):
        ExplicitMatching(_setup(model, shape)[0], ways="phantom")


class Partial(nn.Module):
    """A frozen, an unused, a tied and a shared parameter, activations in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.first.bias.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.tied = nn.Linear(6, 6)
        self.again = self.tied
        self.other = nn.Linear(6, 6)
        self.other.weight = self.tied.weight
        self.last = nn.Linear(6, CLASSES)
        self.act = nn.ELU(inplace=True)

    def forward(self, x):
        y = self.act(self.tied(self.act(self.first(x)) * 1))
        return self.last(self.other(self.again(y).sigmoid()).tanh())


@pytest.mark.parametrize("way", ["materialised", "ghost"])
def test_frozen_unused_tied_and_shared_parameters(way):
    model = Partial().double()
    g = torch.Generator().manual_seed(1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    x, y = torch.rand(B, 8, generator=g, dtype=torch.float64), torch.tensor([0, 1])
    rows = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, allow_unused=True)
    targets = [None if row is None else row[None] for row in rows]
    assert any(t is None for t in targets)
    inputs = torch.rand(RESTARTS, B, 8, generator=g, dtype=torch.float64)
    before = dict(model.named_parameters())
    unused = next(i for i, t in enumerate(targets) if t is None)
    for spelled_out in (False, True):
        if spelled_out:
            targets[unused] = torch.full((1, 3, 3), 0.1, dtype=torch.float64)
        problem = Problem(VictimModel(model), F.cross_entropy, GradientDistance(), targets, restarts=RESTARTS)
        _agrees(problem, inputs, y.expand(RESTARTS, B), ways=way)
    assert all(model.get_parameter(name) is p for name, p in before.items())
    assert not model.first.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "first.bias")
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def test_running_statistics_stay_and_recoveries_are_not_coupled():
    model, shape = make_model("batch-norm-train")
    problem, inputs, labels = _setup(model, shape)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    matching = ExplicitMatching(problem)
    calm = matching.value_and_gradient(inputs, labels)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    inputs[0] = torch.nan
    broken = matching.value_and_gradient(inputs, labels)
    assert not broken[0][0].isfinite()
    for a, b in zip(calm[:2], broken[:2], strict=True):
        torch.testing.assert_close(a[1:], b[1:])


def _margins(output, labels):
    chosen = output.gather(1, labels[:, None]).squeeze(1)
    return (output.logsumexp(1) - chosen).square().mean()


def _looking(output, labels):
    return _margins(output, labels) * (2.0 if output.sum().item() > 0 else 1.0)


def _label_smoothing(output, labels):
    return F.cross_entropy(output, labels, label_smoothing=0.1)


@pytest.mark.parametrize("loss_fn", [_margins, _looking, _label_smoothing])
def test_losses_of_ones_own(loss_fn):
    model, shape = make_model("linear")
    _agrees(*_setup(model, shape, loss_fn=loss_fn))


def test_ignored_labels():
    model, shape = make_model("linear")
    problem, inputs, labels = _setup(model, shape)
    labels = labels.clone()
    labels[1, 0] = -100
    _agrees(problem, inputs, labels)


def test_low_rank_needs_a_target_of_low_rank():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    problem, inputs, labels = _setup(model, ROW)
    problem.targets[0] = problem.targets[0] + 1e-3 * torch.randn_like(problem.targets[0])
    matching = ExplicitMatching(problem, ways={"0.weight": "low-rank"})
    with pytest.raises(ValueError, match=r"low-rank was asked for 0.weight, but .* a rank above 2"):
        matching.value_and_gradient(inputs, labels)
    _agrees(problem, inputs, labels, ways={"0.weight": "ghost"})


def test_no_gradient_toward_the_input():
    cut = nn.Identity()
    cut.forward = torch.Tensor.detach
    problem, inputs, labels = _setup(nn.Sequential(cut, nn.Linear(8, CLASSES)), ROW)
    with pytest.raises(ValueError, match="does not depend on its input"):
        ExplicitMatching(problem).value_and_gradient(inputs, labels)


def test_the_model_may_have_moved_weights():
    model, shape = make_model("conv2d")
    problem, inputs, labels = _setup(model, shape)
    matching = _agrees(problem, inputs, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    _close(
        matching.value_and_gradient(inputs, labels),
        SequentialMatching(problem).value_and_gradient(inputs, labels),
    )
