"""Priors against plain formulas and autograd."""

import pytest
import torch

from sapag_fast.search.priors import box_prior, require_image_shape, total_variation


def _box(x):
    return (x - x.clamp(-0.2, 0.8)).square().flatten(1).mean(1)


def _variation(x):
    rows = (x[..., 1:, :] - x[..., :-1, :]).abs().flatten(1).mean(1)
    columns = (x[..., 1:] - x[..., :-1]).abs().flatten(1).mean(1)
    return rows + columns


@pytest.mark.parametrize("shape", [(1, 1, 1, 5, 4), (3, 2, 3, 6, 7), (2, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize(
    ("ours", "formula"), [(lambda x: box_prior(x, -0.2, 0.8), _box), (total_variation, _variation)]
)
def test_prior_and_gradient(shape, ours, formula):
    inputs = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    expected = formula(inputs)
    (slope,) = torch.autograd.grad(expected.sum(), inputs)
    value, gradient = ours(inputs.detach())
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, slope)


def test_box_of_inputs_without_image_shape():
    value, gradient = box_prior(torch.tensor([[[2.0, 0.5]], [[-1.0, 0.0]]]), 0.0, 1.0)
    assert value.tolist() == [0.5, 0.5]
    assert gradient.tolist() == [[[1.0, 0.0]], [[-1.0, 0.0]]]


def test_single_rows_and_flat_images_have_no_variation():
    value, gradient = total_variation(torch.full((2, 1, 1, 1, 1), 3.0))
    assert value.tolist() == [0.0, 0.0]
    assert not gradient.any()
    value, gradient = total_variation(torch.full((2, 1, 3, 4, 4), 3.0))
    assert value.tolist() == [0.0, 0.0]
    assert not gradient.any()


def test_non_finite_inputs_stay_in_their_recovery():
    inputs = torch.rand(2, 1, 1, 4, 4)
    inputs[0, 0, 0, 1, 1] = torch.nan
    for prior in (total_variation, lambda x: box_prior(x, 0.0, 1.0)):
        value, gradient = prior(inputs)
        assert value.isfinite().tolist() == [False, True]
        assert gradient[1].isfinite().all()


@pytest.mark.parametrize("shape", [(10,), (3, 16)])
def test_variation_needs_two_spatial_dimensions(shape):
    with pytest.raises(ValueError, match=r"total variation needs.*two spatial"):
        require_image_shape(shape)
    require_image_shape((3, 4, 4))
