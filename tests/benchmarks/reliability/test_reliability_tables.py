"""The suite's tables: a few of them, and that it sees a distance that is wrong."""

import pytest
import torch

from benchmarks.reliability.tables import tables
from benchmarks.reliability.tables.layers import layer_numbers


@pytest.fixture
def part():
    return tables.Tables()


def test_a_wrong_distance_is_noticed(part, monkeypatch):
    monkeypatch.setattr(tables, "own_distance", lambda sums: torch.log1p(sums.square).sum(-1))
    outcomes = [part.check(1, number) for number in range(12)]
    wrong = [o for o in outcomes if any(f.startswith("reliability-own, cpu") for f in o.faults)]
    assert len(wrong) >= 4


def test_a_wrong_v_is_noticed(part, monkeypatch):
    """A relative error of 1e-5 in one element."""
    ask = tables.ask

    def off(*arguments):
        answer = ask(*arguments)
        for slope in answer.slopes or []:
            slope.view(-1)[:1] *= 1 + 1e-5
        return answer

    monkeypatch.setattr(tables, "ask", off)
    table, number = None, 0
    while (
        table is None
        or table.dummy[0] is None
        or table.dummy[0].dtype != torch.float32
        or "scale 1;" not in table.words
        or not table.dummy[0].is_contiguous()
    ):
        number += 1
        table, _ = part.draw(1, number)
    assert any("V[0] of layer 0, element 0" in fault for fault in part.check(1, number).faults)


def test_a_case_is_drawn_again_bit_for_bit(part):
    for number in range(20):
        (one, _), (other, _) = part.draw(5, number), part.draw(5, number)
        assert one.words == other.words
        for a, b in zip((*one.dummy, *one.target), (*other.dummy, *other.target), strict=True):
            assert (a is None) == (b is None)
            assert a is None or tables.same_bits(a, b)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(2, 3), (2,), (2,), (4,), ()], [0, 0, 1, 2, 3]),
        ([(2, 3), None, (2,)], [0, 1]),
        ([(3,), (3,), (3,)], [0, 0, 1]),
        ([(), (1,)], [0, 1]),
    ],
)
def test_vectors_join_the_tensor_before_them(shapes, expected):
    assert layer_numbers(shapes, True, None) == (expected, expected[-1] + 1)
