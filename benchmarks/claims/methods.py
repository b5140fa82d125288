"""What is compared: SAPAG's recipe, the same with a rival distance in its place, and attacks as published.

A rival distance gets SAPAG's starts, restarts, evaluations and priors: the distance alone differs. SAPAG's
searches end once they have arrived or stalled; a rival's take all evaluations that SAPAG's may take. Since
equal priors are not equally strong against all distances, two are there without any, and at a scale that
suits the optimiser, too. Published attacks come with their own priors and starts, on the same engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from sapag_fast.distances.kind import find_kind, register_distance
from sapag_fast.distances.sums import GradientSums
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe, choose_recipe

__all__ = ["DISTANCES", "LABELS", "METHODS", "Method", "make_method"]

DISTANCES = ("l2", "l2-normalized", "cosine", "layer-cosine", "tag", "sapag-mean", "sapag-sum")
"""Rival distances, each in the place of `sapag`."""

PLAIN = ("l2-plain", "cosine-plain")
"""Without priors (no box, no total variation), which weigh more against a distance that is small, and times
`SCALE`. L-BFGS, torch's as ours, skips a pair whose curvature is below an absolute 1e-10 and takes a first
step no longer than the gradient: at its own scale the cosine distance never leaves its start on an untrained
LeNet.
"""

SCALE = 1e6

METHODS = (
    "sapag",
    "sapag-exact",
    *DISTANCES,
    *PLAIN,
    "dlg",
    "dlg-own",
    "sapag-pixel",
    "sapag-separated",
    "inverting",
    "inverting-tuned",
    "relu-adam",
)
"""Names that `make_method` knows."""

LABELS = {
    "sapag": "SAPAG",
    "sapag-exact": "arithmetic, then SAPAG",
    "l2": "L2",
    "l2-normalized": "L2, normalised",
    "layer-cosine": "layer cosine",
    "l2-plain": "L2, scaled, no priors",
    "cosine-plain": "cosine, scaled, no priors",
    "tag": "TAG",
    "dlg": "DLG, equal budget",
    "dlg-own": "DLG, its own budget",
    "sapag-pixel": "SAPAG, pixels",
    "sapag-separated": "SAPAG, equal labels searched again",
    "inverting": "Inverting Gradients",
    "inverting-tuned": "Inverting Gradients, tuned, one long search",
    "relu-adam": "SAPAG, bare network",
}
"""How the tables call them, where not by the name itself."""

_DLG_EVALUATIONS = 6000  # 300 steps of torch.optim.LBFGS with up to 20 evaluations each, as published


@dataclass(frozen=True)
class Method:
    """The recipe, how labels are found (``infer`` or ``joint``) and how many restarts a victim gets."""

    recipe: Recipe
    labels: str
    restarts: int


def make_method(
    name: str,
    shape: tuple[int, ...],
    batch_size: int,
    restarts: int,
    *,
    piecewise_linear: bool = False,
    trained: bool = False,
    steps: int | None = None,
) -> Method:
    """The method by name, against inputs of this shape; ``steps`` in place of SAPAG's own for all.

    ``sapag-exact`` is ``sapag`` for what does not follow by arithmetic.
    ``sapag-separated`` is ``sapag`` followed by `separate_equal_labels`, which the plan does.
    ``inverting-tuned`` has the rate, start and total variation that were best for it on eight photographs
    that are no victims, untrained and trained, and all evaluations in one search, which serves it better.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")
    ours = _changed(choose_recipe("auto", shape, batch_size, piecewise_linear=piecewise_linear), steps=steps)
    if name in ("sapag", "sapag-exact", "sapag-separated"):
        return Method(ours, "infer", restarts)
    ours = replace(ours, patience=0)
    if name in DISTANCES:
        return Method(_changed(ours, distance=name), "infer", restarts)
    if name in PLAIN:
        return Method(replace(_changed(ours, distance=name), box=0.0, tv=0.0), "infer", restarts)
    if name == "sapag-pixel":
        return Method(_changed(ours, basis="pixel"), "infer", restarts)
    if name.startswith("dlg"):
        own = name == "dlg-own"
        recipe = Recipe(
            "dlg",
            distance="l2",
            steps=_DLG_EVALUATIONS if own else ours.steps,
            box=0.0,
            tv=0.0,
            starts=("noise",),
        )
        return Method(recipe, "joint", 1 if own else restarts)
    bare = choose_recipe("relu-adam", shape, batch_size, piecewise_linear=True)
    if name == "relu-adam":
        return Method(_changed(bare, steps=ours.steps), "infer", restarts)
    bare = replace(_changed(bare, distance="cosine"), name="inverting", starts=("noise",))
    if name == "inverting-tuned":
        tuned = replace(bare, lr=0.03, tv=0.1 if trained else 0.01, starts=("grey",))
        return Method(replace(tuned, steps=ours.steps * restarts), "infer", 1)
    return Method(replace(bare, steps=ours.steps), "infer", restarts)


def _scaled(kind: str) -> Callable[[GradientSums], Tensor]:
    return lambda sums: SCALE * find_kind(kind).value(sums, None, 1.0, 0.0)


for _name, _kind in zip(PLAIN, ("l2-normalized", "cosine"), strict=True):
    register_distance(_name, _scaled(_kind), merged=True)


def _changed(
    recipe: Recipe, *, distance: str | None = None, basis: str | None = None, steps: int | None = None
) -> Recipe:
    return SearchOptions(distance=distance, basis=basis, steps=steps).applied_to(recipe)
