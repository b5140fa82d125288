"""The distance under torch.compile, torch.func, forward mode, inference mode and modes without memory."""

import pytest
import torch
from built_in_kinds import NATIVE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

import sapag_fast as sf
from sapag_fast.distances import kind as distances

BACKENDS = ["cpu", "reference"]
SMALL = [(4, 3), (4,), (2, 4), (2,)]


def plain(kind, dummy, target, *, merged):
    """D of float64 gradients in plain torch, as the definitions say."""

    def layers(tensors):
        flat = [t.flatten() for t in tensors]
        pairs = [torch.cat(flat[i : i + 2]) for i in range(0, len(flat), 2)]
        return [torch.cat(flat)] if merged else pairs

    pairs = zip(layers(dummy), layers(target), strict=True)
    return sum(plain_layer(kind, a, g, index) for index, (a, g) in enumerate(pairs))


def plain_layer(kind, a, g, index):
    d, u = a - g, a / a.norm() - g / g.norm()
    unit_variance = (g / g.norm()).var(unbiased=False)
    variance = g.var(unbiased=False)
    return {
        "sapag": lambda: 1 - torch.exp(-u.square().mean() / (2 * unit_variance)),
        "sapag-mean": lambda: (1 - torch.exp(-d.square().mean() / (2 * variance))) / (index + 1),
        "sapag-sum": lambda: 1 - torch.exp(-d.square().sum() / (2 * variance)),
        "sapag-global": lambda: 1 - torch.exp(-u.square().sum() / 0.1),
        "l2": lambda: d.square().sum(),
        "l2-normalized": lambda: d.square().sum() / g.square().sum(),
        "cosine": lambda: u.square().sum() / 2,
        "layer-cosine": lambda: u.square().sum() / 2,
        "l1": lambda: d.abs().sum(),
        "tag": lambda: d.square().sum() + 0.01 * d.abs().sum(),
        "own": lambda: d.square().sum() / (1 + g.square().sum()) + (a * g).sum().square(),
    }[kind]()


def own(sums):
    return (sums.square / (1 + sums.target_square) + sums.inner.square()).sum(-1)


def smooth_pair(gradients, kind, dtype=torch.float64):
    """A pair of about the same size in every layer, and the plain formula of the dummy gradient."""
    if kind == "own":
        sf.register_distance("own", own)
    dummy, target = gradients.pair(0.5, shapes=SMALL, dtype=torch.float64)
    # The literal sum form has left no slope farther away.
    gap = 0.1 if kind == "sapag-sum" else 1.0
    target = [g / g.norm() for g in target]
    dummy = [g + gap * a / a.norm() for a, g in zip(dummy, target, strict=True)]
    merged = distances.find_kind(kind).merged
    exact = [t.to(dtype).double() for t in target]
    return (
        [t.to(dtype) for t in dummy],
        [t.to(dtype) for t in target],
        lambda *d: plain(kind, d, exact, merged=merged),
    )


def close(found, true, rtol=1e-8):
    found, true = torch.as_tensor(found).double(), torch.as_tensor(true).double()
    return (found - true).norm() <= rtol * true.norm() + 1e-12


def all_close(found, true, rtol=1e-8):
    return all(close(a, b, rtol) for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [*NATIVE, "own"])
def test_forward_mode(gradients, kind, backend):
    dummy, target, formula = smooth_pair(gradients, kind)
    along = [torch.sin(1 + t) for t in dummy]
    value, slope = torch.func.jvp(
        lambda *d: sf.distance(d, target, kind, backend=backend), tuple(dummy), tuple(along)
    )
    true, expected = torch.func.jvp(formula, tuple(dummy), tuple(along))
    assert close(value, true)
    assert close(slope, expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, s) for t, s in zip(dummy[:2], along[:2], strict=True)]
        mixed = sf.distance([*duals, *dummy[2:]], target, kind, backend=backend)
        tangent = forward_ad.unpack_dual(mixed).tangent
    shorter = torch.func.jvp(lambda *d: formula(*d, *dummy[2:]), tuple(dummy[:2]), tuple(along[:2]))
    assert close(tangent, shorter[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [*NATIVE, "own"])
def test_hessians(gradients, kind, backend):
    """Forward over reverse, reverse over reverse, forward over forward, reverse over forward."""
    dummy, target, formula = smooth_pair(gradients, kind)

    def distance(x):
        return sf.distance([x, *dummy[1:]], target, kind, backend=backend)

    true = torch.autograd.functional.hessian(lambda x: formula(x, *dummy[1:]), dummy[0])
    functions = torch.func.jacfwd, torch.func.jacrev
    for outer in functions:
        for inner in functions:
            assert close(outer(inner(distance))(dummy[0]), true), (outer, inner)
    assert close(torch.func.hessian(distance)(dummy[0]), true)
    assert close(torch.autograd.functional.hessian(distance, dummy[0]), true)


@pytest.mark.parametrize("options", [{"layer_weights": [1.0, 2.0]}, {"variance": torch.tensor([0.5, 2.0])}])
def test_options_in_transforms(gradients, options):
    dummy, target, _ = smooth_pair(gradients, "sapag")

    def hessian(backend):
        function = lambda x: sf.distance([x, *dummy[1:]], target, backend=backend, **options)  # noqa: E731
        return torch.func.hessian(function)(dummy[0])

    assert close(hessian("cpu"), hessian("reference"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessians_of_batched_distances(gradients, backend):
    dummy, target = gradients.pair(0.5, shapes=SMALL[:2], recoveries=3, shared=True, dtype=torch.float64)

    def distance(d):
        return sf.distance(d, target, batched=True, backend=backend).sum()

    found = torch.func.hessian(distance)(dummy)
    for r in range(3):
        alone = [t[r] for t in dummy]
        true = torch.func.hessian(lambda d: sf.distance(d, [t[0] for t in target], backend="reference"))(
            alone
        )
        for i in range(2):
            for j in range(2):
                block = found[i][j].select(dummy[i].dim(), r)[r]
                assert close(block, true[i][j])
    each = torch.func.vmap(
        torch.func.hessian(lambda d: sf.distance(d, [t[0] for t in target], backend=backend))
    )
    assert close(each(dummy)[0][1][2], true[0][1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["sapag", "cosine", "sapag-sum", "own"])
def test_double_backward_and_third_derivatives(gradients, kind, backend):
    dummy, target, formula = smooth_pair(gradients, kind)
    weights = [torch.cos(t) for t in dummy]

    def derivatives(function):
        leaves = [t.clone().requires_grad_() for t in dummy]
        first = torch.autograd.grad(2 * function(*leaves), leaves, create_graph=True)
        second = torch.autograd.grad(
            sum((a * w).sum() for a, w in zip(first, weights, strict=True)), leaves, create_graph=True
        )
        third = torch.autograd.grad(
            sum((a.square() * w).sum() for a, w in zip(second, weights, strict=True)), leaves
        )
        return first, second, third

    distance = sf.GradientDistance(kind, backend=backend)
    found, true = derivatives(lambda *d: distance(d, target)), derivatives(formula)
    for mine, exact in zip(found, true, strict=True):
        assert all_close(mine, exact, 1e-7)


def test_second_derivatives_in_float32(gradients):
    dummy, target, formula = smooth_pair(gradients, "sapag", torch.float32)
    found = torch.func.hessian(lambda x: sf.distance([x, *dummy[1:]], target))(dummy[0])
    rest = [t.double() for t in dummy[1:]]
    true = torch.func.hessian(lambda x: formula(x, *rest))(dummy[0].double())
    assert found.dtype == torch.float32
    assert close(found, true, 1e-5)


STATES = {
    "requires_grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["sapag", "own"])
def test_every_state_of_autograd(gradients, kind, state, backend):
    dummy, target, formula = smooth_pair(gradients, kind)
    leaves = [t.clone().requires_grad_() for t in dummy]
    true = torch.autograd.grad(formula(*leaves), leaves)
    distance = sf.GradientDistance(kind, backend=backend)
    with STATES[state]():
        made_inside = [t.clone() for t in target]
        for constants in (target, made_inside):
            for _ in range(2):
                assert close(distance(dummy, constants), formula(*dummy))
                value, slopes = distance.distance_and_gradient(leaves, constants)
                assert not value.requires_grad
                assert not slopes[0].requires_grad
                assert close(value, formula(*dummy))
                assert all_close(slopes, true)
            value, slopes = distance.distance_and_gradient([t.clone() for t in dummy], constants)
            assert all_close(slopes, true)
    # What was learnt in there serves outside.
    assert all_close(torch.autograd.grad(distance(leaves, target), leaves, create_graph=True), true)


SHORT = [("no_grad", "cpu", True), ("no leaf", "cpu", None)]
COMPILED = [
    pytest.param(
        state, backend, dynamic, marks=() if (state, backend, dynamic) in SHORT else pytest.mark.long
    )
    for state in ("requires_grad", "no_grad", "no leaf")
    for backend in BACKENDS
    for dynamic in (None, True)
]


@pytest.mark.parametrize(("state", "backend", "dynamic"), COMPILED)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compile(gradients, state, backend, dynamic):
    dummy, target = gradients.pair(0.3, shapes=SMALL[:2], dtype=torch.float64)
    kept = sf.GradientDistance("sapag-mean", backend=backend)

    def function(*tensors):
        scaled = [1.5 * t for t in tensors]
        options = {"bandwidth": 0.5, "layers": (0, 0), "layer_weights": [2.0], "backend": backend}
        return 2 * sf.distance(scaled, target, **options) + kept(scaled, target)

    torch.compiler.reset()  # else all cases count as recompilations of one function, of which few are allowed
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    leaves = [t.clone().requires_grad_(state != "no leaf") for t in dummy]
    with STATES.get(state, torch.enable_grad)():
        value, true = compiled(*leaves), function(*leaves)
    assert close(value, true)
    assert value.requires_grad is (state == "requires_grad")
    if value.requires_grad:
        assert all_close(torch.autograd.grad(value, leaves), torch.autograd.grad(true, leaves))


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_transforms(gradients, backend):
    dummy, target = gradients.pair(0.3, shapes=SMALL[:2], dtype=torch.float64)
    distance = sf.GradientDistance(backend=backend)
    value, slopes = distance.distance_and_gradient(dummy, target)

    def function(*tensors):
        mapped = torch.func.vmap(lambda t: distance([t, tensors[1]], target))(torch.stack([tensors[0]] * 2))
        along = torch.func.jvp(lambda *d: distance(d, target), tensors, tensors)[1]
        written = [torch.empty_like(t) for t in tensors]
        distance.distance_and_gradient(tensors, target, written)
        return torch.func.grad(lambda d: distance(d, target))(list(tensors)), mapped, along, written

    found, mapped, along, written = torch.compile(function, fullgraph=True, backend="aot_eager")(*dummy)
    assert all_close(found, slopes)
    assert all_close(written, slopes)
    assert close(mapped, value.expand(2))
    assert close(along, sum((s * t).sum() for s, t in zip(slopes, dummy, strict=True)))


@pytest.mark.parametrize("mode", [lambda: torch.device("meta"), FakeTensorMode])
@pytest.mark.parametrize("kind", ["sapag-mean", "sapag", "cosine", "own"])
def test_nothing_of_a_mode_without_memory_lives_on(gradients, kind, mode):
    dummy, target, formula = smooth_pair(gradients, kind)
    distance = sf.GradientDistance(kind)
    with mode():
        shape = sf.distance([torch.ones(5, 3)], [torch.ones(5, 3)], kind).shape
        made_inside = sf.GradientDistance("sapag-mean", layer_weights=[1.0, 0.5])
        try:
            distance(dummy, target)  # real ones: a fake mode refuses them
        except AssertionError:
            assert mode is FakeTensorMode
    assert shape == ()
    for _ in range(2):
        assert close(distance(dummy, target), formula(*dummy))
        assert close(sf.distance(dummy, target, kind), formula(*dummy))
    if mode is not FakeTensorMode:
        assert close(made_inside(dummy, target), sf.distance(dummy, target, "sapag-mean"))


def test_meta_tensors(gradients):
    dummy, target = gradients.pair(0.3, shapes=SMALL)
    ghosts = [t.to("meta") for t in dummy]
    distance = sf.GradientDistance()
    assert distance(ghosts, ghosts).is_meta
    assert distance.distance_and_gradient(ghosts, ghosts)[1][0].is_meta
    assert torch.equal(distance(dummy, target), sf.distance(dummy, target))
