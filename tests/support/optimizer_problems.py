"""Smooth functions of ``[R, N]`` variables that the optimisers' tests minimise, and the loop that does it."""

import pytest
import torch

from sapag_fast.search.optimizers import LBFGS, Adam, Schedule

RECOVERIES, SIZE = 4, 24
BACKENDS = ("compiled", "torch")
MAKERS = {
    "lbfgs": lambda *shape, **options: LBFGS(*shape, history=5, **options),
    "lbfgs-armijo": lambda *shape, **options: LBFGS(*shape, history=5, line_search="armijo", **options),
    "adam": lambda *shape, **options: Adam(*shape, Schedule(milestones=(3, 6)), **options),
    "signed-adam": lambda *shape, **options: Adam(*shape, signed=True, eps=1e-20, **options),
}
both_backends = pytest.mark.parametrize("backend", BACKENDS)
all_makers = pytest.mark.parametrize("name", MAKERS)


def quadratics(seed=0, recoveries=RECOVERIES, size=SIZE):
    """Matrices ``[R, N, N]`` and starts ``[R, N]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(recoveries, size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT / size + 0.05 * torch.eye(size, dtype=torch.float64)
    start = torch.randn(recoveries, size, generator=generator, dtype=torch.float64) * 2
    return matrix, start


def value(matrix, x, wave=0.0):
    """A quadratic plus `wave` times a smooth, not convex part; ``[..., N] -> [...]``."""
    return 0.5 * (x * (matrix @ x[..., None])[..., 0]).sum(-1) + wave * torch.sin(3 * x).sum(-1)


def gradient(matrix, x, wave=0.0):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(value(matrix, x, wave).sum(), x)[0]


def path_of(optimizer, matrix, start, steps, wave=0.0):
    """The iterates ``[R, steps, N]``."""
    x, path = start.clone(), []
    for _ in range(steps):
        path.append(x)
        x = x + optimizer.step(gradient(matrix, x, wave))
    return torch.stack(path, 1)


def curved(x, curvatures):
    """Σ curvature·x²/2 + x⁴/4 and its gradient, whose elements know nothing of each other, so that those of a
    recovery have the same bits in every batch; ``[R, N] -> [R], [R, N]``."""
    return (0.5 * curvatures * x * x + 0.25 * x**4).sum(-1), curvatures * x + x**3


def noise(recoveries, size, steps, dtype=torch.float64, seed=0):
    """Standard normal numbers ``[steps, R, N]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, recoveries, size, generator=generator, dtype=torch.float64).to(dtype)


def drive(optimizer, x, curvatures, steps):
    """The iterate after `steps` calls on `curved`."""
    for _ in range(steps):
        x = x + optimizer.step(curved(x, curvatures)[1])
    return x
