"""Counted operations and bytes against what the shapes say."""

import pytest
import torch
from attacks import MODES, prepared

from sapag_fast.profiler.ceilings import Bound, Ceilings, bound, measure_ceilings
from sapag_fast.profiler.measure import _count
from sapag_fast.profiler.stages import FIRST_BACKWARD, FORWARD, SECOND_BACKWARD, SUMS
from sapag_fast.profiler.work import CACHED, Work, WorkCounter


def counted(run):
    with WorkCounter(lambda: "all") as counter:
        run()
    return counter.counted.get("all", Work())


def test_a_matrix_product():
    a, b = torch.ones(7, 5), torch.ones(5, 3)
    assert counted(lambda: a @ b) == Work(2 * 7 * 5 * 3, 0, 4 * (7 * 5 + 5 * 3 + 7 * 3))


def test_large_operands_come_from_memory():
    a = torch.ones(CACHED["cpu"] // 4)
    assert counted(lambda: a + 1) == Work(0, 2 * a.nbytes, 0)


def test_views_and_allocations_move_nothing():
    a = torch.ones(8, 8)
    assert counted(lambda: (a.t(), a.view(64), a[2:], torch.empty(100), a.detach())) == Work()


def test_what_is_repeated_is_read_once():
    row = torch.ones(1, 8).expand(100, 8)
    assert counted(lambda: row.sum()).bytes == 4 * 8 + 4


def test_in_place_reads_and_writes():
    a = torch.ones(10)
    assert counted(lambda: a.add_(1)).bytes == 2 * 40


def test_the_first_layer_of_a_step():
    model, _ = MODES["explicit"]
    preparation = prepared(model())
    with preparation.conditions():
        batch = preparation.run(4).batch
        batch.step()
        found = _count(batch)
    # 4 recoveries, 4 channels of 4x4 outputs, 9 taps; and the linear layer 64 -> 10.
    convolution, linear = 2 * 4 * 4 * 16 * 9, 2 * 4 * 64 * 10
    assert found["0", "forward"].flops == convolution
    assert found[FORWARD].flops == convolution + linear
    assert found["3", "sums"].flops == 3 * linear
    for stage in (FIRST_BACKWARD, SUMS, SECOND_BACKWARD):
        assert found[stage].flops >= linear
        assert found[stage].bytes > 0


def test_the_bound_is_the_longer_one():
    ceilings = Ceilings(memory_bandwidth=10.0, cache_bandwidth=100.0, flop_rate=1000.0)
    assert bound(Work(2000, 10, 0), ceilings) == Bound(2.0, "compute")
    assert bound(Work(2000, 30, 50), ceilings) == Bound(3.5, "memory")
    assert bound(Work(), ceilings).seconds == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ceilings_are_those_of_a_machine(dtype):
    found = measure_ceilings(torch.device("cpu"), dtype)
    assert 1e8 < found.memory_bandwidth <= found.cache_bandwidth < 1e14
    assert 1e8 < found.flop_rate < 1e15
