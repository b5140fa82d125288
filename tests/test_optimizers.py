"""Batched optimisers against torch.optim, one recovery at a time."""

import pytest
import torch

from sapag_fast.optimizers import LBFGS, Adam

SIZE, RECOVERIES = 24, 4


def _problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(RECOVERIES, SIZE, SIZE, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT / SIZE + 0.05 * torch.eye(SIZE, dtype=torch.float64)
    start = torch.randn(RECOVERIES, SIZE, generator=generator, dtype=torch.float64) * 2
    return matrix, start


def _value(matrix, x, wave):
    """A quadratic plus `wave` times a smooth, not convex part; ``[..., N] -> [...]``."""
    return 0.5 * (x * (matrix @ x[..., None])[..., 0]).sum(-1) + wave * torch.sin(3 * x).sum(-1)


def _gradient(matrix, x, wave):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(_value(matrix, x, wave).sum(), x)[0]


def _ours(optimizer, matrix, start, steps, wave=0.0):
    x, path = start.clone(), []
    for _ in range(steps):
        path.append(x)
        x = x + optimizer.step(_gradient(matrix, x, wave))
    return torch.stack(path, 1)


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
        x.grad = _gradient(matrix, x, wave)
        return _value(matrix, x.detach(), wave)

    optimizer.step(closure)
    return torch.stack(path)


@pytest.mark.parametrize("history", [1, 4, 100])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_lbfgs_follows_torch_on_a_quadratic(history, lr):
    matrix, start = _problem()
    path = _ours(LBFGS(RECOVERIES, SIZE, lr=lr, history=history, dtype=torch.float64), matrix, start, 60)
    for r in range(RECOVERIES):
        expected = _torch_lbfgs(matrix[r], start[r], 60, lr=lr, history_size=history)
        torch.testing.assert_close(path[r], expected, rtol=1e-6, atol=1e-7)
    assert path[:, -1].abs().max() < 0.5 * start.abs().max()


def test_lbfgs_follows_torch_where_pairs_are_skipped():
    """On a wavy function some recoveries meet negative curvature, at steps of their own."""
    matrix, start = _problem(1)
    optimizer = LBFGS(RECOVERIES, SIZE, history=5, dtype=torch.float64)
    path = _ours(optimizer, matrix, start, 25, wave=0.3)
    assert len(set(optimizer.state()["slot"].tolist())) > 1  # the rings have drifted apart
    for r in range(RECOVERIES):
        expected = _torch_lbfgs(matrix[r], start[r], 25, wave=0.3, history_size=5)
        torch.testing.assert_close(path[r], expected, rtol=1e-5, atol=1e-6)


def test_recoveries_do_not_touch_each_other():
    matrix, start = _problem(2)
    together = _ours(LBFGS(RECOVERIES, SIZE, dtype=torch.float64), matrix, start, 30)
    for r in range(RECOVERIES):
        alone = _ours(LBFGS(1, SIZE, dtype=torch.float64), matrix[r : r + 1], start[r : r + 1], 30)
        torch.testing.assert_close(together[r], alone[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make", [LBFGS, Adam])
def test_a_non_finite_gradient_stays_in_its_recovery(make):
    matrix, start = _problem(3)
    clean, spoiled = (make(RECOVERIES, SIZE, dtype=torch.float64) for _ in range(2))
    x = start
    for k in range(12):
        gradient = _gradient(matrix, x, 0.0)
        bad = gradient.clone()
        if k >= 5:
            bad[1] = torch.nan if k % 2 else torch.inf
        step, other = clean.step(gradient), spoiled.step(bad)
        keep = [0, 2, 3]
        assert torch.equal(step[keep], other[keep])
        x = x + step


def test_lbfgs_in_single_precision_gets_as_far_as_torch():
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(16, 60, 60, generator=generator)
    matrix = root @ root.mT / 60 + 1e-3 * torch.eye(60)
    start = torch.randn(16, 60, generator=generator)
    ours = _value(matrix, _ours(LBFGS(16, 60, history=20), matrix, start, 80)[:, -1], 0.0)
    theirs = torch.stack(
        [
            _value(matrix[r], _torch_lbfgs(matrix[r], start[r], 80, history_size=20)[-1], 0.0)
            for r in range(16)
        ]
    )
    assert ours.log().median() < theirs.log().median() + 1.0


@pytest.mark.parametrize("signed", [False, True])
def test_adam_follows_torch(signed):
    matrix, start = _problem(6)
    ours = _ours(
        Adam(RECOVERIES, SIZE, signed=signed, milestones=(5, 9), dtype=torch.float64), matrix, start, 12
    )
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9], gamma=0.1)
    for k in range(12):
        torch.testing.assert_close(ours[:, k], x.detach())
        gradient = _gradient(matrix, x, 0.0)
        x.grad = gradient.sign() if signed else gradient
        optimizer.step()
        schedule.step()


def test_history_must_be_positive():
    with pytest.raises(ValueError, match="history must be at least 1, found 0"):
        LBFGS(1, 2, history=0)
