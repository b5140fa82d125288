"""What a search of sentences comes to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.text.bag import Bag
from sapag_fast.text.recipe import CERTIFIED, TextRecipe

__all__ = ["TextRecovery", "certify"]


def certify(distance: float, kind: str) -> str:
    """Say whether the distance can only be that of the truth.

    Parameters
    ----------
    distance : float
        Of a sentence's gradient.
    kind : str
        Of the distance.

    Returns
    -------
    str
        ``certified``, or ``unknown``: it may be right all the same, and kinds that are not in `CERTIFIED`
        have no scale on which their distance would tell.
    """
    return "certified" if distance <= CERTIFIED.get(kind, -1.0) else "unknown"


@dataclass(frozen=True)
class TextRecovery:
    """What `recover_text` found for V victims.

    Attributes
    ----------
    tokens : Tensor
        ``[V, T]``, int64; sentences shorter than the longest end in -1. All -1, with an infinite distance:
        the search was interrupted before it came to a sentence.
    lengths : tuple of int
        V.
    labels : Tensor
        ``[V]``, int64.
    distance : Tensor
        ``[V]``, of the tokens' gradient.
    certificate : tuple of str
        V of ``certified`` and ``unknown``, see `certify`.
    bags : tuple of Bag or None
        What the word embedding's gradient gave away; None without the bag.
    continuous : Tensor
        ``[V, T]``, the best sentence before the discrete search.
    continuous_distance : Tensor
        ``[V]``, of its gradient.
    evaluations : Tensor
        ``[V]``, int64, of the continuous search.
    scored : Tensor
        ``[V]``, int64, sentences whose distance was computed.
    mode : str
        How the recoveries were batched, as in `Recovery`.
    mode_reason : str
        Why not explicitly.
    recipe : TextRecipe
        The settings in force.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    labels: Tensor
    distance: Tensor
    certificate: tuple[str, ...]
    bags: tuple[Bag, ...] | None
    continuous: Tensor
    continuous_distance: Tensor
    evaluations: Tensor
    scored: Tensor
    mode: str
    mode_reason: str
    recipe: TextRecipe
