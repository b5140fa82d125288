"""Every distance by the Triton kernels against the float64 formulas, at the kernels' real sizes."""

import math

import pytest
import torch
from built_in_kinds import NATIVE
from triton_support import DEVICE, OPS, error, on_device, reference, settings_of, triton_distance

from sapag_fast.distances.kind import find_kind

SHAPES = [(12, 1, 5, 5), (12,), (40, 51), (7,), (1,), (33, 129), (33,), (97, 170), (64,)]


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("name", NATIVE)
def test_five_digits_towards_the_target(gradients, name, gap):
    dummy, target = on_device(*gradients.pair(gap, shapes=SHAPES))
    exact, slopes = reference(dummy, target, name)
    value, found = triton_distance(dummy, target, name)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert error(value, exact) <= 1e-5
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 1e-5 or true.abs().max() < 1e-37  # below float32's range


@pytest.mark.parametrize("ratio", [1e-1, 1e-5, 1e3])
@pytest.mark.parametrize("name", NATIVE)
def test_dummy_gradients_of_another_size(gradients, name, ratio):
    dummy, target = gradients.pair(0.7, seed=3, shapes=SHAPES[:5])
    dummy, target = on_device([ratio * t for t in dummy], target)
    exact, slopes = reference(dummy, target, name)
    value, found = triton_distance(dummy, target, name)
    assert error(value, exact) <= 1e-5
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 1e-5 or true.abs().max() < 1e-37  # below float32's range


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("name", ["sapag", "sapag-global", "cosine", "layer-cosine"])
def test_multiples_of_the_target(gradients, name, factor):
    """1 - cos of nearly parallel gradients of unequal length."""
    dummy, target = gradients.pair(1e-3, seed=4)
    dummy, target = on_device([factor * t for t in dummy], target)
    exact, slopes = reference(dummy, target, name)
    value, found = triton_distance(dummy, target, name)
    assert error(value, exact) <= 1e-5
    # V is a difference of two terms 1/√P times its size: float32 keeps eps/√P of it.
    for slope, true in zip(found, slopes, strict=True):
        assert error(slope, true) <= 5e-4 or slope.numel() == 1


@pytest.mark.parametrize(("name", "gap"), [("l2", 1.0), ("l2", 1e-3), ("cosine", 1.0), ("cosine", 1e-3)])
def test_at_most_twice_the_eager_error(gradients, name, gap):
    dummy, target = on_device(*gradients.pair(gap, seed=5))
    exact, slopes = reference(dummy, target, name)
    value, found = triton_distance(dummy, target, name)
    leaves = [t.clone().requires_grad_() for t in dummy]
    a, g = (torch.cat([t.flatten() for t in tensors]) for tensors in (leaves, target))
    plain = 1 - torch.dot(a, g) / (a.norm() * g.norm()) if name == "cosine" else (a - g).square().sum()
    floor = 4 * torch.finfo(torch.float32).eps
    assert error(value, exact) <= 2 * error(plain.detach(), exact) + floor
    for slope, true, eager in zip(found, slopes, torch.autograd.grad(plain, leaves), strict=True):
        assert error(slope, true) <= 2 * error(eager, true) + floor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NATIVE)
def test_other_dtypes(gradients, name, dtype):
    dummy, target = on_device(*gradients.pair(0.3, dtype=dtype, shapes=[(30, 41), (30,), (9,)]))
    exact, slopes = reference(dummy, target, name)
    value, found = triton_distance(dummy, target, name)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert error(value, exact) <= (1e-13 if dtype == torch.float64 else 1e-6)
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-12)
    # float16 has no numbers between 0 and 6e-8
    atol = 6e-8 if dtype == torch.float16 else 0.0
    for slope, true in zip(found, slopes, strict=True):
        assert slope.dtype == dtype
        assert (slope.double() - true).norm() <= tolerance * true.norm() + atol * true.numel()


@pytest.mark.parametrize("name", ["sapag", "tag", "l1"])
def test_options(gradients, name):
    dummy, target = gradients.pair(0.3, recoveries=3, shapes=[(6, 5), (6,), (80, 120)])
    dummy, target = on_device(dummy, target)
    generator = torch.Generator().manual_seed(0)
    for lead in ((), (3,), (1,)):
        drawn = {
            "layer_weights": torch.rand(*lead, 2, generator=generator) + 0.5,
            "variance": torch.rand(*lead, 2, generator=generator) + 0.1,
            "bandwidth": 0.4,
            "l1_weight": 0.3,
        }
        options = {option: value for option, value in drawn.items() if option in find_kind(name).takes}
        options["batched"] = True
        exact, slopes = reference(dummy, target, name, **options)
        value, found = triton_distance(dummy, target, name, **options)
        assert torch.allclose(value.double(), exact, rtol=1e-6)
        assert all(error(s, t) <= 1e-5 for s, t in zip(found, slopes, strict=True))


@pytest.mark.parametrize("name", NATIVE)
def test_degenerate_layers_carry_no_weight(name):
    generator = torch.Generator().manual_seed(1)
    target = [torch.randn(8, 4, generator=generator), torch.zeros(5), torch.full((6,), 0.5)]
    target += [torch.randn(1, generator=generator), torch.randn(0, 3)]
    target += [1e-9 * torch.randn(11, generator=generator)]
    dummy = [t + 0.1 * torch.randn(t.shape, generator=generator) for t in target]
    dummy, target = on_device(dummy, target)
    exact, slopes = reference(dummy, target, name, layers=range(6))
    value, found = triton_distance(dummy, target, name, layers=range(6))
    assert math.isfinite(value)
    assert error(value, exact) <= 1e-5
    assert all(error(s, t) <= 1e-5 for s, t in zip(found, slopes, strict=True))


@pytest.mark.parametrize("name", NATIVE)
def test_zero_and_identical_dummies(gradients, name):
    dummy, target = gradients.pair(0.5, shapes=[(40, 3), (17,)])
    dummy[0].zero_()
    dummy, target = on_device(dummy, target)
    exact, slopes = reference(dummy, target, name, merge_bias=False)
    value, found = triton_distance(dummy, target, name, merge_bias=False)
    assert error(value, exact) <= 1e-5
    assert all(error(s, t) <= 1e-5 for s, t in zip(found, slopes, strict=True))
    value, found = triton_distance([t.clone() for t in target], target, name)
    assert value == 0
    assert not any(slope.any() for slope in found)


@pytest.mark.parametrize(("where", "bad"), [("dummy", math.nan), ("dummy", -math.inf), ("target", math.inf)])
@pytest.mark.parametrize("name", NATIVE)
def test_non_finite_input_spoils_its_own_recovery_only(gradients, name, where, bad):
    dummy, target = gradients.pair(0.5, recoveries=3, shapes=[(6, 5), (13,)])
    dummy, target = on_device(dummy, target)
    clean, clean_slopes = triton_distance(dummy, target, name, batched=True)
    spoiled = [t.clone() for t in (dummy if where == "dummy" else target)]
    spoiled[1][1, 5] = bad
    pair = (spoiled, target) if where == "dummy" else (dummy, spoiled)
    value, slopes = triton_distance(*pair, name, batched=True)
    assert not math.isfinite(value[1])
    assert torch.equal(value[[0, 2]], clean[[0, 2]])
    for slope, other in zip(slopes, clean_slopes, strict=True):
        assert torch.equal(slope[[0, 2]], other[[0, 2]])


def test_non_finite_dummy_shows_in_a_degenerate_layer():
    target = [torch.ones(6, 4, device=DEVICE).cumsum(0), torch.zeros(3, device=DEVICE)]
    dummy = [t + 1 for t in target]
    dummy[1][0] = math.nan
    assert math.isnan(triton_distance(dummy, target, "sapag", merge_bias=False)[0])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["sapag", "sapag-global", "tag"])
def test_bits_of_a_recovery_do_not_depend_on_the_others(gradients, name, shared):
    dummy, target = gradients.pair(0.5, recoveries=3, shared=shared, shapes=[(5, 7), (5,), (131, 97)])
    dummy, target = on_device(dummy, target)
    found, _ = settings_of(name, target, batched=True)
    sums = OPS.target_sums(target, found.layer_of, found.layers, True)
    value, slopes = triton_distance(dummy, target, name, sums, batched=True)
    for r in range(3):
        place = 0 if shared else r
        mine, theirs = [t[r] for t in dummy], [t[place].clone() for t in target]
        alone, alone_slopes = triton_distance(mine, theirs, name, sums[place : place + 1].clone())
        assert torch.equal(value[r], alone)
        assert all(torch.equal(s[r], a) for s, a in zip(slopes, alone_slopes, strict=True))
        again = OPS.target_sums(theirs, found.layer_of, found.layers, False)
        assert torch.equal(again[0], sums[place])


@pytest.mark.parametrize("name", ["sapag", "tag"])
def test_same_bits_every_time(gradients, name):
    dummy, target = on_device(*gradients.pair(0.5, shapes=[(5, 7), (5,), (131, 197), (30, 30)]))
    first, slopes = triton_distance(dummy, target, name)
    for _ in range(2):
        value, again = triton_distance(dummy, target, name)
        assert torch.equal(value, first)
        assert all(torch.equal(a, b) for a, b in zip(slopes, again, strict=True))


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_variance_of_an_offset_layer(offset):
    """Σ g² - (Σ g)²/n would return noise here."""
    target = (torch.randn(40001, generator=torch.Generator().manual_seed(0)) + offset).to(DEVICE)
    (row,) = OPS.target_sums([target], [0], 1, False)[0]
    exact = target.double()
    assert row[0].item() == pytest.approx(exact.sum().item(), rel=1e-12)
    assert row[1].item() == pytest.approx(exact.square().sum().item(), rel=1e-12)
    assert row[2].item() == pytest.approx(exact.numel() * exact.var(unbiased=False).item(), rel=1e-9)


def test_target_sums_of_a_first_call_are_those_of_the_operator(gradients):
    """In the sweep that reads both, for fused and for chunked layers, and ahead of it for a shared target."""
    for shared in (False, True):
        dummy, target = gradients.pair(
            0.5, recoveries=2, shared=shared, shapes=[(5, 7), (5,), (131, 97), (9,)]
        )
        dummy, target = on_device(dummy, target)
        found, numbers = settings_of("sapag", target, batched=True)
        table = (found.layer_of, found.layers, True)
        sums = OPS.target_sums(target, *table)
        value, met = OPS.distance(dummy, target, *table, *numbers, None)
        assert torch.allclose(met, sums, rtol=1e-14)
        cached, empty = OPS.distance(dummy, target, *table, *numbers, sums)
        assert empty.shape == (0, found.layers, 3)
        assert torch.allclose(cached, value, rtol=1e-6)
