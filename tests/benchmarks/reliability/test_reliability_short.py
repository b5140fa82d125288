"""A short run of every part of `make fuzz`: the first cases of a seed of its own, in this process."""

import os

import pytest
import torch

from benchmarks.reliability.arguments.arguments import Arguments
from benchmarks.reliability.files.files import READERS, Files
from benchmarks.reliability.kills.kills import Kills
from benchmarks.reliability.tables.tables import Tables

SEED = 12


def faults(part, numbers):
    return [f"case {n}: {fault}" for n in numbers for fault in part.check(SEED, n).faults]


def test_tables():
    assert faults(Tables(), range(60)) == []


@pytest.mark.long
def test_many_tables():
    assert faults(Tables(), range(60, 4000)) == []


@pytest.mark.parametrize("reader", READERS)
def test_files(reader):
    at, every = list(READERS).index(reader), len(READERS)
    count = 3 if reader.startswith("audit") else 30
    assert faults(Files(), range(at, at + every * count, every)) == []


def test_arguments():
    """Without those that run the profiler, which takes seconds to start."""
    part = Arguments()
    numbers = [n for n in range(80) if not part.draw(SEED, n)[0].startswith("profile")]
    assert faults(part, numbers) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills():
    part, threads = Kills(), torch.get_num_threads()
    torch.set_num_threads(1)  # the processes are forked
    numbers = [n for n in range(40) if len(part.draw(SEED, n)[2]) == 1][:3]
    try:
        assert faults(part, numbers) == []
    finally:
        torch.set_num_threads(threads)
