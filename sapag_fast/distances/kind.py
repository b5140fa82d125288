"""Kinds of distance between a dummy and a target gradient: scalar mathematics on sums.

Every distance is a differentiable function of `GradientSums`; its gradient with respect to the dummy gradient
is then an affine map per segment,

    V = α·d + β·g + ε·g' + γ + δ·sign(d)

whose coefficients are the derivatives of the distance with respect to the sums. A new distance is one
function (see `register_distance`) and runs on every kernel.

The adaptive Gaussian kernel of the kinds ``sapag...`` is that of Wang et al., "Variance of the Gradient Also
Matters: Privacy Leakage from Gradients", IJCNN 2022, whose preprint is "SAPAG: A Self-Adaptive Privacy Attack
From Gradients", arXiv 2009.06228, 2020. ``l2`` is from DLG (Zhu et al., NeurIPS 2019), ``cosine`` from
Inverting Gradients (Geiping et al., NeurIPS 2020), ``tag`` from TAG (Deng et al., EMNLP 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances import formulas
from sapag_fast.distances.sums import GradientSums

DistanceFunction = Callable[[GradientSums, Tensor | None, float, float], Tensor]


@dataclass(frozen=True, repr=False)
class Kind:
    """One kind of distance.

    Attributes
    ----------
    name : str
        What errors call it, and its key in the table of `kinds` if it is there.
    value : callable
        ``(sums, weights, bandwidth, l1_weight) -> D [R]``, float64: see `sapag_fast.distances.formulas`.
    merged : bool
        All tensors form one layer.
    needs : str
        What a layer's target must have to carry weight: ``"variance"``, ``"norm"`` or ``""``.
    bandwidth : float
        The default of the Gaussian kernels' s.
    takes : tuple of str
        Which of ``bandwidth``, ``layer_weights``, ``variance`` and ``l1_weight`` it reads; the others are
        refused.
    native : int or None
        Its number among the distances that the compiled code computes by itself.
    layer_weights : callable or None
        The kind's own weights, float64 ``[L]``, for L layers; None: all are 1.
    """

    name: str
    value: DistanceFunction
    merged: bool = False
    needs: str = ""
    bandwidth: float = 1.0
    takes: tuple[str, ...] = ()
    native: int | None = None
    layer_weights: Callable[[int], Tensor] | None = None

    @classmethod
    def of_sums(
        cls,
        name: str,
        function_of_sums: Callable[..., Tensor],
        *,
        merged: bool = False,
        weighted: bool = False,
    ) -> "Kind":
        """A kind of one's own, without a place in the table of `kinds`: hand it to `GradientDistance`.

        Parameters
        ----------
        name : str
            What errors and checkpoints call it.
        function_of_sums : callable
            Takes `GradientSums` (float64, ``[R, L]``) and returns D, float64 ``[R]``; plain, differentiable
            PyTorch, each row on its own.
        merged : bool
            See all tensors as a single layer.
        weighted : bool
            The function takes the layer weights too, as its second argument: float64, ``[L]`` or ``[R, L]``,
            ones where none are given. Without, layer weights are the function's own business. A bandwidth
            always is.

        Raises
        ------
        TypeError
            If the name is no string, or the function cannot be called.
        """
        check.check_text("name", name)
        check.check_callable("function_of_sums", function_of_sums)
        value = _FunctionOfSums(function_of_sums, check.check_flag("weighted", weighted))
        takes = ("layer_weights", "variance") if weighted else ("variance",)
        return cls(name, value, merged=check.check_flag("merged", merged), takes=takes)

    def default_weights(self, layers: int) -> Tensor | None:
        """The kind's own weights for so many layers, float64 ``[L]``, or None for all ones."""
        return None if self.layer_weights is None else self.layer_weights(layers)

    @property
    def has_widths(self) -> bool:
        """Whether recoveries of one batch can have bandwidths of their own: by way of their variances."""
        return {"bandwidth", "variance"} <= set(self.takes)

    def __reduce__(self) -> tuple[Callable[..., "Kind"], tuple[Any, ...]]:
        # By its name where it has one in the table: functions of a notebook or a lambda cannot be pickled.
        if is_registered(self):
            return find_kind, (self.name,)
        return Kind, tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        # The name alone, without addresses of functions: checkpoints compare it between processes.
        return f"Kind({self.name!r})"


@dataclass(frozen=True, eq=False)
class _FunctionOfSums:
    """A user's function of sums, called as the package's own are."""

    function: Callable[..., Tensor]
    weighted: bool

    def __call__(
        self, sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float
    ) -> Tensor:
        if not self.weighted:
            return self.function(sums)
        return self.function(sums, torch.ones_like(sums.size) if weights is None else weights)


def falling_weights(layers: int) -> Tensor:
    """Q_l = 1/(l + 1), float64 ``[L]``."""
    return 1.0 / torch.arange(1, layers + 1, dtype=torch.float64, device="cpu")


_GAUSSIAN = ("bandwidth", "layer_weights", "variance")
# The numbers are those of csrc/kinds.h.
_BUILT_IN = (
    Kind("sapag", formulas.sapag, needs="variance", takes=_GAUSSIAN, native=0),
    Kind(
        "sapag-mean",
        formulas.sapag_mean,
        needs="variance",
        takes=_GAUSSIAN,
        native=1,
        layer_weights=falling_weights,
    ),
    Kind("sapag-sum", formulas.sapag_sum, needs="variance", takes=_GAUSSIAN, native=2),
    Kind(
        "sapag-global",
        formulas.sapag_global,
        merged=True,
        needs="norm",
        bandwidth=0.05,
        takes=("bandwidth",),
        native=3,
    ),
    Kind("l2", formulas.l2, takes=("layer_weights",), native=4),
    Kind("l2-normalized", formulas.l2_normalized, merged=True, needs="norm", native=5),
    Kind("cosine", formulas.cosine, merged=True, needs="norm", native=6),
    Kind("layer-cosine", formulas.cosine, needs="norm", takes=("layer_weights",), native=6),
    Kind("l1", formulas.l1, takes=("layer_weights",), native=7),
    Kind("tag", formulas.tag, takes=("layer_weights", "l1_weight"), native=8),
)
_KINDS: dict[str, Kind] = {kind.name: kind for kind in _BUILT_IN}


def kinds() -> tuple[str, ...]:
    """Names of all distances, the registered ones too."""
    return tuple(_KINDS)


def find_kind(kind: object, argument: str = "kind") -> Kind:
    """The distance of that name; a `Kind` is itself.

    Raises
    ------
    ValueError
        With the known names, if there is none of this name; it calls the name by its `argument`.
    """
    if isinstance(kind, Kind):
        return kind
    return _KINDS[check.check_choice(argument, kind, _KINDS, other="a Kind")]


def is_registered(kind: Kind) -> bool:
    """Whether this kind, or a copy of it, is what `find_kind` gives for its name."""
    return _KINDS.get(kind.name) == kind


def register_distance(
    name: str,
    function_of_sums: Callable[..., Tensor],
    *,
    merged: bool = False,
    weighted: bool = False,
    replace: bool = False,
) -> None:
    """Make a distance of one's own available under a name in every function, on the same kernels.

    Registering a function again under its name replaces the one from before, and so does a function of the
    same module and qualified name: a notebook's cell can be run again. Distances that exist already keep the
    function they were made with. `Kind.of_sums` makes a distance without a name in the table.

    Parameters
    ----------
    name : str
        What every ``kind`` and ``distance`` argument calls it.
    function_of_sums, merged, weighted
        As in `Kind.of_sums`.
    replace : bool
        Take a name that another function holds. Never that of a built-in distance.

    Raises
    ------
    ValueError
        If the name is a built-in distance's, or, without ``replace``, another function's.
    TypeError
        If the name is no string, or the function cannot be called.
    """
    kind = Kind.of_sums(name, function_of_sums, merged=merged, weighted=weighted)
    replace = check.check_flag("replace", replace)
    known = _KINDS.get(name)
    if known is not None:
        if not isinstance(known.value, _FunctionOfSums):
            raise ValueError(f"name: the built-in distance {name!r} exists already and cannot be replaced")
        if not (replace or same_definition(known.value.function, function_of_sums)):
            raise ValueError(
                f"name: a distance {name!r} exists already, with another function; replace=True replaces it"
            )
    _KINDS[name] = kind


def same_definition(known: object, given: object) -> bool:
    """Whether both are one function, or one that was defined again: same module and qualified name.

    All lambdas of a module share a name: of two with the same code, one is the other, defined again.
    """
    if known is given:
        return True
    codes = [getattr(f, "__code__", None) for f in (known, given)]
    if any(code is not None and code.co_name == "<lambda>" for code in codes):
        return codes[0] == codes[1]
    names = [(getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (known, given)]
    return names[0] == names[1] and None not in names[0]
