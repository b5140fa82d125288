"""Defences: what a client may do to its gradient before it shares it.

Each takes a gradient, a sequence of tensors in which None stands for what is not shared, and returns a new
list; the inputs stay as they are, and float types are kept. With ``batched=True`` the tensors have a leading
recovery dimension, and the result is that of one recovery after the other. `compose` chains several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from sapag_fast import checks as check

__all__ = ["Defence", "clip_norm", "compose", "gaussian_noise", "prune", "quantise", "sign", "withhold"]

Gradient = Sequence[Tensor | None]
Defence = Callable[..., list[Tensor | None]]
"""Called with a gradient and ``batched=``."""


def gaussian_noise(
    gradients: Gradient,
    scale: float,
    *,
    generator: torch.Generator,
    relative: bool = False,
    batched: bool = False,
) -> list[Tensor | None]:
    """Independent Gaussian noise on every entry, as in DP-SGD (Abadi et al. 2016), after `clip_norm` there.

    Parameters
    ----------
    gradients : sequence of Tensor or None
    scale : float
        Standard deviation of the noise.
    generator : torch.Generator
        Draws in float32 (float64 for float64), tensor by tensor: the same state gives the same bits.
    relative : bool
        Take `scale` as a multiple of the root mean square over all entries of the gradient.
    batched : bool
    """
    scale, relative = check.check_weight("scale", scale), check.check_flag("relative", relative)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, found {type(generator).__name__}")

    def noisy(tensors: list[Tensor]) -> list[Tensor]:
        count = sum(t.numel() for t in tensors)
        deviation = scale * (_norm(tensors) / math.sqrt(count) if relative and count else 1.0)
        results = []
        for tensor in tensors:
            wide = torch.promote_types(tensor.dtype, torch.float32)
            noise = torch.randn(tensor.shape, generator=generator, dtype=wide, device=generator.device)
            results.append((tensor.to(wide) + noise.to(tensor.device) * deviation).to(tensor.dtype))
        return results

    return _defended(gradients, noisy, batched)


def clip_norm(gradients: Gradient, max_norm: float, *, batched: bool = False) -> list[Tensor | None]:
    """The gradient scaled down to the norm `max_norm` > 0 over all its entries, if it is longer.

    As in DP-SGD (Abadi et al. 2016).
    """
    max_norm = check.check_positive("max_norm", max_norm)

    def clipped(tensors: list[Tensor]) -> list[Tensor]:
        norm = _norm(tensors)
        if norm <= max_norm:
            return [t.clone() for t in tensors]
        return [(t.double() * (max_norm / norm)).to(t.dtype) for t in tensors]

    return _defended(gradients, clipped, batched)


def prune(gradients: Gradient, fraction: float, *, batched: bool = False) -> list[Tensor | None]:
    """The round(fraction n) of all n entries that are smallest in magnitude set to zero.

    After Aji and Heafield 2017. Layers compete with each other. Among equal magnitudes the earlier entry goes
    first; entries that are zero already count.
    """
    fraction = check.check_fraction("fraction", fraction)

    def pruned(tensors: list[Tensor]) -> list[Tensor]:
        wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        magnitudes = torch.cat([t.abs().flatten().to(tensors[0].device, wide) for t in tensors])
        count = round(fraction * len(magnitudes))
        if count == 0:
            return [t.clone() for t in tensors]
        threshold = magnitudes.kthvalue(count).values
        smaller, equal = magnitudes < threshold, magnitudes == threshold
        gone = smaller | (equal & (equal.cumsum(0) <= count - smaller.sum()))
        masks = gone.split([t.numel() for t in tensors])
        return [
            t.masked_fill(mask.view(t.shape).to(t.device), 0) for t, mask in zip(tensors, masks, strict=True)
        ]

    return _defended(gradients, pruned, batched)


def sign(gradients: Gradient, *, batched: bool = False) -> list[Tensor | None]:
    """Every entry's sign times the mean magnitude of its tensor.

    Bernstein et al. 2018; the magnitude is Karimireddy et al. 2019.
    """

    def signs(tensors: list[Tensor]) -> list[Tensor]:
        return [t.sign() * t.double().abs().mean().to(t.dtype) for t in tensors]

    return _defended(gradients, signs, batched)


def quantise(gradients: Gradient, bits: int = 8, *, batched: bool = False) -> list[Tensor | None]:
    """Every entry rounded to one of 2^bits - 1 equidistant levels in [-m, m].

    m is its tensor's largest magnitude. The uniform levels of QSGD (Alistarh et al. 2017) with a scale for
    each tensor, rounded to the nearest (half to even) and not at random.
    """
    bits = check.check_count("bits", bits, least=2, most=16)
    levels = 2 ** (bits - 1) - 1

    def rounded(tensors: list[Tensor]) -> list[Tensor]:
        results = []
        for tensor in tensors:
            largest = tensor.abs().max().double() if tensor.numel() else torch.zeros(())
            step = torch.where(largest == 0, 1.0, largest / levels)
            results.append(((tensor.double() / step).round() * step).to(tensor.dtype))
        return results

    return _defended(gradients, rounded, batched)


def withhold(gradients: Gradient, layers: Iterable[int], *, batched: bool = False) -> list[Tensor | None]:
    """None in place of the entries at these positions (from the end if negative): what is not shared at all.

    A layer with a bias has two entries.
    """
    entries = _checked(gradients, batched)
    count = len(entries)
    given = [layers] if isinstance(layers, Integral) else layers
    positions = {p % count for p in check.check_integers("layers", given, least=-count, most=count - 1)}
    kept = [None if t is None or i in positions else t.detach().clone() for i, t in enumerate(entries)]
    if all(t is None for t in kept):
        raise ValueError(f"layers: withholding {sorted(positions)} of {len(entries)} entries leaves nothing")
    return kept


def compose(*defences: Defence) -> Defence:
    """The defences one after the other: ``compose(partial(clip_norm, max_norm=1), sign)(gradient)``."""
    for defence in defences:
        if not callable(defence):
            raise TypeError(f"defences must be callables, found {type(defence).__name__}")

    def composed(gradients: Gradient, *, batched: bool = False) -> list[Tensor | None]:
        shared = [None if t is None else t.detach().clone() for t in _checked(gradients, batched)]
        for defence in defences:
            shared = defence(shared, batched=batched)
        return shared

    return composed


@torch.no_grad()
def _defended(
    gradients: Gradient, defence: Callable[[list[Tensor]], list[Tensor]], batched: bool
) -> list[Tensor | None]:
    """`defence` on the tensors of each recovery, put back where they were."""
    entries = _checked(gradients, batched)
    given = [t.detach() for t in entries if t is not None]
    if not batched:
        results = defence(given)
    else:
        rows = [defence([t[r] for t in given]) for r in range(given[0].shape[0])]
        results = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    remaining = iter(results)
    return [None if t is None else next(remaining) for t in entries]


def _checked(gradients: Gradient, batched: bool) -> list[Tensor | None]:
    entries = check.check_tensors("gradients", gradients)
    for position, entry in enumerate(entries):
        if entry is None:
            continue
        if not isinstance(entry, Tensor):
            raise TypeError(f"gradients[{position}] must be a tensor or None, found {type(entry).__name__}")
        if not entry.is_floating_point():
            raise TypeError(f"gradients[{position}] must be floating point, found {entry.dtype}")
    batched = check.check_flag("batched", batched)
    tensors = [entry for entry in entries if entry is not None]
    if not tensors:
        raise ValueError("gradients: expected at least one tensor, found none")
    if batched:
        leading = {tuple(t.shape[:1]) for t in tensors}
        if len(leading) > 1 or leading <= {(), (0,)}:
            found = ", ".join(str(list(t.shape)) for t in tensors[:4])
            raise ValueError(f"gradients: batched=True expects one leading recovery dimension, found {found}")
    return entries


def _norm(tensors: Iterable[Tensor]) -> float:
    """Over all entries of all tensors, in float64."""
    return math.sqrt(math.fsum(t.double().square().sum().item() for t in tensors))
