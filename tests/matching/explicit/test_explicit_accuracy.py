"""Explicit mode's gradient toward the input against float64 autograd, measured by the eager float32 loop."""

import copy

import pytest
import torch
from explicit_cases import (
    CLASSES,
    MODELS,
    eager_gradient,
    gradients,
    make_model,
    make_problem,
)

from sapag_fast.matching.explicit import ExplicitMatching

V, RESTARTS = 2, 4
RATIOS = (1, 1e-1, 1e-2, 1e-3, 1e-4)
WAYS = ("materialised", "ghost", "low-rank")


def _relative(x, reference):
    return float((x.double() - reference).norm() / reference.norm())


def _along(inputs, direction, lengths):
    return inputs + lengths.view(-1, *[1] * (inputs.dim() - 1)) * direction


def _lengths(model, truth, direction, labels, target):
    """How far to go for ‖d‖/‖g‖ = 1e-2, by one probe: beyond, proportional."""
    step = torch.full((truth.shape[0],), 1e-3)
    found = gradients(model, _along(truth, direction, step).double(), labels)
    square = sum((a - b).flatten(1).square().sum(1) for a, b in zip(found, target, strict=True))
    whole = sum(b.flatten(1).square().sum(1) for b in target)
    return step * (1e-2 / (square / whole).sqrt()).float()


def _eager(net, target, victims, inputs, labels, dtype):
    """Each recovery's gradient toward its inputs, by autograd."""
    rows = zip(victims, inputs.to(dtype), labels, strict=True)
    return torch.stack([eager_gradient(net, [t[v].to(dtype) for t in target], x, y) for v, x, y in rows])


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_as_good_as_the_eager_loop(name, batch):
    model, shape = make_model(name)
    double = copy.deepcopy(model).double()
    g = torch.Generator().manual_seed(batch)
    truth = torch.rand(V, batch, *shape, generator=g)
    labels = torch.randint(0, CLASSES, (V, batch), generator=g)
    direction = torch.randn(V * RESTARTS, batch, *shape, generator=g)
    target = gradients(model, truth, labels)
    wide = [t.double().repeat_interleave(RESTARTS, 0) for t in target]
    truth, labels = truth.repeat_interleave(RESTARTS, 0), labels.repeat_interleave(RESTARTS, 0)
    lengths = _lengths(double, truth, direction, labels, wide)
    victims = [r // RESTARTS for r in range(V * RESTARTS)]
    own = {w: ExplicitMatching(make_problem(model, target, restarts=RESTARTS), ways=w) for w in WAYS}
    first = [t[:1] for t in target]
    shared = {w: ExplicitMatching(make_problem(model, first, restarts=RESTARTS), ways=w) for w in WAYS}
    for ratio in RATIOS:
        x = _along(truth, direction, lengths * ratio / 1e-2)
        given = (target, victims, x, labels)
        exact, eager = _eager(double, *given, torch.float64), _eager(model, *given, torch.float32)
        # The same formula on the batch the other way round: what it rounds to is a matter of chance, too.
        turned = _eager(model, target, victims, x.flip(1), labels.flip(1), torch.float32).flip(1)
        for way in WAYS:
            for which, rows in ((own, slice(None)), (shared, slice(RESTARTS))):
                _, found, _ = which[way].value_and_gradient(x[rows], labels[rows])
                error = _relative(found, exact[rows])
                bar = max(_relative(one[rows], exact[rows]) for one in (eager, turned))
                assert error <= 2 * bar + 1e-6, (way, ratio, "own" if which is own else "shared", error, bar)
