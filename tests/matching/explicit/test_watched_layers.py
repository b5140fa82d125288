"""Layers that are watched do the same work, and tell of it."""

import contextlib

import pytest
import torch
from explicit_cases import CLASSES, ROW, gradients, make_model, make_problem
from torch import nn

from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.explicit.watch import FORWARD_PART, SUMS_PART

RESTARTS, B = 3, 2
WAYS = ("materialised", "ghost", "low-rank")


def _setup(model, shape):
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(1, B, *shape, generator=g)
    labels = torch.randint(0, CLASSES, (1, B), generator=g)
    inputs = torch.rand(RESTARTS, B, *shape, generator=g)
    problem = make_problem(model, gradients(model, truth, labels), restarts=RESTARTS)
    return problem, inputs, labels.expand(RESTARTS, B)


class Watch:
    """What goes on, and what has."""

    def __init__(self):
        self.now, self.seen = [], []

    @contextlib.contextmanager
    def __call__(self, layer, part):
        self.now.append((layer, part))
        self.seen.append((layer, part))
        try:
            yield
        finally:
            assert self.now.pop() == (layer, part)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["linear", "conv2d", "batch-norm-eval", "twice"])
def test_the_same_bits_and_every_layer(name, way):
    problem, inputs, labels = _setup(*make_model(name))
    plain = ExplicitMatching(problem, ways=way)
    watched = ExplicitMatching(problem, ways=way)
    watched.watch = watch = Watch()
    for _ in range(2):
        mine, other = (m.value_and_gradient(inputs, labels)[:2] for m in (watched, plain))
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
        assert torch.equal(watched.value(inputs, labels), plain.value(inputs, labels))
    layers = {layer.name for layer in watched.network.covered}
    assert set(watch.seen) == {(layer, part) for layer in layers for part in (FORWARD_PART, SUMS_PART)}
    assert not watch.now


@pytest.mark.parametrize("way", WAYS)
def test_an_error_ends_what_went_on(way, monkeypatch):
    problem, inputs, labels = _setup(*make_model("linear"))
    matching = ExplicitMatching(problem, ways=way)
    matching.value_and_gradient(inputs, labels)
    matching.watch = watch = Watch()
    monkeypatch.setattr(matching.network.covered[1].module, "weight", None)
    with pytest.raises(TypeError):
        matching.value_and_gradient(inputs, labels)
    assert not watch.now


def test_what_several_layers_share_counts_for_the_first():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    model[2].weight = model[0].weight
    problem, inputs, labels = _setup(model, ROW)
    matching = ExplicitMatching(problem, ways="ghost")
    matching.watch = watch = Watch()
    matching.value_and_gradient(inputs, labels)
    shared = matching.by_rows.owners[problem.names.index("0.weight")]
    assert shared == "0"
    assert ("2", SUMS_PART) in watch.seen  # its rows and its bias are its own
