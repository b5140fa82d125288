"""Rows whose kernels are of different widths: each as a distance of that bandwidth sees it, in every way."""

from dataclasses import replace

import pytest
import torch
from explicit_cases import CLASSES, gradients, make_model, make_problem

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind, find_kind
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.isolated import IsolatedMatching, Quantum
from sapag_fast.matching.one_by_one import SequentialMatching, SingleMatching
from sapag_fast.matching.vmap import VmapMatching

WIDTHS = torch.tensor([1.0, 0.3, 0.01, 0.3], dtype=torch.float64)


def _setup(victims=2, **options):
    model, shape = make_model("conv2d")
    model = model.double()
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(victims, 2, *shape, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (victims, 2), generator=g)
    problem = make_problem(model, gradients(model, truth, labels), restarts=4 // victims, **options)
    # Close enough that no kernel is flat.
    inputs = truth.repeat_interleave(4 // victims, 0)
    inputs = inputs + 0.1 * torch.rand(inputs.shape, generator=g, dtype=torch.float64)
    return problem, inputs, labels.repeat_interleave(4 // victims, 0)


def _explicit(way):
    return lambda problem: ExplicitMatching(problem, ways=way)


MATCHINGS = {
    "vmap": VmapMatching,
    "sequential": SequentialMatching,
    "materialised": _explicit("materialised"),
    "ghost": _explicit("ghost"),
    "low-rank": _explicit("low-rank"),
    "isolated": lambda problem: IsolatedMatching(
        [ExplicitMatching(problem, isolated=True)], [range(problem.victims)], Quantum(3)
    ),
}


def _rows(problem, inputs, labels, victims, widths, distance):
    """Row by row, by a distance of the product as its bandwidth."""
    rows = []
    for r, (victim, width) in enumerate(zip(victims.tolist(), widths.tolist(), strict=True)):
        own = distance.copy(bandwidth=distance.bandwidth * width)
        single = SingleMatching(replace(problem, distance=own), victim)
        rows.append(single.value_and_gradient(inputs[r : r + 1], labels[r : r + 1])[:2])
    return [torch.cat(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize("name", MATCHINGS)
def test_each_row_has_its_own_bandwidth(name, victims):
    for distance in (
        GradientDistance("sapag", bandwidth=0.7),
        GradientDistance("sapag-mean", variance=[0.1, 1e-3]),
        GradientDistance("sapag-sum", bandwidth=1e4, backend="reference"),
    ):
        problem, inputs, labels = _setup(victims)
        problem = replace(problem, distance=distance)
        if name in ("ghost", "low-rank") and distance.backend == "reference":
            continue
        matching, every = MATCHINGS[name](problem), problem.rows()
        plain = matching.value_and_gradient(inputs, labels) if name != "isolated" else None
        for rows in (torch.arange(4), torch.tensor([3, 0, 2])):
            matching.retarget(every[rows], WIDTHS[rows])
            told = (inputs[rows], labels[rows])
            expected = _rows(problem, *told, every[rows], WIDTHS[rows], distance)
            for _ in range(2):
                found = matching.value_and_gradient(*told)
                for a, b in zip(found[:2], expected, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
        matching.retarget(every)
        if plain is not None:
            again = matching.value_and_gradient(inputs, labels)
            assert torch.equal(again[0], plain[0])
            assert torch.equal(again[1], plain[1])


def test_a_narrower_kernel_is_farther():
    problem, inputs, labels = _setup(1)
    same = inputs[:1].expand_as(inputs), labels
    matching = ExplicitMatching(problem)
    matching.retarget(problem.rows(), torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64))
    value = matching.value_and_gradient(*same)[0]
    assert (value.diff() > 0).all()


def test_kinds_that_have_widths():
    for kind in ("sapag", "sapag-mean", "sapag-sum"):
        assert find_kind(kind).has_widths
    for kind in ("sapag-global", "l2", "cosine", "tag"):
        assert not find_kind(kind).has_widths
    assert not Kind.of_sums("mine", lambda sums: sums.square.sum(-1)).has_widths
