"""Global random numbers are given back as they were."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from sapag_fast.runtime.randomness import forked, random_state, resumed, seeded

CPU = torch.device("cpu")


def test_seeded_draws_what_the_seed_gives_and_gives_the_generator_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(5)
    after = torch.rand(4)
    torch.manual_seed(5)
    with seeded(3, CPU):
        drawn = torch.rand(4)
    assert torch.equal(drawn, expected)
    assert torch.equal(torch.rand(4), after)


def test_forked_goes_on_from_the_present_state_and_gives_it_back() -> None:
    torch.manual_seed(5)
    with forked(CPU):
        drawn = torch.rand(4)
    assert torch.equal(torch.rand(4), drawn)


def test_the_generator_is_given_back_after_an_error() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3, CPU):
        torch.rand(4).reshape(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_code_that_stops_half_way_goes_on_with_the_same_numbers() -> None:
    with seeded(3, CPU):
        whole = torch.rand(8)
    with seeded(3, CPU):
        first = torch.rand(4)
        state = random_state(CPU)
    before = torch.get_rng_state()
    with resumed(state, CPU):
        rest = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    # `rand` fills short tensors one number after the other.
    assert torch.equal(torch.cat((first, rest)), whole)


def test_one_thread_at_a_time_draws() -> None:
    with seeded(3, CPU):
        expected = torch.rand(4)
    drawn, inside = [], threading.Event()

    def other() -> None:
        inside.set()
        with seeded(7, CPU):
            torch.rand(9)

    thread = threading.Thread(target=other)
    with seeded(3, CPU):
        thread.start()
        assert inside.wait(5)
        with forked(CPU):  # the thread that holds the generators may fork again
            torch.rand(2)
        thread.join(0.05)
        assert thread.is_alive()
        drawn = torch.rand(4)
    thread.join(5)
    assert not thread.is_alive()
    assert torch.equal(drawn, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_process_does_not_wait_for_its_parents_threads() -> None:
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with forked(CPU):
            held.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(5)
    child = os.fork()
    if child == 0:
        finished = threading.Event()

        def draw() -> None:
            with forked(CPU):
                finished.set()

        threading.Thread(target=draw, daemon=True).start()
        os._exit(0 if finished.wait(5) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join(5)
    assert status == 0
