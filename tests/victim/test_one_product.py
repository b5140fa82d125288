"""One input's last gradient is a product of two vectors; that of several of one label is none."""

import math

import pytest
import torch

from sapag_fast.victim.one_product import ONE, departure


def product(rows=10, columns=300, dtype=torch.float32):
    chance = torch.Generator().manual_seed(0)
    flow = torch.randn(rows, generator=chance, dtype=torch.float64)
    fed = 0.5 + 0.01 * torch.randn(columns, generator=chance, dtype=torch.float64)
    return torch.outer(flow.to(dtype), fed.to(dtype)), flow, fed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(10, 300), (3, 2), (3, 5000), (200, 7)])
def test_a_product_is_one_to_the_last_digit(dtype, shape):
    gradient, _, _ = product(*shape, dtype=dtype)
    assert departure(gradient) <= ONE
    assert departure(0.37 * gradient) <= ONE
    assert departure(gradient / 3) <= ONE


def test_the_sum_of_two_that_hardly_differ_is_none():
    _, flow, fed = product()
    chance = torch.Generator().manual_seed(1)
    other_flow = flow * (1 + 1e-3 * torch.randn(10, generator=chance, dtype=torch.float64))
    other_fed = fed * (1 + 1e-3 * torch.randn(300, generator=chance, dtype=torch.float64))
    both = [torch.outer(f.float(), x.float()) for f, x in ((flow, fed), (other_flow, other_fed))]
    assert departure((both[0] + both[1]) / 2) > ONE


def test_other_rounding_is_told_from_a_product():
    gradient, _, _ = product()
    before = torch.randn(10, 300, generator=torch.Generator().manual_seed(2))
    assert departure(before - (before - gradient)) > ONE
    assert departure(gradient.bfloat16().float()) > ONE
    assert departure(gradient + 1e-4 * gradient.abs().mean() * torch.randn_like(gradient)) > ONE


def test_a_sign_of_another_product_departs():
    gradient, _, _ = product()
    gradient[3, 5] *= -1
    assert departure(gradient) > ONE


def test_zeros_and_numbers_that_lost_their_digits_tell_nothing():
    gradient, _, _ = product()
    sparse = gradient.clone()
    sparse[:, ::3] = 0.0
    sparse[4] = 0.0
    sparse[5] *= 1e-41
    assert departure(sparse) <= ONE
    # Of two classes one row is the other's negative, whatever they sum over.
    for nothing in (gradient[:2], torch.zeros(4, 4), gradient[:1], gradient[:, :1], gradient[:0]):
        assert math.isnan(departure(nothing))
    gradient[0, 0] = torch.nan
    assert not departure(gradient) <= ONE
