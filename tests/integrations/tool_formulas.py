"""Gradient pairs for the tests of integrations, and the comparison with a tool's formula in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHAPES = [(6, 1, 3, 3), (6,), (8, 6, 3, 3), (8,), (10, 32), (10,)]
TOLERANCE = 1e-5


def gradient_pair(gap: float = 0.5, *, seed: int = 0, count: int = len(SHAPES)) -> tuple[list, list]:
    """A dummy gradient that requires gradients and a target, float32."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (SHAPES * -(-count // len(SHAPES)))[:count]
    target = [torch.randn(shape, generator=generator) / (i % 5 + 1) for i, shape in enumerate(shapes)]
    dummy = [g + gap * g.std() * torch.randn(g.shape, generator=generator) for g in target]
    return [g.requires_grad_() for g in dummy], target


def assert_like_formula(
    value: Tensor,
    formula: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor],
    dummy: Sequence[Tensor | None],
    target: Sequence[Tensor | None],
) -> None:
    """`value` and its derivative in `dummy` are those of the formula in float64, within 1e-5."""

    def exact(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [None if g is None else g.detach().double() for g in gradients]

    wide, there = exact(dummy), exact(target)
    leaves = [g.requires_grad_() for g in wide if g is not None]
    expected = formula(wide, there)
    assert abs(value.item() - expected.item()) <= TOLERANCE * max(abs(expected.item()), 1e-3)
    slopes = torch.autograd.grad(value.sum(), [g for g in dummy if g is not None], allow_unused=True)
    true = torch.autograd.grad(expected.sum(), leaves, allow_unused=True)
    gaps, norms = [], []
    for slope, exactly in zip(slopes, true, strict=True):
        mine = torch.zeros(()) if slope is None else slope
        theirs = torch.zeros(()) if exactly is None else exactly
        gaps.append((mine.double() - theirs).square().sum())
        norms.append(theirs.double().square().sum())
    assert torch.stack(gaps).sum().sqrt() <= TOLERANCE * torch.stack(norms).sum().sqrt()
