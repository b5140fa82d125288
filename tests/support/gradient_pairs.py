"""Pairs of dummy and target gradients for the tests."""

import torch
from torch import Tensor

SHAPES = [(12, 1, 5, 5), (12,), (12, 12, 5, 5), (12,), (10, 588), (10,), (7,), (3, 1), (1,), (33, 129), (33,)]


class Gradients:
    """Pairs of dummy and target gradients at a given relative distance."""

    shapes = SHAPES

    @staticmethod
    def pair(
        gap: float = 1.0,
        *,
        seed: int = 0,
        shapes: list[tuple[int, ...]] = SHAPES,
        recoveries: int | None = None,
        shared: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        lead = () if recoveries is None else (recoveries,)
        target_lead = (1,) if shared else lead
        # Layers of very different size and off-centre, as real gradients are.
        scale = [10.0 ** (i % 5 - 2) for i in range(len(shapes))]
        target = [
            s * (torch.randn(*target_lead, *shape, generator=generator) + 0.3)
            for s, shape in zip(scale, shapes, strict=True)
        ]
        dummy = [
            g + gap * s * torch.randn(*lead, *shape, generator=generator)
            for s, g, shape in zip(scale, target, shapes, strict=True)
        ]
        return [t.to(dtype) for t in dummy], [t.to(dtype) for t in target]
