"""breaching (PyPI, 0.1.2): its objectives on the fused kernels, and ours beside them in its lookup.

    from sapag_fast.integrations import breaching as fused
    fused.install()  # before prepare_attack: objectives with breaching's names and values, on our kernels
    cfg.attack.objective.type = "sapag"  # or any other kind of distance
    fused.uninstall()  # breaching's own again

An objective lives as long as its attacker: the distances keep what depends on a target alone for each query,
and notice when the target is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapag_fast.distances.kind import kinds
from sapag_fast.integrations import breaching_objectives as objectives

__all__ = ["install", "uninstall"]

_REPLACED = {
    "euclidean": objectives.Euclidean,
    "cosine-similarity": objectives.Cosine,
    "masked-cosine-similarity": objectives.MaskedCosine,
    "fast-cosine-similarity": objectives.FastCosine,
    "angular": objectives.Angular,
    "l1": objectives.L1,
    "tag-euclidean": objectives.Tag,
}
_ORIGINALS: dict[str, type] = {}
_FINITE_DIFFERENCES = {
    "pearlmutter-loss": objectives.Pearlmutter,
    "pearlmutter-cosine": objectives.PearlmutterCosine,
}


def install(*, distance_only: bool = False) -> dict[str, type]:
    """Put fused objectives into ``breaching.attacks.auxiliaries.objectives.objective_lookup``.

    All of breaching's own names keep their meaning and values; each kind of `sapag_fast.GradientDistance`,
    those registered so far included, joins under its own name (``l1`` is breaching's, half of ours).
    Attackers that exist already keep the objectives they have. Installing again takes the new
    `distance_only`, and the kinds that were registered since.

    Parameters
    ----------
    distance_only : bool
        Leave the gradients to breaching, too, where they could be formed together with the distance.

    Returns
    -------
    dict
        What the lookup holds without ours, however often they were installed; `uninstall` brings it back.

    Raises
    ------
    ImportError
        Without breaching.
    """
    from breaching.attacks.auxiliaries import objectives as theirs  # pyright: ignore[reportMissingImports]

    lookup = theirs.objective_lookup
    before = _without_ours(lookup)
    _ORIGINALS.update(before)
    ours = (kind for kind in kinds() if kind not in before)
    parts = dict.fromkeys(ours, objectives.OwnKind) | _REPLACED
    for name, part in parts.items():
        lookup[name] = _class(part, theirs.GradientLoss, distance_only=distance_only)
    for name, part in _FINITE_DIFFERENCES.items():
        lookup[name] = _class(part, theirs.PearlmutterEuclidean)
    return before


def uninstall() -> None:
    """Give ``objective_lookup`` back as it was without ours; what else was put there since stays.

    Attackers that exist already keep the objectives they have.

    Raises
    ------
    ImportError
        Without breaching.
    """
    from breaching.attacks.auxiliaries import objectives as theirs  # pyright: ignore[reportMissingImports]

    lookup = theirs.objective_lookup
    before = _without_ours(lookup)
    lookup.clear()
    lookup.update(before)


def _without_ours(lookup: Mapping[str, type]) -> dict[str, type]:
    """What stands in the lookup, or stood there before ours."""
    found = {name: _ORIGINALS.get(name) if _is_ours(part) else part for name, part in lookup.items()}
    return {name: part for name, part in found.items() if part is not None}


def _is_ours(part: type) -> bool:
    return part.__module__ == __name__


def _class(part: type, base: type, **attributes: Any) -> type:
    known = {"__module__": __name__, "__doc__": part.__doc__}
    return type(part.__name__, (part, base), known | attributes)
