"""Batched optimisers against torch.optim, one recovery at a time, and against themselves in other batches."""

import os
import subprocess
import sys
from pathlib import Path

import optimizer_problems
import pytest
import torch
from optimizer_problems import (
    MAKERS,
    RECOVERIES,
    SIZE,
    all_makers,
    both_backends,
    curved,
    drive,
    gradient,
    noise,
    path_of,
    quadratics,
    value,
)

from sapag_fast.distances import operators as ops
from sapag_fast.search.optimizers import LBFGS, Adam, Schedule

SUPPORT = Path(optimizer_problems.__file__).parent


def _torch_lbfgs(matrix, start, steps, wave=0.0, **options):
    x = start.clone().requires_grad_()
    path = []
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=steps,
        max_eval=2 * steps,
        tolerance_grad=-1.0,
        tolerance_change=-float("inf"),
        **options,
    )

    def closure():
        path.append(x.detach().clone())
        x.grad = gradient(matrix, x, wave)
        return value(matrix, x.detach(), wave)

    optimizer.step(closure)
    return torch.stack(path)


@both_backends
@pytest.mark.parametrize("history", [1, 4, 7, 100])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_lbfgs_follows_torch_on_a_quadratic(history, lr, backend):
    """Histories shorter than the 60 steps wrap around, many times."""
    matrix, start = quadratics()
    options = {"lr": lr, "history": history, "backend": backend, "dtype": torch.float64}
    path = path_of(LBFGS(RECOVERIES, SIZE, **options), matrix, start, 60)
    for r in range(RECOVERIES):
        expected = _torch_lbfgs(matrix[r], start[r], 60, lr=lr, history_size=history)
        torch.testing.assert_close(path[r], expected, rtol=1e-6, atol=1e-7)
    assert path[:, -1].abs().max() < 0.5 * start.abs().max()


@both_backends
@pytest.mark.parametrize("size", [1, 3, 17, 1023, 2100])
def test_every_change_is_the_two_loop_recursions(size, backend):
    """Odd sizes, several blocks of columns, a ring that wraps: to rounding, before iterates drift apart."""
    steps, history, curvatures = 17, 5, torch.linspace(0.5, 3, size, dtype=torch.float64)
    kicks, x = noise(2, size, steps), noise(2, size, 1, seed=1)[0]
    optimizer = LBFGS(2, size, history=history, backend=backend, dtype=torch.float64)
    pairs, last, appended = ([], []), None, 0
    for kick in kicks:
        given = curved(x, curvatures)[1] + 0.05 * kick
        change = optimizer.step(given)
        for r in range(2):
            q, weights = given[r].clone(), []
            if last is None:
                torch.testing.assert_close(change[r], -q * min(1.0, 1.0 / q.abs().sum()))
                continue
            s, y = last[1][r], given[r] - last[0][r]
            if s @ y > 1e-10:
                pairs[r].append((s, y))
                appended += 1
            kept = pairs[r][-history:]
            for s, y in reversed(kept):
                weights.append((s @ q) / (s @ y))
                q -= weights[-1] * y
            if kept:
                q *= (kept[-1][0] @ kept[-1][1]) / (kept[-1][1] @ kept[-1][1])
            for (s, y), weight in zip(kept, reversed(weights), strict=True):
                q += (weight - (y @ q) / (s @ y)) * s
            torch.testing.assert_close(change[r], -q, rtol=0, atol=1e-8 * q.abs().max().item())
        last, x = (given, change), x + change
    assert appended > 2 * (history + 1)


@both_backends
def test_lbfgs_follows_torch_where_pairs_are_skipped(backend):
    """On a wavy function some recoveries meet negative curvature, at steps of their own."""
    matrix, start = quadratics(1)
    optimizer = LBFGS(RECOVERIES, SIZE, history=5, backend=backend, dtype=torch.float64)
    path = path_of(optimizer, matrix, start, 25, wave=0.3)
    assert len(set(optimizer.state()["slot"].tolist())) > 1  # the rings have drifted apart
    for r in range(RECOVERIES):
        expected = _torch_lbfgs(matrix[r], start[r], 25, wave=0.3, history_size=5)
        torch.testing.assert_close(path[r], expected, rtol=1e-5, atol=1e-6)


@both_backends
def test_lbfgs_in_single_precision_gets_as_far_as_torch(backend):
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(16, 60, 60, generator=generator)
    matrix = root @ root.mT / 60 + 1e-3 * torch.eye(60)
    start = torch.randn(16, 60, generator=generator)
    optimizer = LBFGS(16, 60, history=20, backend=backend)
    ours = value(matrix, path_of(optimizer, matrix, start, 80)[:, -1])
    theirs = [value(matrix[r], _torch_lbfgs(matrix[r], start[r], 80, history_size=20)[-1]) for r in range(16)]
    assert ours.log().median() < torch.stack(theirs).log().median() + 1.0


@both_backends
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e-20])
def test_adam_follows_torch(signed, eps, backend):
    matrix, start = quadratics(6)
    options = {"signed": signed, "eps": eps, "backend": backend}
    falling = Schedule(milestones=(5, 9))
    ours = path_of(Adam(RECOVERIES, SIZE, falling, dtype=torch.float64, **options), matrix, start, 12)
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1, eps=eps)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9], gamma=0.1)
    for k in range(12):
        torch.testing.assert_close(ours[:, k], x.detach())
        slope = gradient(matrix, x)
        x.grad = slope.sign() if signed else slope
        optimizer.step()
        schedule.step()


@both_backends
def test_adams_rate_falls_as_a_cosine(backend):
    matrix, start = quadratics(6)
    options = {"eps": 1e-20, "backend": backend}
    falling = Schedule(lr=0.3, cosine=8)
    ours = path_of(Adam(RECOVERIES, SIZE, falling, dtype=torch.float64, **options), matrix, start, 11)
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.3, eps=1e-20)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for k in range(8):
        torch.testing.assert_close(ours[:, k], x.detach())
        x.grad = gradient(matrix, x)
        optimizer.step()
        schedule.step()
    assert torch.equal(ours[:, 9], ours[:, 8])
    assert torch.equal(ours[:, 10], ours[:, 8])


def test_adam_in_single_precision_is_as_exact_as_torch():
    given = noise(3, 1001, 30, torch.float32) * 10.0 ** noise(1, 1001, 1, torch.float32).mul(2)
    exact, ours = Adam(3, 1001, dtype=torch.float64), Adam(3, 1001)
    x = torch.zeros(3, 1001, requires_grad=True)
    theirs = torch.optim.Adam([x], lr=0.1)
    for g in given:
        wanted, found = exact.step(g.double()), ours.step(g)
        x.data.zero_()  # what remains of x after the step is the change
        x.grad = g
        theirs.step()
        error, bar = (found - wanted).abs().max(), (x.detach() - wanted).abs().max()
        assert error <= 2 * bar + 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 37, 784, 1500])
@all_makers
def test_bits_depend_neither_on_the_batch_nor_on_threads(name, size, dtype):
    recoveries, steps = 7, 14
    curvatures = torch.logspace(-1, 1, size, dtype=dtype)
    start, kicks = noise(recoveries, size, 1, dtype)[0], noise(recoveries, size, steps, dtype, seed=1)

    def run(rows, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            optimizer = MAKERS[name](len(rows), size, dtype=dtype)
            x, changes = start[rows], []
            for k in range(steps):
                slope = curved(x, curvatures)[1] + 0.05 * kicks[k][rows]
                # Any number will do as an objective, but not one whose sum's order depends on the batch.
                changes.append(optimizer.step(slope, x[:, 0] * x[:, 0]))
                x = x + changes[-1]
            return torch.stack(changes, 1)
        finally:
            torch.set_num_threads(before)

    together = run(list(range(recoveries)), 1)
    assert torch.isfinite(together).all()
    assert torch.equal(run(list(range(recoveries)), 2), together)
    for rows in ([3], [6, 0, 2], [4, 4, 4]):
        assert torch.equal(run(rows, 2), together[rows])


@both_backends
@all_makers
def test_a_non_finite_gradient_stays_in_its_recovery(name, backend):
    clean, spoiled = (MAKERS[name](RECOVERIES, SIZE, backend=backend, dtype=torch.float64) for _ in range(2))
    x, curvatures = quadratics(3)[1], torch.linspace(0.1, 2, SIZE, dtype=torch.float64)
    others = [0, 2, 3]
    for k in range(12):
        objective, slope = curved(x, curvatures)
        bad = slope.clone()
        if k >= 5:
            bad[1, k % SIZE] = torch.nan if k % 2 else torch.inf
        step, other = clean.step(slope, objective), spoiled.step(bad, objective)
        assert torch.equal(step[others], other[others])
        x = x + step


@both_backends
@all_makers
def test_a_spoiled_recovery_is_clean_after_its_restart(name, backend):
    size, curvatures = 20, torch.linspace(0.1, 2, 20, dtype=torch.float64)
    fresh, used = (MAKERS[name](2, size, backend=backend, dtype=torch.float64) for _ in range(2))
    start = noise(2, size, 1)[0]
    for k in range(9):
        slope = curved(start, curvatures)[1] * (k + 1)
        slope[1] = (torch.nan, torch.inf, -torch.inf, 1e300)[k % 4]
        used.step(slope, slope.abs().sum(1))
    used.restart(torch.tensor([1, 0]))
    for _ in range(9):
        objective, slope = curved(start, curvatures)
        change = fresh.step(slope, objective)
        assert torch.equal(used.step(slope, objective), change)
        assert torch.isfinite(change).all()
        start = start + change


@both_backends
def test_lbfgs_gets_over_one_bad_gradient(backend):
    """The pairs of a non-finite gradient are skipped: the history stays what it was."""
    optimizer = LBFGS(1, SIZE, history=4, backend=backend, dtype=torch.float64)
    curvatures, x = torch.linspace(0.1, 2, SIZE, dtype=torch.float64), quadratics()[1][:1]
    x = drive(optimizer, x, curvatures, 8)
    before = optimizer.state()
    optimizer.step(torch.full((1, SIZE), torch.nan, dtype=torch.float64))
    change = optimizer.step(curved(x, curvatures)[1])
    assert torch.isfinite(change).all()
    after = optimizer.state()
    for name in ("slot", "scale"):
        assert torch.equal(after[name], before[name])
    assert torch.equal(after["steps"][:, :4], before["steps"][:, :4])


@both_backends
def test_history_must_be_positive(backend):
    with pytest.raises(ValueError, match="history must be at least 1, found 0"):
        LBFGS(1, 2, history=0, backend=backend)


@all_makers
@both_backends
def test_no_recoveries_and_no_variables(name, backend):
    for recoveries, size in ((0, 5), (2, 0)):
        optimizer = MAKERS[name](recoveries, size, backend=backend)
        for _ in range(3):
            change = optimizer.step(torch.zeros(recoveries, size), torch.zeros(recoveries))
        assert change.shape == (recoveries, size)


@all_makers
def test_gradients_may_lie_anywhere(name):
    """Strided and off any boundary: the same bits."""
    size, given = 45, noise(3, 45, 8, torch.float32)
    plain, other = (MAKERS[name](3, size) for _ in range(2))
    for k, g in enumerate(given):
        store = torch.empty(3 * size + 1)
        awkward = store[1:].view(3, size) if k % 2 else torch.empty(size, 3).T
        awkward.copy_(g)
        assert torch.equal(plain.step(g, g[:, 0]), other.step(awkward, g[:, 0]))
        assert torch.equal(awkward, g)


def test_torch_operations_read_nothing_back():
    """Fake tensors have no values: an operation that needs one on the host raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for make in MAKERS.values():
            optimizer = make(3, 8, backend="torch")
            for _ in range(3):
                change = optimizer.step(torch.randn(3, 8), torch.randn(3))
            optimizer.restart(torch.tensor([1]))
            optimizer.keep(torch.tensor([2, 0]))
            assert change.shape == (3, 8)
            assert optimizer.step(torch.randn(2, 8), torch.randn(2)).shape == (2, 8)


@all_makers
def test_operators_tell_torch_the_truth(name, monkeypatch):
    """Shapes for torch.compile, and which arguments they change."""
    calls = []
    for module, operator in (("lbfgs_compiled", "lbfgs_step"), ("adam", "adam_step")):
        original = getattr(torch.ops.sapag_fast, operator).default

        def spied(*arguments, original=original):
            calls.append(
                (original, tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in arguments))
            )
            return original(*arguments)

        monkeypatch.setattr(f"sapag_fast.search.optimizers.{module}.{operator}", spied)
    optimizer = MAKERS[name](2, 9)
    for _ in range(3):
        optimizer.step(torch.randn(2, 9), torch.randn(2))
    assert len(calls) == 3
    for operator, arguments in calls[::2]:
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"dtype: expected float32 or float64, found torch\.float16"):
        LBFGS(1, 2, dtype=torch.float16)
    with pytest.raises(ValueError, match="backend: expected one of compiled, torch, found 'cuda'"):
        Adam(1, 2, backend="cuda")
    with pytest.raises(ValueError, match="backend: 'compiled' needs variables on the CPU, found meta"):
        Adam(1, 2, backend="compiled", device="meta")
    with pytest.raises(ValueError, match="line_search: expected one of armijo or None, found 'wolfe'"):
        LBFGS(1, 2, line_search="wolfe")
    with pytest.raises(
        ValueError, match=r"gradient: expected torch.float32 of shape \[3, 4\] on cpu, found "
    ):
        LBFGS(3, 4).step(torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r"gradient: expected .* found torch.float64 of shape \[3, 4\] on cpu"
    ):
        Adam(3, 4).step(torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"objective: expected shape \[3\], found \[3, 1\]"):
        LBFGS(3, 4, line_search="armijo").step(torch.zeros(3, 4), torch.zeros(3, 1))


SCRIPT = """
import sys

sys.path.insert(0, sys.argv[2])
import torch
from optimizer_problems import MAKERS, curved, noise

from sapag_fast.distances import operators as ops

assert ops.cpu_capability() == sys.argv[1], ops.cpu_capability()
for name, make in MAKERS.items():
    for dtype, rounding in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        ours, exact = make(3, 1043, dtype=dtype), make(3, 1043, backend="torch", dtype=torch.float64)
        x, curvatures = noise(3, 1043, 1, dtype)[0], torch.linspace(0.5, 3, 1043, dtype=dtype)
        for _ in range(9):
            objective, slope = curved(x, curvatures)
            change, wanted = ours.step(slope, objective), exact.step(slope.double(), objective.double())
            assert (change - wanted).norm() <= rounding * wanted.norm(), (name, dtype)
            x = x + change
"""


def test_every_instruction_set_of_this_machine():
    order = ["baseline", "avx2", "avx512"]
    for capability in order[: order.index(ops.cpu_capability()) + 1]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, capability, str(SUPPORT)],
            env={**os.environ, "SAPAG_FAST_CPU_CAPABILITY": capability},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
