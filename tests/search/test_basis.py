"""Bases: orthonormality, adjoint, inverse, scales."""

import pytest
import torch
from scipy.fft import dctn

from sapag_fast.search.basis import BASES, CosineBasis, _colour_rotation, dct_matrix, make_basis

DOUBLE = {"dtype": torch.float64}


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_dct_is_orthonormal_and_scipys(size):
    matrix = dct_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, **DOUBLE))
    image = _random(size, size)
    torch.testing.assert_close(matrix @ image @ matrix.T, torch.as_tensor(dctn(image.numpy(), norm="ortho")))


def test_colour_rotation_is_orthonormal():
    rotation = _colour_rotation()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, **DOUBLE))
    torch.testing.assert_close(rotation @ torch.ones(3, **DOUBLE), torch.tensor([3**0.5, 0.0, 0.0], **DOUBLE))


@pytest.mark.parametrize("shape", [(1, 5, 8), (3, 6, 4), (4, 3, 3)])
@pytest.mark.parametrize("name", BASES)
def test_forward_transpose_inverse(name, shape):
    basis = make_basis(name, shape, bounds=(-1.0, 2.0), **DOUBLE)
    v, x = _random(2, 3, *shape, seed=1), _random(2, 3, *shape, seed=2)
    linear = basis.forward(v) - basis.forward(torch.zeros_like(v))
    torch.testing.assert_close((linear * x).sum(), (v * basis.transpose(x)).sum())
    torch.testing.assert_close(basis.inverse(basis.forward(v)), v)
    torch.testing.assert_close(basis.forward(basis.inverse(x)), x)


def test_dct_scales():
    basis = make_basis("dct", (3, 8, 8), **DOUBLE)
    assert isinstance(basis, CosineBasis)
    assert basis.scale[0].square().mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(basis.scale[1], 0.3 * basis.scale[0])
    assert (basis.scale[0, 0, 0] / basis.scale[0, 3, 4]).item() == pytest.approx(6.0)
    torch.testing.assert_close(
        basis.forward(torch.zeros(3, 8, 8, **DOUBLE)), torch.full((3, 8, 8), 0.5, **DOUBLE)
    )


def test_pixels_are_themselves():
    basis = make_basis("pixel", (7,))
    x = torch.rand(2, 1, 7)
    assert basis.forward(x) is x
    assert basis.transpose(x) is x


def test_errors():
    with pytest.raises(ValueError, match="basis must be one of pixel, dct, found 'wavelet'"):
        make_basis("wavelet", (1, 4, 4))
    with pytest.raises(ValueError, match=r"\[channels, height, width\].*\(10,\)"):
        make_basis("dct", (10,))
