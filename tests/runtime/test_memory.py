"""Measuring a step's memory, and how many recoveries that leaves room for."""

import pytest
import torch

from sapag_fast.runtime.memory import free_bytes, is_out_of_memory, peak_bytes, rows_that_fit

CPU = torch.device("cpu")


def test_free_memory_is_some_of_the_machines():
    assert 1e6 < free_bytes(CPU) < 1e14


def test_peak_counts_what_is_held_at_once():
    def one_after_the_other():
        for _ in range(5):
            torch.ones(16_000_000)

    def together():
        kept = [torch.ones(16_000_000) for _ in range(5)]
        del kept

    # Each is above what the allocator keeps for later; it need not use again at once what was freed.
    assert 60e6 < peak_bytes(one_after_the_other, CPU) < 360e6
    assert 300e6 < peak_bytes(together, CPU) < 360e6
    assert peak_bytes(lambda: None, CPU) < 1e6


def test_rows_follow_the_line_through_two_measurements():
    measured = {2: 1_200, 4: 1_400}  # 1000 and 100 for each row
    assert rows_that_fit(measured, 0, 10_000) == 60
    assert rows_that_fit(measured, 100, 10_000) == 30
    assert rows_that_fit(measured, 100, 10) == 1
    assert rows_that_fit({2: 500, 4: 500}, 50, 1_000) == 4


def test_failed_allocations_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
