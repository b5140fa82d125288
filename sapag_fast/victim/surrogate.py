"""A smooth stand-in for piecewise-linear activations: matching through softplus that sharpens on the way.

The gradient of a ReLU network jumps wherever a unit's sign changes, and between jumps says nothing of them,
so that a quasi-Newton method finds no way from one pattern of signs to another. The candidate's network, and
it alone, therefore computes softplus(b z) / b in place of relu(z), with b = β / std(z) for each call and each
recovery (of feature maps the deviation within channels): β = 4 is a gentle bend over most of the range of z,
β = 70 a corner. The target stays the real network's gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sapag_fast import checks as check

__all__ = ["SmoothActivations", "Surrogate", "acting"]


_MOST_STAGES = 10_000  # each has a place in every step's work


@dataclass(frozen=True)
class Surrogate:
    """How the stand-in sharpens over a search: stage k of ``stages`` has a constant β, in geometric steps.

    The last β is a compromise: the sharper it is, the nearer the true input comes to the best match, and the
    more evaluations it takes to get there.

    Attributes
    ----------
    beta_first, beta_last : float
        β of the first and the last stage.
    stages : int
        How many; the last one lasts until the search ends.
    until : float
        Fraction of the evaluations after which β stays at ``beta_last``; the stages before have equal shares.

    Raises
    ------
    TypeError, ValueError
        For a β that is not positive and finite, no stages or too many, or an ``until`` outside of [0, 1].
    """

    beta_first: float = 4.0
    beta_last: float = 70.0
    stages: int = 12
    until: float = 0.8

    def __post_init__(self) -> None:
        for name in ("beta_first", "beta_last"):
            check.check_positive(f"surrogate: {name}", getattr(self, name))
        check.check_count("surrogate: stages", self.stages, most=_MOST_STAGES)
        check.check_fraction("surrogate: until", self.until)

    @property
    def betas(self) -> tuple[float, ...]:
        """β of each stage."""
        ratio = self.beta_last / self.beta_first
        last = max(self.stages - 1, 1)
        before = (self.beta_first * ratio ** (stage / last) for stage in range(self.stages - 1))
        return (*before, self.beta_last)

    def borders(self, steps: int) -> tuple[int, ...]:
        """Evaluations, counted from 0, at which the stages after the first begin."""
        before = max(self.stages - 1, 1)
        return tuple(round(self.until * steps * stage / before) for stage in range(1, self.stages))

    def sharpness(self, age: Tensor, steps: int) -> Tensor:
        """β of recoveries that have done `age` (``[R]``, int64) of `steps` evaluations: ``[R]``, float64.

        The device is not waited for: constants alone are filled in.
        """
        beta = torch.full(age.shape, self.betas[0], dtype=torch.float64, device=age.device)
        for border, value in zip(self.borders(steps), self.betas[1:], strict=True):
            beta = torch.where(age >= border, value, beta)
        return beta


class SmoothActivations(TorchFunctionMode):
    """While active, ``relu``, ``leaky_relu``, ``relu6`` and ``hardtanh`` are smooth.

    That holds for modules and functions alike; those that work in place write the smooth values in place. All
    are sums of relu(z - c) and a linear function, and relu alone is replaced. b is held constant in
    differentiation. A call whose z is constant gets b = β.

    Parameters
    ----------
    sharpness : Tensor
        β, one number, ``[]``, where a forward holds one recovery; or ``[R]``, where the first dimension of
        all activations holds R recoveries one after the other.
    """

    def __init__(self, sharpness: Tensor) -> None:
        super().__init__()
        self.beta = sharpness

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        smooth = _SMOOTH.get(func)
        if smooth is None:
            return func(*args, **kwargs)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        return smooth(self, *args, **kwargs)

    def steepness(self, z: Tensor) -> Tensor:
        """b, to be broadcast against `z`."""
        z, beta = z.detach(), self.beta.to(z.dtype)
        recoveries = beta.numel()
        if beta.dim() == 0:
            rows = z[None]
        elif z.dim() == 0 or z.shape[0] % recoveries:
            raise ValueError(
                f"surrogate: an activation of shape {list(z.shape)} does not hold {recoveries} recoveries "
                "in its first dimension"
            )
        else:
            rows = z.unflatten(0, (recoveries, -1))
        if z.dim() >= 4:
            # A channel's mean bends nothing; where it is large, as behind pictures that are not centred, a
            # deviation that counted it in would make the corner too blunt.
            rows = rows - rows.mean((1, *range(3, rows.dim())), keepdim=True)
        std = rows.std(tuple(range(1, rows.dim())), correction=0)
        # Not std > 0: what is not finite stays so.
        b = beta / torch.where(std == 0, 1.0, std)
        if beta.dim() == 0:
            return b.reshape(())
        return b.repeat_interleave(rows.shape[1], output_size=z.shape[0]).view(-1, *[1] * (z.dim() - 1))

    def relu(self, z: Tensor, inplace: bool = False) -> Tensor:
        """Smooth ``relu``."""
        return _placed(z, _bent(z, self.steepness(z)), inplace)

    def relu_(self, z: Tensor) -> Tensor:
        """Smooth ``relu_``."""
        return self.relu(z, True)

    def leaky_relu(self, z: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        """Smooth ``leaky_relu``."""
        bent = _bent(z, self.steepness(z))
        return _placed(z, negative_slope * z + (1.0 - negative_slope) * bent, inplace)

    def leaky_relu_(self, z: Tensor, negative_slope: float = 0.01) -> Tensor:
        """Smooth ``leaky_relu_``."""
        return self.leaky_relu(z, negative_slope, True)

    def hardtanh(
        self, z: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
    ) -> Tensor:
        """Smooth ``hardtanh``."""
        b = self.steepness(z)
        return _placed(z, min_val + _bent(z - min_val, b) - _bent(z - max_val, b), inplace)

    def hardtanh_(self, z: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
        """Smooth ``hardtanh_``."""
        return self.hardtanh(z, min_val, max_val, True)

    def relu6(self, z: Tensor, inplace: bool = False) -> Tensor:
        """Smooth ``relu6``."""
        return self.hardtanh(z, 0.0, 6.0, inplace)


def _bent(z: Tensor, b: Tensor) -> Tensor:
    return F.softplus(z * b) / b


def acting(sharpness: Tensor | None) -> contextlib.AbstractContextManager:
    """`SmoothActivations` of this sharpness, or the real ones for None."""
    return contextlib.nullcontext() if sharpness is None else SmoothActivations(sharpness)


def _placed(z: Tensor, value: Tensor, inplace: bool) -> Tensor:
    return z.copy_(value) if inplace else value


_SMOOTH: dict[Callable, Callable[..., Tensor]] = {
    torch.relu: SmoothActivations.relu,
    torch.relu_: SmoothActivations.relu_,
    Tensor.relu: SmoothActivations.relu,
    Tensor.relu_: SmoothActivations.relu_,
    F.relu: SmoothActivations.relu,
    F.relu_: SmoothActivations.relu_,
    F.leaky_relu: SmoothActivations.leaky_relu,
    F.leaky_relu_: SmoothActivations.leaky_relu_,
    F.hardtanh: SmoothActivations.hardtanh,
    F.hardtanh_: SmoothActivations.hardtanh_,
    F.relu6: SmoothActivations.relu6,
}
