"""The account of time, with a clock that the test sets."""

import pytest

from sapag_fast.profiler.timeline import HostClock, Timeline
from sapag_fast.profiler.turns import Block, quickest


def timeline(*times):
    return Timeline(HostClock(iter(times).__next__))


def test_each_stretch_counts_for_what_was_going_on():
    watched = timeline(0.0, 1.0, 3.0, 3.5, 7.5)
    for to in ("a", "b", "a", "c", None):
        watched.switch(to)
    assert watched.seconds() == {"a": 1.5, "b": 2.0, "c": 4.0}


def test_nothing_going_on_counts_for_nobody_and_the_parts_add_up():
    watched = timeline(0.0, 2.0, 10.0, 11.0, 12.0)
    for to in ("a", None, "b", "a", None):
        watched.switch(to)
    assert watched.seconds() == {"a": 3.0, "b": 1.0}
    assert sum(watched.seconds().values()) == 12.0 - 8.0
    assert watched.current is None


def test_an_account_that_is_not_ended_leaves_the_last_stretch_out():
    watched = timeline(0.0, 1.0)
    watched.switch("a")
    watched.switch("b")
    assert watched.seconds() == {"a": 1.0}
    assert timeline().seconds() == {}


def test_the_quickest_eighth_is_averaged_whole():
    blocks = [Block(float(n), {"a": n / 2, **({"b": 1.0} if n == 2 else {})}) for n in range(16, 0, -1)]
    found = quickest(blocks)
    assert found.seconds == 1.5
    assert found.parts == {"a": 0.75, "b": 0.5}
    assert quickest(blocks[:3]).seconds == 14.0
    assert quickest([Block(2.0, {"a": 2.0})]).parts["a"] == pytest.approx(2.0)
