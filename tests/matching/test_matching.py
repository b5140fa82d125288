"""All ways to form the dummy gradients agree, and leave the user's module alone."""

import copy
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.base import FIRST_BACKWARD, FORWARD, REST, SECOND_BACKWARD, SUMS
from sapag_fast.matching.choose import Choice, choose_matching
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.one_by_one import SequentialMatching, SingleMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.models import LeNet, initialise
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

V, RESTARTS, B = 2, 3, 2
R = V * RESTARTS


class Branching(nn.Module):
    """Looks at its data, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(9, 4)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x.sin() if x.sum().item() > 0 else x.cos())


def _normalised():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Flatten(), nn.Linear(3 * 36, 4)
    )


def _models():
    torch.manual_seed(0)
    return {
        "lenet": initialise(LeNet(image_size=6, classes=4), "normal.5"),
        "batchnorm": _normalised(),
        "batchnorm-eval": _normalised().eval(),
        "no-conv": nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4)),
    }


def _problem(model, *, kind="sapag", joint=False, restarts=RESTARTS, shape=(1, 6, 6), victims=V):
    model = model.double()
    g = torch.Generator().manual_seed(1)
    draw = {"generator": g, "dtype": torch.float64}
    truth, labels = torch.rand(victims, B, *shape, **draw), torch.randint(0, 4, (victims, B), generator=g)
    state = copy.deepcopy(model)
    trained = [p for p in state.parameters() if p.requires_grad]
    rows = [
        torch.autograd.grad(F.cross_entropy(state(x), y), trained, allow_unused=True)
        for x, y in zip(truth, labels, strict=True)
    ]
    targets = [None if r[0] is None else torch.stack(r) for r in zip(*rows, strict=True)]
    problem = Problem(
        VictimModel(model), F.cross_entropy, GradientDistance(kind), targets, restarts=restarts, joint=joint
    )
    recoveries = victims * restarts
    inputs = torch.rand(recoveries, B, *shape, **draw)
    logits = torch.randn(recoveries, B, 4, **draw)
    return problem, inputs, logits if joint else labels.repeat_interleave(restarts, 0)


def _close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", _models())
def test_vmap_is_sequential_is_single(name, joint):
    problem, inputs, labels = _problem(_models()[name], joint=joint)
    batched = VmapMatching(problem).value_and_gradient(inputs, labels)
    assert batched[0].shape == (R,)
    assert batched[1].shape == inputs.shape
    assert (batched[2] is not None) == joint
    _close(batched, SequentialMatching(problem).value_and_gradient(inputs, labels))
    for victim in range(V):
        rows = slice(victim * RESTARTS, victim * RESTARTS + 1)
        one = Problem(
            problem.network,
            problem.loss_fn,
            problem.distance,
            [t[victim : victim + 1] for t in problem.targets],
            joint=joint,
        )
        single = SingleMatching(one).value_and_gradient(inputs[rows], labels[rows])
        _close([None if t is None else t[rows] for t in batched], single)


@pytest.mark.parametrize("kind", ["sapag", "sapag-global", "l2", "cosine", "tag"])
def test_gradient_is_the_derivative(kind):
    problem, inputs, labels = _problem(_models()["lenet"], kind=kind, restarts=1)
    matching = VmapMatching(problem)
    _, slope, _ = matching.value_and_gradient(inputs, labels)
    direction = torch.randn(inputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step = 1e-5
    ahead, behind = (matching.value_and_gradient(inputs + s * step * direction, labels)[0] for s in (1, -1))
    expected = (ahead - behind) / (2 * step)
    torch.testing.assert_close((slope * direction).flatten(1).sum(1), expected, rtol=1e-5, atol=1e-9)


def test_shared_target_of_one_victim():
    problem, inputs, labels = _problem(_models()["lenet"], victims=1)
    matching = VmapMatching(problem)
    assert all(t.shape[0] == 1 for t in matching.targets)
    _close(
        matching.value_and_gradient(inputs, labels),
        SequentialMatching(problem).value_and_gradient(inputs, labels),
    )


def test_choice():
    problem, inputs, labels = _problem(_models()["lenet"])
    assert choose_matching(problem, inputs, labels).mode == "explicit"
    alone, one_input, one_label = _problem(_models()["lenet"], restarts=1, victims=1)
    assert choose_matching(alone, one_input, one_label).mode == "single"
    problem, inputs, labels = _problem(Branching(), shape=(9,))
    choice = choose_matching(problem, inputs, labels)
    assert choice.mode == "sequential"
    assert choice.matching.value_and_gradient(inputs, labels)[0].isfinite().all()


def test_batchnorm_buffers_couple_nothing_and_stay():
    model = _models()["batchnorm"]
    problem, inputs, labels = _problem(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    spoiled = inputs.clone()
    spoiled[1] = 1e6
    for matching in (VmapMatching(problem), SequentialMatching(problem)):
        clean, other = (matching.value_and_gradient(x, labels) for x in (inputs, spoiled))
        again = matching.value_and_gradient(inputs, labels)
        keep = [0, 2, 3, 4, 5]
        for a, b, c in zip(clean[:2], other[:2], again[:2], strict=True):
            torch.testing.assert_close(a[keep], b[keep], rtol=1e-10, atol=1e-13)
            assert torch.equal(a, c)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


class Partial(nn.Module):
    """One frozen, one unused, one tied parameter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 6)
        self.first.bias.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.tied = nn.Linear(6, 6)
        self.again = self.tied
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.again(self.tied(self.first(x).sigmoid()).sigmoid()).sigmoid())


def test_frozen_unused_and_tied_parameters():
    model = Partial()
    before = dict(model.named_parameters())
    problem, inputs, labels = _problem(model, shape=(9,))
    assert [t is None for t in problem.targets] == [False, True, True, False, False, False, False]
    batched = VmapMatching(problem).value_and_gradient(inputs, labels)
    _close(batched, SequentialMatching(problem).value_and_gradient(inputs, labels))
    problem.targets[1] = torch.zeros(V, 3, 3, dtype=torch.float64)  # a target that spells the zeros out
    _close(batched, SequentialMatching(problem).value_and_gradient(inputs, labels))
    assert model.again is model.tied
    assert all(model.get_parameter(name) is p for name, p in before.items())
    assert not model.first.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "first.bias")


def test_a_weight_shared_by_two_layers():
    model = nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 4))
    model[2].weight = model[0].weight
    problem, inputs, labels = _problem(model, shape=(9,))
    assert len(problem.targets) == 5
    _close(
        VmapMatching(problem).value_and_gradient(inputs, labels),
        SequentialMatching(problem).value_and_gradient(inputs, labels),
    )
    assert model[2].weight is model[0].weight
    assert isinstance(model[0].weight, nn.Parameter)


def test_gradient_that_ignores_the_input():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    problem, inputs, labels = _problem(model, shape=(9,), restarts=1, victims=1)

    def loss(output, _):
        return model[1].weight.sum() * 0 + output.detach().sum() + problem.parameters["1.bias"].sum()

    with pytest.raises(ValueError, match="does not depend on its input"):
        SingleMatching(replace(problem, loss_fn=loss)).value_and_gradient(inputs, labels)


def test_options_by_layer_are_for_all_victims():
    distance = GradientDistance(layer_weights=[[1.0, 2.0, 3.0, 4.0]], batched=True)
    model = initialise(LeNet(image_size=6, classes=4), "normal.5").double()
    problem, inputs, labels = _problem(model)
    problem = replace(problem, distance=distance)
    _close(
        VmapMatching(problem).value_and_gradient(inputs, labels),
        SequentialMatching(problem).value_and_gradient(inputs, labels),
    )
    problem = replace(problem, distance=GradientDistance(layer_weights=torch.ones(R, 4), batched=True))
    with pytest.raises(ValueError, match=r"layer_weights must be one row.*\[6, 4\]"):
        VmapMatching(problem)


STAGES = [FORWARD, FIRST_BACKWARD, SUMS, SECOND_BACKWARD, REST]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("way", [SequentialMatching, VmapMatching, ExplicitMatching])
def test_stages_are_told_in_their_order(way, joint):
    problem, inputs, labels = _problem(_models()["lenet"], joint=joint)
    matching = way(problem)
    plain = matching.value_and_gradient(inputs, labels)
    seen = []
    matching.stages = seen.append
    watched = matching.value_and_gradient(inputs, labels)
    for a, b in zip(plain, watched, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert seen == STAGES * (R if way is SequentialMatching else 1)
    matching.stages = None
    matching.value_and_gradient(inputs, labels)
    assert len(seen) == len(STAGES) * (R if way is SequentialMatching else 1)


def test_a_choice_is_what_was_chosen_and_why():
    problem, inputs, labels = _problem(_models()["lenet"])
    choice = choose_matching(problem, inputs, labels)
    assert isinstance(choice, Choice)
    assert (choice.mode, choice.reason) == (choice.matching.mode, "")
    with pytest.raises(FrozenInstanceError):
        choice.reason = "another"
