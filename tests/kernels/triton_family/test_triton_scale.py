"""V times the gradient that flows into D, in place and on the device."""

import math

import pytest
import torch
from triton_support import DEVICE, OPS, small_limits

from sapag_fast.kernels import operators

SHAPES = [(5,), (), (3, 7), (0, 2), (40, 50), (33,), (1025, 33)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def slopes_of(*lead, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((*lead, *shape), generator=generator).to(DEVICE, dtype) for shape in shapes]


def on_kernels_device(numbers, dtype=torch.float32):
    return torch.tensor(numbers, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.float64])
def test_one_factor(dtype, grad_dtype):
    slopes = slopes_of(dtype=dtype)
    exact = [-0.37 * t.double() for t in slopes]
    assert OPS.scale_(slopes, on_kernels_device(-0.37, grad_dtype), False) is None
    rounding = max(torch.finfo(dtype).eps, torch.finfo(grad_dtype).eps)
    for slope, true in zip(slopes, exact, strict=True):
        # float16 has no numbers between 0 and 6e-8
        assert torch.allclose(slope.double(), true, rtol=rounding, atol=6e-8)


@pytest.mark.parametrize("spread", [False, True])
def test_a_factor_for_each_recovery(spread):
    """One that is 1 leaves its recovery alone; the factors may be one number, expanded."""
    numbers = [2.5] * 4 if spread else [2.5, 1.0, -0.5, math.nan]
    grad = on_kernels_device(2.5).expand(4) if spread else on_kernels_device(numbers)
    slopes, before = slopes_of(4), slopes_of(4)
    OPS.scale_(slopes, grad, True)
    for slope, old in zip(slopes, before, strict=True):
        for r, number in enumerate(numbers):
            assert torch.equal(slope[r].nan_to_num(9.0), (old[r] * number).nan_to_num(9.0))


def test_every_way_through_the_tiles():
    """Bases on and off alignment, lengths around the tile's, many chunks a program and blocks of factors."""
    with small_limits(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "SCALE_PROGRAMS", 3)
        patch.setattr(operators, "FACTOR_BLOCK", 2)
        for offset in (0, 1, 2):
            for size in (1, 15, 16, 17, 31, 32, 33, 100):
                base = slopes_of(shapes=[(5 * size + offset + 1,)])[0]
                slope = base[offset:-1].view(5, size)
                before = base.clone()
                OPS.scale_([slope], on_kernels_device([1.0, 1.0, 1.0, 1.0, 3.0]), True)
                last = offset + 4 * size
                before[last:-1] *= 3  # the last recovery, and nothing before or after it
                assert torch.equal(base, before)


def test_nothing_is_written_where_all_factors_are_1():
    """V stays V, bit for bit, NaN and infinity included."""
    slopes = slopes_of(3)
    slopes[0][1] = math.nan
    slopes[4][2] = math.inf
    before = [t.clone() for t in slopes]
    for grad in (on_kernels_device([1.0] * 3), on_kernels_device(1.0), on_kernels_device(1.0).expand(3)):
        OPS.scale_(slopes, grad, True)
        for slope, old in zip(slopes, before, strict=True):
            assert torch.equal(slope.view(torch.int32), old.view(torch.int32))


def test_layouts():
    """Any order without gaps, as V has it; recoveries lie one after the other."""
    slope = slopes_of(shapes=[(4, 3, 5, 5)])[0].to(memory_format=torch.channels_last)
    before = slope.clone()
    OPS.scale_([slope], on_kernels_device(2.0), False)
    assert torch.equal(slope, 2 * before)
    with pytest.raises(ValueError, match=r"slopes\[1\]: expected contiguous, found stride \[75, 1, 15, 3\]"):
        OPS.scale_([torch.ones(4, device=DEVICE), slope], on_kernels_device(2.0), True)
    with pytest.raises(ValueError, match=r"slopes\[0\]: expected contiguous, found stride \[2\]"):
        OPS.scale_([torch.ones(8, device=DEVICE)[::2]], on_kernels_device(2.0), False)


def test_no_elements():
    OPS.scale_([torch.ones(0, 3, device=DEVICE)], torch.ones(0, device=DEVICE), True)
    OPS.scale_([torch.ones(3, 0, device=DEVICE)], on_kernels_device([2.0] * 3), True)
    OPS.scale_([torch.ones(0, device=DEVICE)], on_kernels_device(2.0), False)


def test_errors_name_their_argument():
    rows = torch.ones(2, 3, device=DEVICE)
    for error, message, slopes, grad, batched in (
        (ValueError, "slopes: expected at least one tensor", [], on_kernels_device(1.0), False),
        (TypeError, r"slopes\[0\]: expected float32", [rows.int()], on_kernels_device(1.0), False),
        (
            TypeError,
            r"slopes\[1\]: expected torch.float32",
            [rows, rows.double()],
            on_kernels_device(1.0),
            True,
        ),
        (ValueError, r"slopes\[1\]: expected 2 rec", [rows, rows[:1]], on_kernels_device(1.0), True),
        (ValueError, r"grad: expected shape \[\] or \[2\], found \[3\]", [rows], torch.ones(3), True),
        (ValueError, r"grad: expected shape \[\], found \[2\]", [rows], torch.ones(2), False),
        (TypeError, "grad: expected float32 or float64, found torch.int64", [rows], torch.tensor(1), True),
    ):
        with pytest.raises(error, match=message):
            OPS.scale_(slopes, grad.to(DEVICE), batched)
