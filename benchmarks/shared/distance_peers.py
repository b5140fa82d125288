"""What a user would write without sapag_fast: the ``sapag`` distance and its gradient, as fast as plain
PyTorch allows while staying the same distance. Everything that depends on the target alone (norms, variances,
normalised target) is computed beforehand, for all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sapag_fast.distances.layering import layering, shapes_of

Peer = Callable[[], object]


class Eager:
    """The loop over layers of the published attacks, differentiated by autograd; weight and bias share a
    layer. Works on batched gradients too, with the recoveries in front."""

    def __init__(self, target: Sequence[Tensor], batched: bool) -> None:
        found = layering(shapes_of(target, batched), True, None)
        self.batched = batched
        self.members = [
            [i for i, layer in enumerate(found.layer_of) if layer == number] for number in range(found.layers)
        ]
        self.units, self.sizes, self.widths = [], [], []
        for members in self.members:
            parts = [target[i] for i in members]
            norm = self.total([p.square() for p in parts]).sqrt()
            units = [p / self.spread(norm, p) for p in parts]
            size = sum(p[0].numel() if batched else p.numel() for p in parts)
            mean = self.total(units) / size
            variance = self.total([(u - self.spread(mean, u)).square() for u in units]) / size
            self.units.append(units)
            self.sizes.append(size)
            self.widths.append(2 * variance)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        return sum(p.flatten(1).sum(1) if self.batched else p.sum() for p in parts)

    def spread(self, scalar: Tensor, like: Tensor) -> Tensor:
        return scalar.view(-1, *[1] * (like.dim() - 1)) if self.batched else scalar

    def distance(self, dummy: Sequence[Tensor]) -> Tensor:
        result = 0
        layers = zip(self.members, self.units, self.sizes, self.widths, strict=True)
        for members, units, size, width in layers:
            parts = [dummy[i] for i in members]
            norm = self.total([p.square() for p in parts]).sqrt()
            gap = self.total(
                [(p / self.spread(norm, p) - u).square() for p, u in zip(parts, units, strict=True)]
            )
            result = result - torch.expm1(-gap / size / width)
        return result

    def distance_and_gradient(self, dummy: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = self.distance(dummy)
        return value, torch.autograd.grad(value.sum(), dummy)


class Foreach:
    """The same by hand with ``torch._foreach_*``: V written out, no autograd, all layers in a few calls. The
    best that list-wise operations give; one recovery at a time."""

    def __init__(self, target: Sequence[Tensor]) -> None:
        eager = Eager(target, False)
        self.members, self.target = eager.members, list(target)
        squares = [norm.square() for norm in torch._foreach_norm(self.target)]
        self.norms = [sum(squares[i] for i in members).sqrt() for members in self.members]
        self.widths = [size * width for size, width in zip(eager.sizes, eager.widths, strict=True)]

    def distance_and_gradient(self, dummy: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        difference = torch._foreach_sub(dummy, self.target)
        squares = torch.stack(torch._foreach_norm(difference)).square().tolist()
        sizes = torch.stack(torch._foreach_norm(dummy)).square().tolist()
        slope, mix = [0.0] * len(dummy), [0.0] * len(dummy)
        value = torch.zeros(())
        for members, norm, width in zip(self.members, self.norms, self.widths, strict=True):
            b, w = norm.item(), width.item()
            s2, a = sum(squares[i] for i in members), sum(sizes[i] for i in members) ** 0.5
            sx = (a * a - b * b - s2) / 2
            z = torch.tensor((s2 - (a - b) ** 2) / (a * b) / w)
            value = value - torch.expm1(-z)
            factor = torch.exp(-z).item() / w * 2 / (a * b)
            for i in members:
                slope[i] = factor * (b * b + sx) / (a * a)
                mix[i] = -factor * (sx + s2) / (a * a)
        torch._foreach_mul_(difference, slope)
        torch._foreach_add_(difference, torch._foreach_mul(self.target, mix))
        return value, difference
