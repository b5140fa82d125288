"""Every distance against the float64 formulas, on every path that computes it."""

import math

import pytest
import torch
from built_in_kinds import NATIVE
from gradient_pairs import Gradients
from hypothesis import given, settings
from hypothesis import strategies as st

import sapag_fast as sf
from sapag_fast.distances import kind as distances
from sapag_fast.distances.sums import GradientSums


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """‖found - exact‖ / ‖exact‖, 0 where both vanish."""
    size = exact.double().norm().item()
    gap = (found.double() - exact.double()).norm().item()
    return gap if size == 0 else gap / size


def exact_and_found(dummy, target, kind, **options):
    doubles = (
        [None if t is None else t.double() for t in dummy],
        [None if t is None else t.double() for t in target],
    )
    exact = sf.distance_and_gradient(*doubles, kind, backend="reference", **options)
    return exact, sf.distance_and_gradient(dummy, target, kind, backend="cpu", **options)


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("kind", NATIVE)
def test_float32_keeps_five_digits_towards_the_target(gradients, kind, gap):
    dummy, target = gradients.pair(gap)
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind)
    assert error(value, exact) <= 1e-5
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 1e-5


@pytest.mark.parametrize("ratio", [1e-1, 1e-3, 1e-5, 1e3])
@pytest.mark.parametrize("kind", NATIVE)
def test_dummy_gradients_of_another_size(gradients, kind, ratio):
    """Saturated units make early dummy gradients far smaller than the target: digits must survive there."""
    dummy, target = gradients.pair(0.7, seed=3)
    dummy = [ratio * t for t in dummy]
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind)
    assert error(value, exact) <= 1e-5
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 1e-5 or true.abs().max() < 1e-37  # below float32's range


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("kind", ["sapag", "sapag-global", "cosine", "layer-cosine"])
def test_multiples_of_the_target(gradients, kind, factor):
    """1 - cos of nearly parallel gradients of unequal length: the cancellation that float32 sums lose."""
    dummy, target = gradients.pair(1e-3, seed=4)
    dummy = [factor * t for t in dummy]
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind)
    assert error(value, exact) <= 1e-5
    # V is a difference of two terms 1/√P times its size: float32 keeps eps/√P of it.
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 5e-4 or slope.numel() == 1


def eager_error(dummy, target, kind, exact, slopes):
    """The plain float32 formula's own errors: the yardstick of the error idiom."""

    def flat(tensors):
        return torch.cat([t.flatten() for t in tensors])

    leaves = [t.clone().requires_grad_() for t in dummy]
    a, g = flat(leaves), flat(target)
    cosine = 1 - torch.dot(a, g) / (a.norm() * g.norm())
    value = cosine if kind == "cosine" else (a - g).square().sum()
    found = torch.autograd.grad(value, leaves)
    return error(value.detach(), exact), [error(f, t) for f, t in zip(found, slopes, strict=True)]


@pytest.mark.parametrize("kind", ["l2", "cosine"])
@pytest.mark.parametrize("gap", [1.0, 1e-3])
def test_at_most_twice_the_eager_error(gradients, kind, gap):
    dummy, target = gradients.pair(gap, seed=5)
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind)
    floor = 4 * torch.finfo(torch.float32).eps
    eager_value, eager_slopes = eager_error(dummy, target, kind, exact, slopes)
    assert error(value, exact) <= 2 * eager_value + floor
    for slope, true, eager in zip(found, slopes, eager_slopes, strict=True):
        assert error(slope, true) <= 2 * eager + floor


shape = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    shapes=st.lists(shape, min_size=1, max_size=6),
    recoveries=st.sampled_from([None, 1, 2, 5, 64]),
    shared=st.booleans(),
    kind=st.sampled_from(NATIVE),
    gap=st.sampled_from([1.0, 1e-3]),
    seed=st.integers(0, 1000),
)
def test_random_shapes(shapes, recoveries, shared, kind, gap, seed):
    batched = recoveries is not None
    dummy, target = Gradients.pair(
        gap, seed=seed, shapes=shapes, recoveries=recoveries, shared=shared and batched
    )
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind, batched=batched)
    assert value.shape == ((recoveries,) if batched else ())
    assert torch.allclose(value.double(), exact, rtol=1e-5, atol=1e-12)
    scale = math.sqrt(sum(s.square().sum().item() for s in slopes))
    # V of a normalised distance vanishes where g' is a multiple of g (always, for one element): what is left
    # is the rounding of terms of the size 1/‖g'‖.
    unit = kind in ("sapag", "sapag-global", "cosine", "layer-cosine")
    floor = 40 * torch.finfo(torch.float32).eps / min(t.norm().item() for t in dummy) if unit else 0.0
    for slope, true in zip(found, slopes, strict=True):
        assert slope.shape == true.shape
        assert (slope.double() - true).norm().item() <= 1e-5 * scale + floor


@pytest.mark.parametrize("kind", NATIVE)
def test_recoveries_are_independent(gradients, kind):
    dummy, target = gradients.pair(0.5, recoveries=7)
    value, slopes = sf.distance_and_gradient(dummy, target, kind, batched=True)
    for r in range(7):
        alone, alone_slopes = sf.distance_and_gradient([t[r] for t in dummy], [t[r] for t in target], kind)
        assert torch.equal(value[r], alone)
        assert all(torch.equal(s[r], a) for s, a in zip(slopes, alone_slopes, strict=True))


@pytest.mark.parametrize("kind", NATIVE)
def test_degenerate_layers_carry_no_weight(kind):
    generator = torch.Generator().manual_seed(1)
    target = [
        torch.randn(8, 4, generator=generator),
        torch.zeros(5),
        torch.full((6,), 0.5),
        torch.randn(1, generator=generator),
        torch.randn(0, 3),
    ]
    target += [1e-9 * torch.randn(11, generator=generator)]
    dummy = [t + 0.1 * torch.randn(t.shape, generator=generator) for t in target]
    options = {} if distances.find_kind(kind).merged else {"layers": range(6)}
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind, **options)
    assert math.isfinite(value)
    assert error(value, exact) <= 1e-5
    mask = sf.GradientDistance(kind, **options).degenerate(target)
    for i, (slope, true) in enumerate(zip(found, slopes, strict=True)):
        assert error(slope, true) <= 1e-5
        if len(mask) == 6 and mask[i]:
            assert not slope.any()
    if kind == "sapag":
        assert mask.tolist() == [False, True, True, True, True, True]
    if kind == "layer-cosine":
        assert mask.tolist() == [False, True, False, False, True, True]
    if kind == "l2":
        assert not mask.any()


@pytest.mark.parametrize("kind", NATIVE)
def test_zero_dummy_layer(gradients, kind):
    dummy, target = gradients.pair(0.5, shapes=[(40, 3), (17,)])
    dummy[0].zero_()
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind, merge_bias=False)
    assert error(value, exact) <= 1e-5
    assert all(error(s, t) <= 1e-5 for s, t in zip(found, slopes, strict=True))


@pytest.mark.parametrize("kind", NATIVE)
def test_identical_gradients_have_distance_zero(gradients, kind):
    _, target = gradients.pair()
    value, slopes = sf.distance_and_gradient([t.clone() for t in target], target, kind)
    assert value.item() == 0
    assert all(not slope.any() for slope in slopes)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["dummy", "target"])
@pytest.mark.parametrize("kind", NATIVE)
def test_non_finite_input_spoils_its_own_recovery_only(gradients, kind, where, bad):
    dummy, target = gradients.pair(0.5, recoveries=4)
    clean, _ = sf.distance_and_gradient(dummy, target, kind, batched=True)
    (dummy if where == "dummy" else target)[2][1].view(-1)[5] = bad
    value, _ = sf.distance_and_gradient(dummy, target, kind, batched=True)
    assert not math.isfinite(value[1])
    keep = [0, 2, 3]
    assert torch.equal(value[keep], clean[keep])


def test_non_finite_dummy_shows_in_a_degenerate_layer():
    target = [torch.randn(6, 4), torch.zeros(3)]
    dummy = [t + 1 for t in target]
    dummy[1][0] = math.nan
    assert math.isnan(sf.distance(dummy, target, merge_bias=False))


@pytest.mark.parametrize("kind", NATIVE)
def test_options(gradients, kind):
    dummy, target = gradients.pair(0.3)
    given = {
        "bandwidth": 0.4,
        "variance": torch.linspace(0.5, 2, 7),
        "l1_weight": 0.3,
        "layer_weights": torch.linspace(2, 0.5, 7),
    }
    options = {name: given[name] for name in distances.find_kind(kind).takes}
    (exact, slopes), (value, found) = exact_and_found(dummy, target, kind, **options)
    assert error(value, exact) <= 1e-5
    assert all(error(s, t) <= 1e-5 for s, t in zip(found, slopes, strict=True))


def test_options_by_recovery(gradients):
    dummy, target = gradients.pair(0.3, recoveries=3)
    generator = torch.Generator().manual_seed(0)
    options = {
        "batched": True,
        "layer_weights": torch.rand(3, 7, generator=generator),
        "variance": torch.rand(3, 7, generator=generator) + 0.1,
    }
    (exact, _), (value, _) = exact_and_found(dummy, target, "sapag", **options)
    assert torch.allclose(value.double(), exact, rtol=1e-5)


def test_own_distance_equals_the_built_in_one(gradients):
    def relative(sums: GradientSums) -> torch.Tensor:
        return (sums.square / sums.target_square).sum(-1)

    name = "test-relative"
    if name not in distances.kinds():
        sf.register_distance(name, relative)
    dummy, target = gradients.pair(0.3, recoveries=5)
    value, slopes = sf.distance_and_gradient(dummy, target, name, batched=True)
    weights = torch.stack(
        [1 / torch.cat([w.flatten(1), b], 1).square().sum(1) for w, b in _layers(target)], -1
    )
    other, other_slopes = sf.distance_and_gradient(dummy, target, "l2", batched=True, layer_weights=weights)
    assert torch.allclose(value, other, rtol=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(slopes, other_slopes, strict=True))
    leaves = [t.clone().requires_grad_() for t in dummy]
    auto = torch.autograd.grad(sf.distance(leaves, target, name, batched=True).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(auto, slopes, strict=True))


def _layers(target):
    empty = target[0].new_zeros(target[0].shape[0], 0)
    return [
        (target[0], target[1]), (target[2], target[3]), (target[4], target[5]), (target[6], empty),
        (target[7], empty), (target[8], empty), (target[9], target[10]),
    ]  # fmt: skip


@pytest.mark.parametrize("uses", ["sum", "absolute", "dummy_square", "inner"])
def test_every_sum_has_its_derivative(gradients, uses):
    """A registered distance may use any sum: V must be its true gradient."""
    name = f"test-{uses}"
    if name not in distances.kinds():
        sf.register_distance(name, lambda sums: getattr(sums, uses).sin().sum(-1))
    dummy, target = gradients.pair(0.3, dtype=torch.float64, shapes=[(5, 3), (5,), (4,)])
    value, slopes = sf.distance_and_gradient(dummy, target, name)
    leaves = [t.clone().requires_grad_() for t in dummy]
    eager = sf.distance(leaves, target, name, backend="reference")
    assert torch.allclose(value, eager)
    for slope, true in zip(slopes, torch.autograd.grad(eager, leaves), strict=True):
        assert torch.allclose(slope, true, atol=1e-12)


def test_literal_sum_form_saturates(gradients):
    """The published sum over elements inside the exponent leaves no gradient: kept to show it."""
    dummy, target = gradients.pair(1.0, shapes=[(100, 100)])
    value, (slope,) = sf.distance_and_gradient(dummy, target, "sapag-sum")
    assert value.item() == 1
    assert slope.abs().max() < 1e-30


def test_default_layer_weights_fall_with_depth(gradients):
    dummy, target = gradients.pair(0.3)
    plain = sf.distance(dummy, target, "sapag-mean")
    weights = [1 / (i + 1) for i in range(7)]
    assert torch.equal(plain, sf.distance(dummy, target, "sapag-mean", layer_weights=weights))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("gap", [1.0, 0.05])
def test_the_published_formula_of_sapag_mean(gradients, gap, backend):
    """SAPAG's published re-implementation: each tensor alone, torch's unbiased variance, Q_i = 1/(i + 1)."""
    dummy, target = gradients.pair(gap, dtype=torch.float64)
    pairs = [(a, g) for a, g in zip(dummy, target, strict=True) if g.numel() > 1]
    leaves, target = [a.clone().requires_grad_() for a, _ in pairs], [g for _, g in pairs]
    published = sum(
        1 / (i + 1) * (1 - torch.exp(-(a - g).square().mean() / (2 * g.var())))
        for i, (a, g) in enumerate(zip(leaves, target, strict=True))
    )
    options = {"merge_bias": False, "variance": [g.var() for g in target], "backend": backend}
    distance = sf.GradientDistance("sapag-mean", **options)
    value, slopes = distance.distance_and_gradient([a.detach() for a in leaves], target)
    assert value.item() == pytest.approx(published.item(), rel=1e-12)
    for slope, true in zip(slopes, torch.autograd.grad(published, leaves), strict=True):
        assert error(slope, true) <= 1e-12
    biased = sf.distance([a.detach() for a in leaves], target, "sapag-mean", merge_bias=False)
    assert biased.item() != pytest.approx(published.item(), rel=1e-4)


def test_variance(gradients):
    _, target = gradients.pair(recoveries=3)
    found = sf.gradient_variance(target, batched=True, merge_bias=False)
    for i, t in enumerate(target):
        assert torch.allclose(found[:, i], t.double().flatten(1).var(1, unbiased=False).float(), rtol=1e-6)
    alone = sf.gradient_variance([t[0] for t in target])
    joined = torch.cat([target[0][0].flatten(), target[1][0]]).double().var(unbiased=False)
    assert alone[0].item() == pytest.approx(joined.item(), rel=1e-6)


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_variance_of_an_offset_layer(offset):
    """Σ g² - (Σ g)²/n would return noise here."""
    target = torch.randn(20000, generator=torch.Generator().manual_seed(0)) + offset
    assert sf.gradient_variance([target]).item() == pytest.approx(
        target.double().var(unbiased=False).item(), rel=1e-5
    )


def test_own_distance_with_layer_weights(gradients):
    name = "test-weighted"
    if name not in distances.kinds():
        sf.register_distance(name, lambda sums, weights: (weights * sums.square).sum(-1), weighted=True)
    dummy, target = gradients.pair(0.3)
    weights = [1.0 + i for i in range(7)]
    for rows in (None, weights):
        value, slopes = sf.distance_and_gradient(dummy, target, name, layer_weights=rows)
        other, other_slopes = sf.distance_and_gradient(dummy, target, "l2", layer_weights=rows)
        assert value.item() == pytest.approx(other.item(), rel=1e-6)
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(slopes, other_slopes, strict=True))


def test_registering_twice_or_nonsense():
    with pytest.raises(ValueError, match="exists already"):
        sf.register_distance("sapag", lambda sums: sums.square.sum(-1))
    with pytest.raises(TypeError, match="must be callable"):
        sf.register_distance("test-nonsense", 3)
    if "test-shape" not in distances.kinds():
        sf.register_distance("test-shape", lambda sums: sums.square)
    with pytest.raises(ValueError, match="must return shape"):
        sf.distance([torch.ones(3)], [torch.zeros(3)], "test-shape")
