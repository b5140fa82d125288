"""The backtracking line search of the batched L-BFGS."""

import pytest
import torch
from optimizer_problems import both_backends, noise

from sapag_fast.search.optimizers import LBFGS


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def ill_conditioned(x):
    """A quadratic with curvatures from 1 to 1e4."""
    return 0.5 * (torch.logspace(0, 4, x.shape[1], dtype=x.dtype) * x * x).sum(1)


def flat_outside(x):
    """Σ √(1 + c x²): far out the curvature vanishes, and a plain quasi-Newton step goes farther out."""
    return (1 + torch.logspace(0, 4, x.shape[1], dtype=x.dtype) * x * x).sqrt().sum(1)


FUNCTIONS = {
    "rosenbrock": (rosenbrock, 0.0),
    "quadratic": (ill_conditioned, 0.0),
    "flat": (flat_outside, 20.0),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def minimise(function, start, steps, **options):
    """Objectives ``[steps, R]``, which of them were accepted, and the last iterate."""
    optimizer = LBFGS(*start.shape, history=10, dtype=start.dtype, **options)
    x, objectives, accepted = start.clone(), [], []
    for _ in range(steps):
        x = x.detach().requires_grad_()
        # One backward pass a recovery: a sum's order, and so its bits, may depend on the batch.
        rows = [function(row[None])[0] for row in x]
        (slope,) = torch.autograd.grad(sum(rows), x)
        objectives.append(torch.stack(rows).detach())
        x = x.detach() + optimizer.step(slope, objectives[-1])
        accepted.append(optimizer.accepted)
    return torch.stack(objectives), torch.stack(accepted), x


@both_backends
@every_function
@pytest.mark.parametrize("lr", [1.0, 4.0])
def test_accepted_objectives_never_increase(name, lr, backend):
    start = 3 * noise(4, 20, 1)[0]
    objectives, accepted, _ = minimise(
        FUNCTIONS[name][0], start, 80, lr=lr, line_search="armijo", backend=backend
    )
    assert not accepted.all()  # it had to search
    for r in range(4):
        taken = objectives[accepted[:, r], r]
        assert len(taken) > 20
        assert (taken.diff() <= 0).all()


@both_backends
@pytest.mark.parametrize("lr", [2.5, 4.0])
@every_function
def test_converges_where_the_plain_one_diverges(name, lr, backend):
    function, lowest = FUNCTIONS[name]
    start = 1 + 0.3 * noise(4, 20, 1)[0]
    options = {"lr": lr, "backend": backend}
    plain, _, _ = minimise(function, start, 300, **options)
    searched, accepted, _ = minimise(function, start, 300, line_search="armijo", **options)
    first, last = searched[0] - lowest, torch.where(accepted, searched, torch.inf).amin(0) - lowest
    assert (~torch.isfinite(plain[-1]) | (plain[-1] > plain[0])).all()
    assert (last < 1e-5 * first).all()


@every_function
def test_each_recovery_searches_as_if_alone(name):
    start = 2 * noise(5, 20, 1)[0]
    together, accepted, x = minimise(FUNCTIONS[name][0], start, 60, lr=2.0, line_search="armijo")
    assert len({tuple(column) for column in accepted.T.tolist()}) > 1  # masks differ between recoveries
    for r in range(5):
        alone = minimise(FUNCTIONS[name][0], start[r : r + 1], 60, lr=2.0, line_search="armijo")
        for found, expected in zip(
            alone, (together[:, r : r + 1], accepted[:, r : r + 1], x[r : r + 1]), strict=True
        ):
            assert torch.equal(found, expected)


@both_backends
def test_backtracks_along_the_direction_and_takes_the_pair_it_ended_on(backend):
    """By hand on f = 50 x², from x = 1."""
    optimizer = LBFGS(1, 1, lr=3.0, line_search="armijo", backend=backend, dtype=torch.float64)
    x, points, accepted = torch.ones(1, 1, dtype=torch.float64), [], []
    for _ in range(4):
        points.append(x.item())
        x = x + optimizer.step(100 * x, 50 * x[:, 0] ** 2)
        accepted.append(bool(optimizer.accepted))
    # First step min(1, 1/100)·3·(-100) = -3: f(-2) = 200 > 50, and the parabola's minimum is a third of it.
    assert points[:2] == [1.0, -2.0]
    torch.testing.assert_close(points[2], 0.0, rtol=0, atol=1e-12)
    assert accepted == [True, False, True, True]
    assert abs(points[3]) < 1e-12


@both_backends
def test_forgets_its_history_after_many_refusals(backend):
    """Objectives that lie: nothing ever descends. The recovery goes back, starts along -g, and shrinks its
    steps."""
    optimizer = LBFGS(1, 3, line_search="armijo", backend=backend, dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    curvatures = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    for _ in range(6):
        x = x + optimizer.step(curvatures * x, 0.5 * (curvatures * x * x).sum(1))
    while not optimizer.accepted:
        x = x + optimizer.step(curvatures * x, 0.5 * (curvatures * x * x).sum(1))
    taken = optimizer.state()["previous_gradient"] / curvatures
    lies = torch.tensor([1e6], dtype=torch.float64)
    distances = []
    for _ in range(40):
        x = x + optimizer.step(curvatures * x, lies)
        distances.append((x - taken).norm().item())
        assert not optimizer.accepted
    assert optimizer.state()["calls"].item() == 1
    assert (optimizer.state()["slot"] == 0).all()
    slope = curvatures * taken
    step = -slope * min(1.0, 1.0 / slope.abs().sum().item())
    torch.testing.assert_close(distances[9], step.norm().item(), rtol=1e-9, atol=0)
    shrinking = torch.tensor([distance for distance in distances[9:] if distance > 1e-12])
    assert len(shrinking) > 5
    assert (shrinking.diff() < 0).all()


@both_backends
def test_steps_back_from_a_point_that_is_not_finite(backend):
    """log's domain ends at 0; the first full step of the second recovery leaves it."""
    optimizer = LBFGS(2, 1, lr=5.0, line_search="armijo", backend=backend, dtype=torch.float64)
    x = torch.tensor([[0.9], [3.0]], dtype=torch.float64)
    seen = []
    for _ in range(60):
        seen.append(torch.isfinite(x.log()).squeeze(1))
        x = x + optimizer.step((1 - 1 / x), (x - x.log())[:, 0])
    assert not torch.stack(seen).all()
    torch.testing.assert_close(x, torch.ones_like(x), rtol=1e-6, atol=0)


def test_a_search_needs_the_objective():
    with pytest.raises(ValueError, match="objective: a line search needs it at every step, found None"):
        LBFGS(1, 2, line_search="armijo").step(torch.zeros(1, 2))
