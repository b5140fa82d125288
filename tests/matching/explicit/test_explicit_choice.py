"""Explicit mode is used where it is right, and says why where it is not used."""

import pytest
import torch
from explicit_cases import CLASSES, MODELS, ROW, gradients, make_model, make_problem
from torch import nn

from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.explicit import ExplicitMatching, NotCovered, Rule, register_rule, rules
from sapag_fast.matching.explicit.cost import MatrixWork, rates_of, way_costs
from sapag_fast.matching.explicit.low_rank import factor
from sapag_fast.matching.one_by_one import SequentialMatching

RESTARTS, B = 3, 2


def _setup(model, shape, *, dtype=torch.float64, restarts=RESTARTS, batch=B, trained=None):
    model = model.to(dtype)
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(1, batch, *shape, generator=g, dtype=dtype)
    labels = torch.randint(0, CLASSES, (1, batch), generator=g)
    targets = gradients(trained or model, truth, labels)
    inputs = torch.rand(restarts, batch, *shape, generator=g, dtype=dtype)
    return make_problem(model, targets, restarts=restarts), inputs, labels.expand(restarts, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_all_covered_models_run_explicitly(name, dtype):
    model, shape = make_model(name)
    choice = choose_matching(*_setup(model, shape, dtype=dtype))
    assert (choice.mode, choice.reason) == ("explicit", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_too_deep_for_the_distance_to_have_digits_runs_explicitly(dtype):
    torch.manual_seed(0)
    layers = [part for i in range(15) for part in (nn.Conv2d(6 if i else 3, 6, 3, padding=1), nn.Sigmoid())]
    deep = nn.Sequential(*layers, nn.Flatten(), nn.Linear(384, CLASSES))
    choice = choose_matching(*_setup(deep, (3, 8, 8), dtype=dtype))
    assert (choice.mode, choice.reason) == ("explicit", "")


class Mixing(nn.Module):
    """Couples the inputs of a batch in one way or another."""

    def __init__(self, how):
        super().__init__()
        self.how, self.last = how, nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.how(x))


class Counting(nn.Module):
    """Writes to a buffer."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, CLASSES)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(x.sin())


class InPlace(nn.Module):
    """Writes to a layer's input after the layer has used it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.first.weight.requires_grad_(False)  # else autograd itself would need the input

    def forward(self, x):
        y = x.sin()
        z = self.first(y)
        y.add_(1)
        return self.last(torch.tanh(z) + y.detach())


def _hooked():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[0].register_forward_hook(lambda module, given, output: output * 2)
    return model


REFUSED = {
    "hooks": (ROW, _hooked, "vmap", "module '0' (Linear) has hooks of its own"),
    "mean": (ROW, lambda: Mixing(lambda x: x - x.mean()), "vmap", "mixes the inputs of a batch (aten.mean"),
    "maximum": (ROW, lambda: Mixing(lambda x: x / x.max()), "vmap", "mixes the inputs of a batch (aten.max"),
    "products": (
        ROW,
        lambda: Mixing(lambda x: (x @ x.T).softmax(1) @ x),
        "vmap",
        "mixes the inputs of a batch (aten.mm",
    ),
    "softmax": (ROW, lambda: Mixing(lambda x: x.softmax(0)), "vmap", "explicit mode and autograd disagree"),
    "branch": (
        ROW,
        lambda: Mixing(lambda x: x.sin() if x.sum().item() > 0 else x.cos()),
        "sequential",
        "the model looks at its data (aten._local_scalar_dense.default); vmap fails on it (RuntimeError)",
    ),
    "one-batch": (
        ROW,
        lambda: Mixing(lambda x: x.sin().view(B, 8)),
        "vmap",
        "explicit mode fails on the model (RuntimeError: shape '[2, 8]' is invalid",
    ),
    "in-place": (ROW, InPlace, "vmap", "module 'first' (Linear): its input is written to after it was used"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_fall_back_and_say_why(name):
    shape, make, mode, reason = REFUSED[name]
    torch.manual_seed(0)
    problem, inputs, labels = _setup(make(), shape)
    choice = choose_matching(problem, inputs, labels)
    assert choice.mode == mode
    assert reason in choice.reason
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    for a, b in zip(choice.matching.value_and_gradient(inputs, labels)[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b)


def test_buffers_written_to():
    problem, inputs, labels = _setup(Counting(), ROW)
    assert "the model writes to its buffer 'calls'" in choose_matching(problem, inputs, labels).reason


def test_embeddings_that_count_over_the_batch():
    refused = {
        "writes to its weights": nn.Embedding(5, 6, max_norm=1.0),
        "counts tokens": nn.Embedding(5, 6, scale_grad_by_freq=True),
        "sparse": nn.Embedding(5, 6, sparse=True),
    }
    for reason, module in refused.items():
        with pytest.raises(NotCovered, match=reason):
            rules.find_rule(module)


class Gained(torch.autograd.Function):
    """Its operators are no matter of PyTorch's: nobody sees a bare parameter in them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, gain):
        return gain * x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        x, gain = ctx.saved_tensors
        return slope * gain * x.cos(), (slope * x.sin()).sum(0)


class Gain(nn.Module):
    """A module of one's own."""

    def __init__(self, features):
        super().__init__()
        self.gain = nn.Parameter(torch.full((features,), 0.7))

    def forward(self, x):
        return Gained.apply(x, self.gain)


@pytest.fixture
def fresh_rules(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))


def test_a_rule_of_ones_own(fresh_rules):
    model = nn.Sequential(Gain(8), nn.Tanh(), nn.Linear(8, CLASSES), Gain(CLASSES))
    problem, inputs, labels = _setup(model, ROW)
    assert "disagree on the gradient of '0.gain'" in choose_matching(problem, inputs, labels).reason
    register_rule(Gain, lambda module, a, b: {"gain": (a.sin() * b).sum(1)})
    matching = choose_matching(problem, inputs, labels).matching
    assert matching.mode == "explicit"
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    for a, b in zip(matching.value_and_gradient(inputs, labels)[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda module, a, b: {"gain": (a * b).sum(1)}, "disagree on the gradient of '0.gain'"),
        (lambda module, a, b: {"gain": (a.sin() * b).sum((0, 1))}, "explicit mode"),
        (lambda module, a, b: {}, "gives no gradient for gain"),
    ],
)
def test_a_wrong_rule_is_found_out(fresh_rules, rule, reason):
    register_rule(Gain, rule)
    choice = choose_matching(*_setup(nn.Sequential(Gain(8), nn.Linear(8, CLASSES)), ROW))
    assert choice.mode == "vmap"
    assert reason in choice.reason


def test_what_cannot_be_a_rule():
    with pytest.raises(TypeError, match=r"module_type: expected a subclass of torch\.nn\.Module, found 3"):
        register_rule(3, lambda module, a, b: {})
    with pytest.raises(TypeError, match="rule: expected a function or a Rule, found str"):
        register_rule(nn.Linear, "fast")


CELL = """
class Own(Rule):
    name = "own"

def gain_rule(module, a, b):
    return {"gain": (a.sin() * b).sum(1)}

register_rule(Gain, RULE)
"""


@pytest.mark.parametrize("rule", ["gain_rule", "Own()", "lambda module, a, b: gain_rule(module, a, b)"])
def test_a_notebooks_cell_can_be_run_again(fresh_rules, rule):
    names = {"Gain": Gain, "Rule": Rule, "register_rule": register_rule, "__name__": "notebook"}
    cell = CELL.replace("RULE", rule)
    exec(cell, names)
    first = rules.find_rule(Gain(2))
    exec(cell, names)
    again = rules.find_rule(Gain(2))
    assert again is not first
    assert again.name == first.name


def test_another_rule_needs_leave_to_replace_one(fresh_rules):
    def first(module, a, b):
        return {"gain": (a.sin() * b).sum(1)}

    def second(module, a, b):
        return first(module, a, b)

    register_rule(Gain, first)
    register_rule(Gain, first)
    with pytest.raises(ValueError, match=r"rule: Gain has another rule already \(first\); replace=True"):
        register_rule(Gain, second)
    assert rules.find_rule(Gain(2)).name == "first"
    register_rule(Gain, second, replace=True)
    assert rules.find_rule(Gain(2)).name == "second"


def test_the_packages_own_rules_need_leave_too(fresh_rules):
    def slow(module, a, b):
        return {"weight": torch.einsum("rno,rnk->rok", b, a), "bias": b.sum(1)}

    with pytest.raises(ValueError, match=r"rule: Linear has another rule already \(linear\); replace=True"):
        register_rule(nn.Linear, slow)
    register_rule(nn.Linear, slow, replace=True)
    problem, inputs, labels = _setup(*make_model("linear"))
    choice = choose_matching(problem, inputs, labels)
    assert choice.mode == "explicit"
    assert {row["rule"] for row in choice.matching.describe()} == {"slow"}


def test_layers_of_different_kinds_that_share_a_parameter(fresh_rules):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.gain = nn.LayerNorm(8, bias=False), Gain(8)
            self.gain.gain = self.norm.weight
            self.last = nn.Linear(8, CLASSES)

        def forward(self, x):
            return self.last(self.gain(self.norm(x)))

    register_rule(Gain, lambda module, a, b: {"gain": (a.sin() * b).sum(1)})
    problem, inputs, labels = _setup(Tied(), ROW)
    choice = choose_matching(problem, inputs, labels)
    assert (choice.mode, choice.reason) == ("explicit", "")
    expected = SequentialMatching(problem).value_and_gradient(inputs, labels)
    torch.testing.assert_close(choice.matching.value_and_gradient(inputs, labels)[1], expected[1])


def test_a_parameter_shared_in_another_order(fresh_rules):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gain = nn.Conv1d(2, 2, 3, padding=1), Gain(1)
            self.gain.gain = self.conv.weight
            self.last = nn.Linear(24, CLASSES)

        def forward(self, x):
            return self.last((self.conv(x) * self.gain.gain.sum()).flatten(1))

    register_rule(Gain, lambda module, a, b: {"gain": b})
    problem, *_ = _setup(Tied(), (2, 12))
    with pytest.raises(NotCovered, match=r"module 'gain' \(Gain\) shares its gain with a layer of another"):
        ExplicitMatching(problem)


def test_dropout_draws_its_own_mask_for_every_recovery():
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, CLASSES))
    problem, inputs, labels = _setup(model, ROW)
    matching = choose_matching(problem, inputs, labels).matching
    assert matching.mode == "explicit"
    assert model[2].training
    same = inputs[:1].expand_as(inputs)
    distance, _, _ = matching.value_and_gradient(same, labels)
    assert distance.unique().numel() == RESTARTS
    assert not torch.equal(matching.value_and_gradient(same, labels)[0], distance)


def test_a_large_network_alone():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 1500), nn.Tanh(), nn.Linear(1500, 1500), nn.Tanh(), nn.Linear(1500, CLASSES)
    )
    problem, inputs, labels = _setup(model, ROW, restarts=1, batch=1, dtype=torch.float32)
    matching = choose_matching(problem, inputs, labels).matching
    assert matching.mode == "explicit"
    assert {row["parameter"]: row["way"] for row in matching.describe() if row["layer"] == "2"} == {
        "weight": "low-rank",
        "bias": "materialised",
    }
    assert choose_matching(*_setup(make_model("linear")[0], ROW, restarts=1)).mode == "single"


@pytest.mark.parametrize(
    ("work", "best"),
    [
        (MatrixWork(1, 4096, 4096, 64, True, 1), "low-rank"),
        (MatrixWork(1, 4096, 4096, 64, True, None), "ghost"),
        (MatrixWork(1024, 576, 64, 16, True, None), "materialised"),
        (MatrixWork(49, 300, 12, 64, True, 49), "materialised"),
        (MatrixWork(16, 4608, 512, 16, False, 16), "low-rank"),
    ],
)
def test_cost_model(work, best):
    costs = way_costs(work, rates_of(torch.device("cpu"), torch.float32))
    assert min(costs, key=costs.__getitem__) == best
    assert ("low-rank" in costs) == (work.rank is not None)


def test_factoring():
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 40, generator=g), torch.randn(2, 3, 60, generator=g)
    target = torch.bmm(left.transpose(1, 2), right)
    p, q = factor(target, 3)
    assert (p.shape, q.shape, p.dtype) == ((2, 3, 40), (2, 3, 60), torch.float64)
    torch.testing.assert_close(torch.bmm(p.transpose(1, 2), q).float(), target, rtol=1e-5, atol=1e-5)
    assert factor(target, 2) is None
    assert factor(target + 1e-4 * torch.randn(target.shape, generator=g), 3) is None
    assert factor(torch.zeros(1, 4, 5), 2) is not None
    assert factor(target / 0, 3) is None
