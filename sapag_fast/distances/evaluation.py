"""One evaluation of a distance: D, and V with it, by the kernels or by plain operations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.distances.formulas import value_and_coefficients
from sapag_fast.distances.kind import Kind
from sapag_fast.distances.layering import Layering, layer_sizes
from sapag_fast.distances.operators import Options
from sapag_fast.distances.reference import reference_distance
from sapag_fast.distances.sums import GradientSums, difference_sums, target_sums

Tensors = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class BoundDistance:
    """A distance bound to the layers and the device of a target: all that it is apart from the gradients.

    Attributes
    ----------
    kind : Kind
        Its mathematics.
    layering : Layering
        Which tensors form a layer; one layer for kinds that see the whole gradient.
    batched : bool
        Whether tensors have a leading dimension of recoveries.
    backend : str
        What computes it.
    options : Options
        Its numbers, as the operators take them.
    size : Tensor or None
        Elements of each layer, float64 ``[L]``; None in transforms, which it must not leave.
    """

    kind: Kind
    layering: Layering
    batched: bool
    backend: str
    options: Options
    size: Tensor | None

    @property
    def count(self) -> int:
        """How many tensors each of the two lists has."""
        return len(self.layering.kept)

    def sizes(self, target: Tensors) -> Tensor:
        """Elements of each layer, float64 ``[L]``."""
        return layer_sizes(target, self.layering, self.batched) if self.size is None else self.size

    def on_sums(self, sums: GradientSums) -> Tensor:
        """D ``[R]`` in float64 from the sums."""
        _, bandwidth, l1_weight, weights, variance = self.options
        if variance is not None:
            sums = replace(sums, target_deviation=variance.double() * sums.size)
        return self.kind.value(sums, weights, bandwidth, l1_weight)

    def target_sums(self, target: Tensors) -> Tensor:
        """The target's sums, float64 ``[R or 1, L, 3]``."""
        if self.backend == "reference":
            return target_sums(target, self.layering, self.batched)
        return ops.target_sums(self.backend, target, self.layering, self.batched)

    def widened(self, widths: Tensor, sums: Tensor, sizes: Tensor) -> "BoundDistance":
        """The same with each recovery's bandwidth times its own of ``widths``, float64 ``[R]``.

        Bandwidth and the target's variance are one product in the kernels' formulas: the variances bear the
        widths. For kinds that read both. ``sums`` are the target's, ``sizes`` those of the layers.
        """
        own = self.options.variance
        if own is None:
            own = sums[..., 2] / sizes.clamp(min=1)
        return replace(self, options=self.options._replace(variance=own * widths[:, None]))

    def check_rows(self, recoveries: int) -> None:
        """Refuse layer weights and variances whose rows fit no recovery; the kernels check theirs."""
        for name, rows in (("layer_weights", self.options.weights), ("variance", self.options.variance)):
            if rows is not None and rows.dim() == 2 and rows.shape[0] not in (1, recoveries):
                raise ValueError(
                    f"{name}: expected shape [{self.layering.layers}] or "
                    f"[{recoveries}, {self.layering.layers}], found {list(rows.shape)}"
                )

    def shaped(self, value: Tensor) -> Tensor:
        """``[R]`` as it is, or shape ``()``; never a view, which callers could not write to."""
        return value if self.batched else value.sum()


def eager_distance(bound: BoundDistance, dummy: Tensors, target: Tensors) -> Tensor:
    """D by plain operations, differentiable any number of times."""
    layering, batched = bound.layering, bound.batched
    bound.check_rows(dummy[0].shape[0] if batched else 1)
    if bound.backend == "reference" and bound.kind.native is not None:
        value = reference_distance(dummy, target, bound.kind.name, layering, bound.options, batched=batched)
    else:
        sums = GradientSums.from_columns(
            difference_sums(dummy, target, layering, batched),
            target_sums(target, layering, batched),
            bound.sizes(target),
        )
        value = bound.on_sums(sums)
    return bound.shaped(value.to(ops.result_dtype(dummy)))


def normal(tensor: Tensor) -> Tensor:
    """A tensor that autograd can keep, as those of inference mode are not."""
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd records, also in inference mode, whose tensors have to be made `normal` inside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def value_alone(
    bound: BoundDistance, dummy: Tensors, target: Tensors, cached: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """D, and the target's sums if this call computed them.

    Not differentiable; ``cached`` are the target's sums of an earlier call.
    """
    if bound.backend == "reference":
        with torch.enable_grad():
            value = eager_distance(bound, [t.detach() for t in dummy], target)
        return value.detach(), None
    if bound.kind.native is None:
        value, _, sums = _by_formula(bound, dummy, target, cached)
        return value, sums
    value, sums = ops.distance(
        bound.backend, dummy, target, bound.layering, bound.batched, bound.options, cached
    )
    return value, sums if cached is None else None


def value_and_gradient(
    bound: BoundDistance,
    dummy: Tensors,
    target: Tensors,
    cached: Tensor | None,
    out: list[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """D, V = ∂D/∂g', and the target's sums if this call computed them; V is written to ``out`` if given.

    Not differentiable; ``cached`` are the target's sums of an earlier call.
    """
    if (bound.backend == "reference" or bound.kind.native is None) and torch.compiler.is_compiling():
        value, pull, *_ = torch.func.vjp(lambda *g: eager_distance(bound, g, target), *dummy)
        return value, _written(out, list(pull(torch.ones_like(value)))), None
    if bound.backend == "reference":
        with _recording():
            leaves = [normal(t).detach().requires_grad_() for t in dummy]
            value = eager_distance(bound, leaves, [normal(t) for t in target])
            slopes = list(torch.autograd.grad(value.sum(), leaves))
        return value.detach(), _written(out, slopes), None
    if bound.kind.native is None:
        value, coefficients, sums = _by_formula(bound, dummy, target, cached)
        slopes = ops.apply(bound.backend, dummy, target, bound.layering, bound.batched, coefficients)
        return value, _written(out, slopes), sums
    value, sums, slopes = ops.distance_and_gradient(
        bound.backend, dummy, target, bound.layering, bound.batched, bound.options, cached, out
    )
    return value, slopes, sums if cached is None else None


def _by_formula(
    bound: BoundDistance, dummy: Tensors, target: Tensors, cached: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """D, the coefficients of V and the target's sums of a kind that the kernels do not know."""
    backend, layering, batched = bound.backend, bound.layering, bound.batched
    bound.check_rows(dummy[0].shape[0] if batched else 1)
    sums = ops.target_sums(backend, target, layering, batched) if cached is None else cached
    difference = ops.difference_sums(backend, dummy, target, layering, batched)
    with _recording():
        given = (normal(difference), normal(sums), normal(bound.sizes(target)))
        value, coefficients = value_and_coefficients(bound.on_sums, *given)
    return bound.shaped(value.to(ops.result_dtype(dummy))), coefficients, sums


def _written(out: list[Tensor] | None, slopes: list[Tensor]) -> list[Tensor]:
    if out is None:
        return slopes
    for i, (mine, slope) in enumerate(zip(out, slopes, strict=True)):
        if (mine.shape, mine.dtype, mine.device) != (slope.shape, slope.dtype, slope.device):
            raise ValueError(
                f"out[{i}]: expected shape {list(slope.shape)} and {slope.dtype} on {slope.device}, "
                f"found {list(mine.shape)} and {mine.dtype} on {mine.device}"
            )
        mine.copy_(slope)
    return out
