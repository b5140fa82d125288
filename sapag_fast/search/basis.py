"""Linear coordinates for the search: inputs x = centre + T v, optimised over v.

The choice of T is a preconditioner. In pixels every frequency costs the optimiser the same; natural images
have a spectrum that falls like 1/frequency and little colour, and in coordinates scaled that way a photograph
is a vector of independent numbers of similar size, which a quasi-Newton method finds much faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.search.box import Box

__all__ = ["BASES", "Basis", "dct_matrix", "make_basis"]


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II, ``[size (frequency), size (position)]``, float64."""
    position = torch.arange(size, dtype=torch.float64) + 0.5
    frequency = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * frequency[:, None] * position) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def _colour_rotation() -> Tensor:
    """Orthonormal rows brightness (1 1 1), red-blue (1 0 -1), green-magenta (1 -2 1), ``[3, 3]``, float64."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
    """`matrix` ``[3, 3]`` applied to the channels of ``[..., 3, height, width]``."""
    return (matrix @ planes.flatten(-2)).view_as(planes)


class Basis:
    """Pixel coordinates, x = v; also the interface of the others.

    All maps take ``[..., *input_shape]`` tensors and keep the shape. Only `forward` and `inverse` know the
    centre; `transpose` pulls a gradient in x back to one in v.
    """

    name = "pixel"

    def __init__(
        self,
        input_shape: Sequence[int],
        bounds: Box | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.input_shape = tuple(input_shape)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Inputs x from coordinates v."""
        return coordinates

    def transpose(self, gradient: Tensor) -> Tensor:
        """dD/dv from dD/dx: Tᵀ applied to `gradient`."""
        return gradient

    def inverse(self, inputs: Tensor) -> Tensor:
        """Coordinates v from inputs x."""
        return inputs


class CosineBasis(Basis):
    """x = centre + T v with T a 2-D DCT times a colour rotation, scaled to the spectrum of photographs.

    Coefficient (i, j) is scaled by 1 / (1 + √(i² + j²)), the whole to root mean square 1, and with three
    channels the two chroma planes by another 0.3. T without its scales is orthonormal. The unit of v is the
    width of the bounds, where that differs between channels each channel's own.

    Raises
    ------
    ValueError
        When `input_shape` is not ``[channels, height, width]``.
    """

    name = "dct"
    chroma = 0.3

    def __init__(
        self,
        input_shape: Sequence[int],
        bounds: Box | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(input_shape, bounds, device, dtype)
        if len(self.input_shape) != 3:
            raise ValueError(
                f"basis: 'dct' needs inputs of shape [channels, height, width], found input_shape "
                f"{self.input_shape}"
            )
        channels, height, width = self.input_shape
        low, high = bounds if bounds is not None else (0.0, 1.0)
        self.centre = (low + high) / 2.0
        radius = torch.hypot(
            torch.arange(height, dtype=torch.float64)[:, None],
            torch.arange(width, dtype=torch.float64)[None, :],
        )
        scale = 1.0 / (1.0 + radius)
        scale = (scale / scale.square().mean().sqrt()).expand(channels, height, width).clone()
        if channels == 3:
            scale[1:] *= self.chroma
        self.widths = high - low if isinstance(high, Tensor) else None
        self.scale = (scale if isinstance(high, Tensor) else scale * (high - low)).to(device, dtype)
        self.rows, self.columns = dct_matrix(height).to(device, dtype), dct_matrix(width).to(device, dtype)
        self.colour = _colour_rotation().to(device, dtype) if channels == 3 else None

    def _synthesise(self, coefficients: Tensor) -> Tensor:
        planes = self.rows.T @ coefficients @ self.columns
        planes = planes if self.colour is None else _mix(self.colour.T, planes)
        return planes if self.widths is None else planes * self.widths

    def _analyse(self, planes: Tensor) -> Tensor:
        if self.colour is not None:
            planes = _mix(self.colour, planes)
        return self.rows @ planes @ self.columns.T

    def forward(self, coordinates: Tensor) -> Tensor:
        return self._synthesise(coordinates * self.scale) + self.centre

    def transpose(self, gradient: Tensor) -> Tensor:
        gradient = gradient if self.widths is None else gradient * self.widths
        return self._analyse(gradient) * self.scale

    def inverse(self, inputs: Tensor) -> Tensor:
        centred = inputs - self.centre
        return self._analyse(centred if self.widths is None else centred / self.widths) / self.scale


BASES: dict[str, Callable[..., Basis]] = {basis.name: basis for basis in (Basis, CosineBasis)}
"""Name to class."""


def make_basis(
    name: str,
    input_shape: Sequence[int],
    *,
    bounds: Box | None = (0.0, 1.0),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Basis:
    """Build the basis called `name` for inputs of `input_shape`.

    Raises
    ------
    ValueError
        For an unknown name, or a shape that the basis cannot take.
    """
    return BASES[check.check_choice("basis", name, BASES)](input_shape, bounds, torch.device(device), dtype)
