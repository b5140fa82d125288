"""What is compared: SAPAG's recipe, the same with a rival distance in its place, and attacks as published.

A rival distance gets SAPAG's starts, restarts, evaluations and priors: the distance alone differs. Since
equal priors are not equally strong against all distances, two are there without any, too. Published attacks
come with their own priors and starts, on the same engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sapag_fast.recipes import Recipe, apply_overrides, choose_recipe

__all__ = ["DISTANCES", "LABELS", "METHODS", "PLAIN", "Method", "make_method"]

DISTANCES = ("l2", "l2-normalized", "cosine", "layer-cosine", "tag", "sapag-mean", "sapag-sum")
"""Rival distances, each in the place of `sapag`."""

PLAIN = ("l2-plain", "cosine-plain")
"""The same without priors (no box, no total variation), which weigh more against a distance that is small."""

METHODS = (
    "sapag",
    *DISTANCES,
    *PLAIN,
    "dlg",
    "dlg-own",
    "sapag-pixel",
    "inverting",
    "inverting-long",
    "relu-adam",
)
"""Names that `make_method` knows."""

LABELS = {
    "sapag": "SAPAG",
    "l2": "L2",
    "l2-normalized": "L2, normalised",
    "layer-cosine": "layer cosine",
    "l2-plain": "L2, no priors",
    "cosine-plain": "cosine, no priors",
    "tag": "TAG",
    "dlg": "DLG, equal budget",
    "dlg-own": "DLG, its own budget",
    "sapag-pixel": "SAPAG, pixels",
    "inverting": "Inverting Gradients",
    "inverting-long": "Inverting Gradients, one long search",
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
    steps: int | None = None,
) -> Method:
    """The method by name, against inputs of this shape; ``steps`` in place of SAPAG's own for all.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")
    ours = _changed(choose_recipe("auto", shape, batch_size, piecewise_linear=piecewise_linear), steps=steps)
    if name == "sapag":
        return Method(ours, "infer", restarts)
    if name in DISTANCES:
        return Method(_changed(ours, distance=name), "infer", restarts)
    if name in PLAIN:
        plain = replace(_changed(ours, distance=name.removesuffix("-plain")), box=0.0, tv=0.0)
        return Method(plain, "infer", restarts)
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
    if name == "inverting-long":
        return Method(replace(bare, steps=ours.steps * restarts), "infer", 1)
    return Method(replace(bare, steps=ours.steps), "infer", restarts)


def _changed(
    recipe: Recipe, *, distance: str | None = None, basis: str | None = None, steps: int | None = None
) -> Recipe:
    kept = {"optimizer": None, "start": None, "box": None, "tv": None}
    return apply_overrides(recipe, distance=distance, basis=basis, steps=steps, **kept)
