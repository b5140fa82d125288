"""What a victim comes to follows from itself and the settings, not from who else is searched, or when."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast import recover
from sapag_fast.matching.isolated import Quantum, quantum_of
from sapag_fast.models import make_model
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import Targets, prepare
from sapag_fast.search.tasks import later_restarts

VICTIMS, SHAPE, STEPS = 6, (1, 12, 12), 24


@pytest.fixture(scope="module")
def model():
    return make_model("lenet", image_size=12, initialisation="uniform")


@pytest.fixture(scope="module")
def gradients(model):
    g = torch.Generator().manual_seed(3)
    each = []
    for victim in range(VICTIMS):
        loss = F.cross_entropy(model(torch.rand(1, *SHAPE, generator=g)), torch.tensor([victim % 4]))
        each.append(torch.autograd.grad(loss, tuple(model.parameters())))
    return [torch.stack(entries) for entries in zip(*each, strict=True)]


def _search(model, gradients, victims: Sequence[int] = range(VICTIMS), **options: Any):
    victims = list(victims)
    labels = torch.tensor([[victim % 4] for victim in victims])
    usual = {"batched": True, "labels": labels, "steps": STEPS, "restarts": 2}
    return recover(model, [g[victims] for g in gradients], SHAPE, **(usual | options))


def _same(one, other, pairs):
    for mine, its in pairs:
        for name in ("inputs", "distance", "evaluations"):
            assert torch.equal(getattr(one, name)[mine], getattr(other, name)[its]), (name, mine)
            ours, theirs = getattr(one.restarts, name), getattr(other.restarts, name)
            assert torch.equal(ours[mine], theirs[its]), (name, mine)


@pytest.fixture(scope="module")
def whole(model, gradients):
    return _search(model, gradients)


def _noised(gradient):
    noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5))
    return gradient + 0.01 * gradient.abs().max() * noise


STRANGE = {
    "denormal": lambda gradient: gradient * 1e-41,
    "noised": _noised,
    "random": lambda gradient: torch.randn(gradient.shape, generator=torch.Generator().manual_seed(6)),
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", [0, 3])
def test_a_strange_gradient_leaves_the_others_alone(model, gradients, whole, kind, place):
    changed = [g.clone() for g in gradients]
    for entry in changed:
        entry[place] = STRANGE[kind](entry[place])
    found = _search(model, changed)
    assert found.mode == "explicit"
    _same(whole, found, [(v, v) for v in range(VICTIMS) if v != place])


@pytest.mark.parametrize("victims", [[5, 4, 3, 2, 1, 0], [3], [2, 0, 5]])
def test_company_and_order_change_no_bit(model, gradients, whole, victims):
    _same(whole, _search(model, gradients, victims), [(v, at) for at, v in enumerate(victims)])


@pytest.mark.parametrize("at_once", [1, 3, 5])
def test_how_many_run_at_once_changes_no_bit(model, gradients, whole, at_once):
    _same(whole, _search(model, gradients, at_once=at_once), [(v, v) for v in range(VICTIMS)])


@pytest.mark.parametrize("at_once", [5])
def test_restarts_that_end_early_change_no_bit(model, gradients, at_once):
    """Some victims are solved, each after its own time, and the rows of the batch change."""
    stop: dict[str, Any] = {"steps": 40}
    first = _search(model, gradients, **stop)
    level = float(first.distance.median())
    together = _search(model, gradients, stop_distance=level, **stop)
    assert len(set(together.evaluations.tolist())) > 1
    found = _search(model, gradients, stop_distance=level, at_once=at_once, **stop)
    _same(together, found, [(v, v) for v in range(VICTIMS)])
    alone = _search(model, gradients, [4], stop_distance=level, **stop)
    _same(together, alone, [(4, 0)])


def test_a_stopped_batch_goes_on_with_the_same_bits(model, gradients, whole, tmp_path):
    class KilledError(Exception):
        pass

    def kill(victim, _):
        raise KilledError

    path = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        _search(model, gradients, at_once=4, checkpoint=path, on_finished=kill)
    found = _search(model, gradients, at_once=4, checkpoint=path)
    _same(whole, found, [(v, v) for v in range(VICTIMS)])


def test_what_vmap_matches_is_isolated_too(gradients):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 144, generator=torch.Generator().manual_seed(0)) / 12)

        def forward(self, x):
            return torch.sigmoid((x - x.mean()).flatten(1) @ self.weight.t())  # explicit mode refuses a mean

    own = Own()
    g = torch.Generator().manual_seed(4)
    each = [
        torch.autograd.grad(
            F.cross_entropy(own(torch.rand(1, *SHAPE, generator=g)), torch.tensor([v % 4])), [own.weight]
        )[0]
        for v in range(VICTIMS)
    ]
    whole = _search(own, [torch.stack(each)])
    assert whole.mode == "vmap"
    _same(whole, _search(own, [torch.stack(each)], [5, 1]), [(5, 0), (1, 1)])
    _same(whole, _search(own, [torch.stack(each)], at_once=1), [(v, v) for v in range(VICTIMS)])


def test_bare_parameters_are_isolated_too():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            g = torch.Generator().manual_seed(0)
            self.weight = nn.Parameter(torch.randn(4, 144, generator=g) / 12)
            self.scale, self.token = (
                nn.Parameter(torch.ones(2, 1)),
                nn.Parameter(torch.rand(1, 6, generator=g)),
            )

        def forward(self, x):
            x = (
                x.flatten(1).unflatten(1, (2, -1)) * self.scale.clamp(max=4).exp()
                + torch.tanh(self.token).mean()
            )
            return torch.sigmoid(x.flatten(1) @ self.weight.t())

    own = Bare()
    g = torch.Generator().manual_seed(4)
    each = [
        torch.autograd.grad(
            F.cross_entropy(own(torch.rand(1, *SHAPE, generator=g)), torch.tensor([v % 4])),
            list(own.parameters()),
        )
        for v in range(VICTIMS)
    ]
    targets = [torch.stack(row) for row in zip(*each, strict=True)]
    whole = _search(own, targets)
    assert whole.mode == "explicit"
    _same(whole, _search(own, targets, [5, 1]), [(5, 0), (1, 1)])
    _same(whole, _search(own, targets, [3]), [(3, 0)])
    _same(whole, _search(own, targets, at_once=1), [(v, v) for v in range(VICTIMS)])


def test_a_quantum_leaves_nothing_over():
    assert [Quantum(4, 1).of(rows) for rows in (1, 4, 5)] == [4, 4, 8]
    assert [Quantum(1, 4).of(rows) for rows in (1, 4, 5)] == [4, 4, 5]
    odd, even = torch.rand(2, 3), torch.rand(2, 64)
    cpu = torch.device("cpu")
    assert quantum_of(odd.sigmoid, 2, cpu).multiple > 1
    assert quantum_of(even.sigmoid, 2, cpu).multiple == 1
    assert quantum_of(lambda: odd + odd, 2, cpu) == Quantum()
    assert quantum_of(lambda: odd @ odd.t(), 2, cpu).least == 4


ROUNDED_STEP_BY_STEP = {
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "rsub": lambda x: 1 - x,
    "square": torch.square,
    "div": lambda x: 0.7 / x,
    "mul": lambda x: x * 1.3,
    **{f"pow {power}": lambda x, p=power: x.pow(p) for power in (-2, -1, -0.5, 0.5, 2, 3)},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROUNDED_STEP_BY_STEP)
def test_operators_that_round_correctly_have_the_same_bits_at_every_place(name, dtype):
    operator = ROUNDED_STEP_BY_STEP[name]
    numbers = torch.rand(259, generator=torch.Generator().manual_seed(2), dtype=dtype) * 10 + 1e-3
    whole = operator(numbers)
    alone = torch.cat([operator(number) for number in numbers.split(1)])
    assert torch.equal(alone, whole)
    assert quantum_of(lambda: operator(numbers[:255].view(3, 85)), 3, torch.device("cpu")) == Quantum()


@pytest.mark.parametrize(
    ("name", "options"),
    [  # a perceptron's small layers are no whole vectors either
        ("resnet20", {"widths": (4, 8), "blocks": 1, "activation": "sigmoid"}),
        ("resnet20", {"widths": (4, 8), "blocks": 1, "activation": "relu"}),
        ("vit", {"width": 16, "layers": 1, "heads": 2, "patch": 8, "pool": "mean"}),
        ("mlp", {"channels": 3, "widths": (16, 32), "activation": "tanh"}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_no_rows_are_added_for_a_few_classes(name, options, batch):
    """Ten classes are no whole vector, and the loss alone is filled up for them."""
    own = make_model(name, image_size=16, **options).eval()
    g = torch.Generator().manual_seed(8)
    labels = torch.randint(0, 10, (5, batch), generator=g)
    each = []
    for known in labels:
        loss = F.cross_entropy(own(torch.rand(batch, 3, 16, 16, generator=g)), known)
        each.append(torch.autograd.grad(loss, tuple(own.parameters())))
    targets = [torch.stack(rows) for rows in zip(*each, strict=True)]
    usual = {"batched": True, "steps": 8, "exact": "off", "batch_size": batch}

    def search(victims: list[int]):
        some = [entry[victims] for entry in targets]
        return recover(own, some, (3, 16, 16), labels=labels[victims], **usual)

    whole = search(list(range(5)))
    assert whole.mode == "explicit"
    _same(whole, search([4]), [(4, 0)])
    _same(whole, search([2, 0]), [(2, 0), (0, 1)])
    attack = prepare(own, Targets(targets, labels, True), (3, 16, 16), batch_size=batch)
    with attack.conditions():
        assert attack.search().matching.quantum.multiple <= 4 or name == "mlp"


def test_later_restarts_are_those_after_the_first_that_counts():
    assert later_restarts(3, [1, 2, 8]) == {2}
    assert later_restarts(3, [0, 4]) == {1, 2, 5}
    assert later_restarts(3, []) == set()


def test_an_attack_keeps_what_it_was_given(model, gradients):
    target = [g[0].clone() for g in gradients]
    start, labels = torch.rand(1, 1, 1, *SHAPE), torch.tensor([1])
    options = SearchOptions(start=start, steps=3)
    attacks = [prepare(model, Targets(target, labels), SHAPE, options=options) for _ in range(2)]
    found = attacks[0].run()
    for tensor in (*target, start, labels):
        tensor.zero_()
    assert torch.equal(attacks[1].run().inputs, found.inputs)


def test_two_threads_give_the_bits_of_each_alone(model, gradients):
    def one(victim):
        target = [g[victim] for g in gradients]
        return recover(model, target, SHAPE, labels=torch.tensor([victim % 4]), steps=30).inputs

    alone = [one(victim) for victim in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(one, range(2)))
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])
    assert torch.backends.mkldnn.enabled
