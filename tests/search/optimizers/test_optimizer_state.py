"""Recoveries that leave the batch, begin anew in it, and are saved: to the bit."""

import pytest
import torch
from optimizer_problems import MAKERS, all_makers, both_backends, curved, noise
from safetensors.torch import load, save

RECOVERIES, SIZE, STEPS = 5, 37, 9
CURVATURES = torch.logspace(-1, 1, SIZE, dtype=torch.float64)


def _make(name, backend, recoveries=RECOVERIES):
    return MAKERS[name](recoveries, SIZE, backend=backend, dtype=torch.float64)


def _run(optimizer, x, steps, kicks):
    """Iterates after `steps` calls; kicks ``[steps, R, N]`` keep the gradients from dying away."""
    for kick in kicks[:steps]:
        objective, slope = curved(x, CURVATURES)
        x = x + optimizer.step(slope + 0.05 * kick, objective)
    return x


def _close(found, expected, backend):
    """To the bit in C++; torch's own products may round otherwise in another batch."""
    if backend == "compiled":
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@both_backends
@all_makers
def test_those_that_stay_go_on_as_if_nobody_had_left(name, backend):
    kicks = noise(RECOVERIES, SIZE, 2 * STEPS)
    start, rows = noise(RECOVERIES, SIZE, 1, seed=1)[0], torch.tensor([3, 0, 4])
    whole, shrinking = _make(name, backend), _make(name, backend)
    expected = _run(whole, start, 2 * STEPS, kicks)[rows]
    x = _run(shrinking, start, STEPS, kicks)[rows]
    shrinking.keep(rows)
    _close(_run(shrinking, x, STEPS, kicks[STEPS:, rows]), expected, backend)
    assert all(tensor.shape[0] == 3 for tensor in shrinking.state().values())


@both_backends
@all_makers
def test_a_restarted_recovery_is_a_fresh_one(name, backend):
    """Its own count: first step, bias correction and milestones begin anew beside recoveries that go on."""
    kicks = noise(RECOVERIES, SIZE, 2 * STEPS)
    start, rows = noise(RECOVERIES, SIZE, 1, seed=1)[0], torch.tensor([4, 1])
    undisturbed, optimizer = _make(name, backend), _make(name, backend)
    expected = _run(undisturbed, start, 2 * STEPS, kicks)
    x = _run(optimizer, start, STEPS, kicks)
    optimizer.restart(rows)
    x[rows] = start[:2]
    found = _run(optimizer, x, STEPS, kicks[STEPS:])
    others = [0, 2, 3]
    _close(found[others], expected[others], backend)
    fresh = _run(_make(name, backend, 2), start[:2], STEPS, kicks[STEPS:, rows])
    _close(found[rows], fresh, backend)


@both_backends
@all_makers
def test_a_copy_restarted_makes_room_for_another(name, backend):
    kicks, start = noise(RECOVERIES, SIZE, 2 * STEPS), noise(RECOVERIES, SIZE, 1, seed=1)[0]
    whole, optimizer = _make(name, backend), _make(name, backend, 2)
    expected = _run(whole, start, 2 * STEPS, kicks)[:2]
    x = _run(optimizer, start[:2], STEPS, kicks[:, :2])
    optimizer.keep(torch.tensor([0, 1, 1]))
    optimizer.restart(torch.tensor([2]))
    found = _run(optimizer, torch.cat((x, start[4:])), STEPS, kicks[STEPS:, [0, 1, 4]])
    _close(found[:2], expected, backend)
    _close(found[2:], _run(_make(name, backend, 1), start[4:], STEPS, kicks[STEPS:, 4:]), backend)


@both_backends
@all_makers
@pytest.mark.parametrize("steps", [0, 1, STEPS])
def test_saved_and_loaded_goes_on_with_the_same_bits(name, backend, steps):
    kicks, start = noise(RECOVERIES, SIZE, 2 * STEPS), noise(RECOVERIES, SIZE, 1, seed=1)[0]
    optimizer, resumed = _make(name, backend), _make(name, backend, 2)
    x = _run(optimizer, start, steps, kicks)
    saved = save(optimizer.state())
    expected = _run(optimizer, x, STEPS, kicks[steps:])
    resumed.load(load(saved))
    assert torch.equal(_run(resumed, x, STEPS, kicks[steps:]), expected)


@both_backends
@all_makers
def test_a_state_is_a_copy(name, backend):
    kicks, start = noise(RECOVERIES, SIZE, STEPS), noise(RECOVERIES, SIZE, 1, seed=1)[0]
    optimizer = _make(name, backend)
    _run(optimizer, start, 3, kicks)
    state = optimizer.state()
    before = {key: tensor.clone() for key, tensor in state.items()}
    other = _make(name, backend)
    other.load(state)
    _run(optimizer, start, 3, kicks)
    _run(other, start, 3, kicks)
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0, equal_nan=True)
        assert tensor.is_contiguous()


@all_makers
def test_everybody_may_leave(name):
    optimizer = _make(name, "compiled")
    optimizer.keep(torch.empty(0, dtype=torch.int64))
    empty = torch.zeros(0, SIZE, dtype=torch.float64)
    assert optimizer.step(empty, empty.sum(1)).shape == (0, SIZE)


def test_errors_name_what_was_found():
    optimizer = _make("lbfgs", "compiled")
    with pytest.raises(
        ValueError, match=r"rows: expected int64 of shape \[rows\], found torch.bool of shape \[5\]"
    ):
        optimizer.keep(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"rows: expected int64 of shape \[rows\], found .* shape \[\]"):
        optimizer.restart(torch.tensor(1))
    with pytest.raises(IndexError):
        optimizer.keep(torch.tensor([5]))
    state = optimizer.state()
    with pytest.raises(
        ValueError, match=r"state: expected the tensors \['calls', 'mean', 'square'\], found \["
    ):
        _make("adam", "compiled").load(state)
    with pytest.raises(
        ValueError, match=r"state: expected slot of torch.int64 and shape \['R'\], found torch.int32"
    ):
        optimizer.load(state | {"slot": state["slot"].int()})
    with pytest.raises(ValueError, match=r"state: expected scale of .*, found torch.float64 \[5, 2\]"):
        optimizer.load(state | {"scale": torch.ones(5, 2, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"state: expected one number of recoveries, found \[4, 5\]"):
        optimizer.load(state | {"scale": state["scale"][:4]})
    optimizer.load(state | {"slot": state["slot"] + 3})
    with pytest.raises(
        ValueError, match="slot, pairs: expected a ring of 5 filled from its start, found 3 and 0"
    ):
        optimizer.step(torch.zeros(RECOVERIES, SIZE, dtype=torch.float64))
