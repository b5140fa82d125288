"""The public distance: any two lists of gradients in, a differentiable tensor out, the target remembered."""

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_gradtrackingtensor

from sapag_fast import checks as check
from sapag_fast.distances import operators as ops
from sapag_fast.distances.autograd import PlainDistance, traced, transformed_distance, transforming
from sapag_fast.distances.evaluation import BoundDistance, normal, value_alone, value_and_gradient
from sapag_fast.distances.formulas import degenerate
from sapag_fast.distances.kind import Kind, find_kind, is_registered
from sapag_fast.distances.layering import Gradients, layer_sizes, layering, shapes_of
from sapag_fast.distances.operators import Options
from sapag_fast.distances.pairs import check_alike, check_apart, check_pairs, outputs, same_positions
from sapag_fast.distances.sums import GradientSums, target_sums
from sapag_fast.distances.target_cache import Fingerprint, KnownTarget, addresses
from sapag_fast.runtime.modes import outside_transforms, real_tensors

L1_WEIGHT = 0.01
_requires_grad = torch._C.TensorBase.requires_grad.__get__  # pyright: ignore[reportAttributeAccessIssue]


class GradientDistance:
    """A distance between a dummy and a target gradient: ``distance(dummy, target) -> Tensor``.

    Gradients are float32, float64, bfloat16 or float16, all alike; the result is float32 (float64 for
    float64), fresh and writable. Pairs of None are left out. The target is a constant: no derivative flows
    into it.

    What depends on the target alone is kept from the second call on, for as long as the same tensors come
    back unchanged. A change shows in a tensor's version, which all operations raise, in its address
    (``t.data = ...``) and, on the CPU, in the 64 bytes in the middle of its memory, which writes past torch
    change (``t.data.copy_(...)``, the array behind ``torch.from_numpy``). What changes other bytes alone past
    torch stays unseen, and on a GPU all that goes past torch but a new address: call `forget` after it.

    Parameters
    ----------
    kind : str or Kind
        One of `sapag_fast.distances.kinds`, or a `Kind` object, which need not be among them.
    batched : bool
        Every tensor has a leading dimension R of recoveries (a target's may be 1: shared by all), and the
        result is ``[R]``; else the result has shape ``()``.
    layer_weights : Tensor or sequence of float, optional
        Q_l, ``[L]`` or ``[R, L]``; not for kinds that see the whole gradient as one layer. For ``tag`` it
        weighs the absolute term alone. Default: the kind's own, 1/(l + 1) for ``sapag-mean``, else 1.
    bandwidth : float, optional
        s of the Gaussian kernels, the kinds ``sapag...``, > 0. Default 1, 0.05 for ``sapag-global``.
    merge_bias : bool
        A vector that follows a tensor whose first dimension it shares joins its layer.
    layers : sequence of int, optional
        A layer number for each tensor, in place of that rule; kinds that see the whole gradient as one layer
        take no other.
    variance : Tensor or sequence of float, optional
        Of the target, ``[L]`` or ``[R, L]``, in place of its own biased one, for ``sapag``, ``sapag-mean``,
        ``sapag-sum`` and registered kinds; a layer where it is 0 or nan is degenerate. ``"sapag-mean"`` with
        ``merge_bias=False, variance=[g.var() for g in target]`` is the formula of the published
        re-implementation, see docs/mathematics.md.
    l1_weight : float, optional
        Of the absolute term of ``tag``. Default 0.01.
    backend : str, optional
        ``reference``, ``cpu``, ``triton`` or ``cuda``. Default: SAPAG_FAST_BACKEND, else the device's own.

    Raises
    ------
    ValueError, TypeError
        For anything that does not fit together, options that the kind does not read among it, here or in a
        call, naming the argument.
    """

    def __init__(
        self,
        kind: str | Kind = "sapag",
        *,
        batched: bool = False,
        layer_weights: Tensor | Sequence[float] | None = None,
        bandwidth: float | None = None,
        merge_bias: bool = True,
        layers: Sequence[int] | None = None,
        variance: Tensor | Sequence[float] | None = None,
        l1_weight: float | None = None,
        backend: str | None = None,
    ) -> None:
        self.kind = find_kind(kind)
        given = {
            "bandwidth": bandwidth,
            "layer_weights": layer_weights,
            "variance": variance,
            "l1_weight": l1_weight,
        }
        for name, value in given.items():
            if value is not None and name not in self.kind.takes:
                raise ValueError(f"{name}: the distance {self.kind.name!r} takes none")
        self.batched = check.check_flag("batched", batched)
        self.bandwidth = (
            self.kind.bandwidth if bandwidth is None else check.check_positive("bandwidth", bandwidth)
        )
        self.l1_weight = L1_WEIGHT if l1_weight is None else check.check_weight("l1_weight", l1_weight)
        self.layer_weights = _as_rows("layer_weights", layer_weights)
        self.variance = _as_rows("variance", variance)
        self.merge_bias = check.check_flag("merge_bias", merge_bias)
        self.layers = None if layers is None else check.check_integers("layers", layers)
        if self.kind.merged and len(set(self.layers or ())) > 1:
            raise ValueError(
                f"layers: the distance {self.kind.name!r} sees the whole gradient as one layer, found "
                f"{len(set(self.layers or ()))}"
            )
        if backend is not None:
            check.check_choice("backend", backend, ops.BACKENDS)
        self.backend = backend
        self._known: KnownTarget | None = None

    def __call__(self, dummy: Gradients, target: Gradients) -> Tensor:
        """D, shape ``()`` or ``[R]``, differentiable with respect to ``dummy`` (any number of times)."""
        transformed = transforming()
        mine, known = self._prepare(dummy, target, transformed)
        wanted = torch.is_grad_enabled() and True in map(_requires_grad, mine)
        if transformed:
            return transformed_distance(known.bound, mine, known.present, wanted)
        if wanted:
            present = known.present if known.fingerprint else [normal(t) for t in known.present]
            return PlainDistance.apply(known.bound, present, known.sums, known.remember, *mine)
        value, sums = value_alone(known.bound, mine, known.present, known.sums)
        if sums is not None:
            known.remember(sums)
        return value

    def forget(self) -> None:
        """Compute what depends on the target anew at the next call: after writes to it that go past torch."""
        self._known = None

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with, by argument; the kind by its name where it has one in the table."""
        return {
            "kind": self.kind.name if is_registered(self.kind) else self.kind,
            "batched": self.batched,
            "layer_weights": self.layer_weights,
            "bandwidth": self.bandwidth if "bandwidth" in self.kind.takes else None,
            "merge_bias": self.merge_bias,
            "layers": self.layers,
            "variance": self.variance,
            "l1_weight": self.l1_weight if "l1_weight" in self.kind.takes else None,
            "backend": self.backend,
        }

    def __getstate__(self) -> dict[str, Any]:
        """All but the target of the last call, which is a victim's gradient: pickles and copies have none."""
        return self.__dict__ | {"_known": None}

    def copy(self, **changes: Any) -> "GradientDistance":
        """The same distance with some of its options changed, and nothing in its cache."""
        return GradientDistance(**(self.options | changes))

    def distance_and_gradient(
        self, dummy: Gradients, target: Gradients, out: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """D and V = ∂D/∂g' without autograd; not for use inside of torch.func transforms.

        Parameters
        ----------
        dummy, target : iterable of (Tensor or None)
            The two gradients.
        out : sequence of (Tensor or None), optional
            Tensors like ``dummy`` that V is written to, in place of fresh ones. Each has memory of its own,
            or exactly that of its partner in ``dummy`` (not with ``cuda``). Their versions are raised.

        Returns
        -------
        tuple
            D, shape ``()`` or ``[R]``, and V shaped like ``dummy``: None where that is None.
        """
        transformed = transforming()
        mine, known = self._prepare(dummy, target, transformed)
        present = None if out is None else outputs(out, mine)
        guarded = None if traced() else present
        if guarded is not None:
            self._check_outputs(guarded, mine, known)
        arguments = (known.bound, mine, known.present, known.sums, present)
        if torch.is_grad_enabled() and True in map(_requires_grad, [*mine, *(present or ())]):
            if any(t.requires_grad and t.is_leaf for t in present or ()):
                raise ValueError(
                    "out: expected tensors that autograd may forget, found a leaf that requires grad"
                )
            with torch.no_grad():
                value, slopes, sums = value_and_gradient(*arguments)
        else:
            value, slopes, sums = value_and_gradient(*arguments)
        if guarded is not None:
            torch._C._increment_version(guarded)
        if sums is not None:
            known.remember(sums)
        if len(known.given) == len(slopes):
            return value, [*slopes]
        remaining = iter(slopes)
        return value, [None if t is None else next(remaining) for t in known.given]

    def bound_to(self, target: Gradients) -> BoundDistance:
        """The distance with the layers, sizes, weights and backend for a target like this one."""
        given = check.check_tensors("target", target)
        check_pairs(given, given, "target")
        return self._bind(shapes_of(given, self.batched), [t for t in given if t is not None], transforming())

    @torch.no_grad()
    def degenerate(self, target: Gradients) -> Tensor:
        """Layers of ``target`` that carry no weight in this distance: bool ``[L]`` or ``[R, L]``.

        They have no elements or a norm below 1e-6 of the whole gradient's; for the Gaussian kernels also one
        element or no variance. ``l2``, ``l1`` and ``tag`` divide by nothing and have none.
        """
        given = check.check_tensors("target", target)
        check_pairs(given, given, "target")
        _, known = self._prepare(given, given, transforming())
        size = known.bound.sizes(known.present)
        sums = target_sums(known.present, known.bound.layering, self.batched)
        if self.variance is not None:
            sums = sums.expand(max(sums.shape[0], *self.variance.shape[:-1], 1), -1, -1).clone()
            sums[..., 2] = self.variance * size
        columns = GradientSums.from_columns(sums.new_zeros(*sums.shape[:-1], 6), sums, size)
        mask = degenerate(columns, self.kind.needs)
        return mask if self.batched else mask[0]

    def _prepare(
        self, dummy: Gradients, target: Gradients, transformed: bool
    ) -> tuple[list[Tensor], KnownTarget]:
        """The dummy gradients that are present, and the target with all that is known of it."""
        mine, theirs = check.check_tensors("dummy", dummy), check.check_tensors("target", target)
        known = self._known
        if known is None or transformed or not known.is_still(theirs):
            check_pairs(mine, theirs)
            check_alike(mine, theirs, self.batched)
            known = self._meet(theirs, transformed)
        elif known.bound.backend == "reference" or not same_positions(mine, theirs):
            check_pairs(mine, theirs)
            check_alike(mine, theirs, self.batched)
        if len(known.present) < len(mine):
            mine = [t for t in mine if t is not None]
        return cast(list[Tensor], mine), known

    def _meet(self, theirs: list[Tensor | None], transformed: bool) -> KnownTarget:
        """Learn a new target."""
        given = [t for t in theirs if t is not None]
        bound = self._bind(shapes_of(theirs, self.batched), given, transformed)
        known = KnownTarget(theirs, [t.detach() for t in given], bound)
        if transformed:
            return known
        # A target that comes back once comes back often: until then a fingerprint is not worth its time. Of a
        # fake mode everything is fake, and would stay so.
        again = self._known is not None and self._known.is_of(theirs)
        if again and type(bound.size) is Tensor and all(map(Fingerprint.can_be_told, given)):
            known.fingerprint = Fingerprint(given)
        self._known = known
        return known

    def _check_outputs(self, out: list[Tensor], mine: list[Tensor], known: KnownTarget) -> None:
        """Refuse to write V over what is read; addresses that the last call looked at need no second look."""
        lie = addresses(out + mine)
        recoveries = mine[0].shape[:1] if self.batched else ()
        if lie != known.apart or recoveries != known.recoveries:
            bound = known.bound
            positions = bound.layering.kept
            check_apart(out, mine, known.present, positions, in_place=bound.backend != "cuda")
            known.apart, known.recoveries = lie, recoveries

    def _bind(self, shapes: tuple, present: list[Tensor], transformed: bool) -> BoundDistance:
        device = present[0].device
        own_layers = layering(shapes, self.merge_bias, self.layers)
        if self.kind.merged:
            own_layers = own_layers.merged()
        # Tensors of a transform must not reach a Function past its arguments.
        levels = transformed and not torch.compiler.is_compiling()
        with outside_transforms() if levels else contextlib.nullcontext():
            weights = self.layer_weights
            if weights is None:
                with torch.inference_mode(False):  # autograd may have to keep them
                    weights = self.kind.default_weights(own_layers.layers)
            weights = None if weights is None else weights.to(device)
            variance = None if self.variance is None else self.variance.to(device)
        for name, rows in (("layer_weights", weights), ("variance", variance)):
            if rows is not None and rows.shape[-1] != own_layers.layers:
                raise ValueError(
                    f"{name}: expected one value for each of {own_layers.layers} layers, "
                    f"found {rows.shape[-1]}"
                )
        options = Options(
            self.kind.native,
            self.bandwidth,
            self.l1_weight,
            weights,
            variance,
        )
        return BoundDistance(
            self.kind,
            own_layers,
            self.batched,
            ops.choose_backend(self.backend, device),
            options,
            None if transformed else layer_sizes(present, own_layers, self.batched),
        )


def _as_rows(name: str, given: Tensor | Sequence[float] | None) -> Tensor | None:
    if given is None:
        return None
    while isinstance(given, Tensor) and is_gradtrackingtensor(given):
        given = get_unwrapped(given)  # a constant, as all options are
    if isinstance(given, Tensor) and is_batchedtensor(given):
        raise ValueError(
            f"{name}: cannot be mapped over by torch.func.vmap; use batched=True with rows [R, L]"
        )
    # torch.compile sees through a mode's tensors by itself.
    with contextlib.nullcontext() if torch.compiler.is_compiling() else real_tensors():
        return _checked_rows(name, given)


def _checked_rows(name: str, given: Tensor | Sequence[float]) -> Tensor:
    try:
        rows = given if isinstance(given, Tensor) else torch.tensor(given, dtype=torch.float64)
        rows = rows.detach().to(torch.float64, copy=True)  # checked once: a later write must not reach it
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name}: expected numbers [L] or [R, L], found {check.shown(given)}") from None
    if rows.dim() not in (1, 2):
        raise ValueError(f"{name}: expected shape [L] or [R, L], found {tuple(rows.shape)}")
    if torch.compiler.is_compiling() or rows.is_meta or type(rows) is not Tensor:  # no numbers to look at
        return rows
    # One element has no unbiased variance: nan there, as zero, says that its layer carries no weight.
    wrong = ~(torch.isfinite(rows) & (rows >= 0)) & ~(torch.isnan(rows) & (name == "variance"))
    if bool(wrong.any()) or bool((rows > check.MOST_WEIGHT).any()):
        found = rows[wrong | (rows > check.MOST_WEIGHT)][0].item()
        raise ValueError(f"{name}: expected numbers in 0..{check.MOST_WEIGHT:g}, found {found}")
    return rows
