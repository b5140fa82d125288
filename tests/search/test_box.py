"""The box of the inputs: what it may be, and that each channel keeps to its own."""

import pytest
import torch

from sapag_fast import SearchOptions
from sapag_fast.search.basis import BASES, make_basis
from sapag_fast.search.box import box_of
from sapag_fast.search.priors import box_prior
from sapag_fast.search.starts import make_start

SHAPE = (3, 6, 4)
LOWS, HIGHS = (-2.0, 0.0, 1.0), (2.0, 1.0, 1.5)
BOX = box_of((LOWS, HIGHS), SHAPE)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((0, 1), (0.0, 1.0)),
        ([-1, 2.5], (-1.0, 2.5)),
        (((0, 0), (1, 2)), ((0.0, 0.0), (1.0, 2.0))),
        ((0, [1, 2, 1]), ((0.0, 0.0, 0.0), (1.0, 2.0, 1.0))),
        ((torch.zeros(2), torch.tensor([0.5, 1.0])), ((0.0, 0.0), (0.5, 1.0))),
        (((0, 0, 0), (1, 1, 1)), (0.0, 1.0)),
        (((0,), (1,)), (0.0, 1.0)),
        (None, None),
    ],
)
def test_what_bounds_may_be(given, kept):
    options = SearchOptions(bounds=given)
    assert options.bounds == kept
    hash(options)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (((0, 0), (1, 0)), ValueError, r"bounds must be finite with low < high, found \(0.0, 0.0\)"),
        (((0, 0), (1, 1, 1)), ValueError, "as many low values as high ones, found 2 and 3"),
        (((0, "a"), 1), TypeError, "bounds must be a number, found str"),
        (((0, float("nan")), 1), ValueError, "bounds must lie in .* found nan"),
        (((), 1), TypeError, "bounds must be a number, or a sequence"),
        ("01", TypeError, "bounds must be a pair of numbers or None"),
    ],
)
def test_what_they_may_not_be(given, error, message):
    with pytest.raises(error, match=message):
        SearchOptions(bounds=given)


def test_starts_lie_in_their_channels_box():
    start = make_start("uniform", (50, *SHAPE), BOX, generator())
    for channel, (low, high) in enumerate(zip(LOWS, HIGHS, strict=True)):
        values = start[:, channel]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    grey = make_start("grey", (1, *SHAPE), BOX, generator())[0].mean((1, 2))
    torch.testing.assert_close(grey, torch.tensor([0.0, 0.5, 1.25], dtype=torch.float64), atol=0.02, rtol=0)


def test_the_penalty_is_each_channels_own():
    inputs = torch.tensor([[[[3.0]], [[0.5]], [[0.0]]]])[None].double()
    value, gradient = box_prior(inputs, *box_of((LOWS, HIGHS), (3, 1, 1)))
    assert value.tolist() == [pytest.approx(2 / 3)]
    assert gradient.flatten().tolist() == pytest.approx([2 / 3, 0.0, -2 / 3])


@pytest.mark.parametrize("name", BASES)
def test_coordinates_within_a_box_by_channel(name):
    basis = make_basis(name, SHAPE, bounds=BOX, dtype=torch.float64)
    v, x = (torch.randn(2, 3, *SHAPE, dtype=torch.float64, generator=generator(seed)) for seed in (1, 2))
    linear = basis.forward(v) - basis.forward(torch.zeros_like(v))
    torch.testing.assert_close((linear * x).sum(), (v * basis.transpose(x)).sum())
    torch.testing.assert_close(basis.inverse(basis.forward(v)), v)


def test_the_same_box_in_every_channel_gives_the_same_coordinates():
    alike = box_of(((-1.0,) * 3, (2.0,) * 3), SHAPE)
    one, each = (make_basis("dct", SHAPE, bounds=b, dtype=torch.float64) for b in ((-1.0, 2.0), alike))
    v = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(one.forward(v), each.forward(v))
