"""What a search of sentences comes to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.text.bag import Bag
from sapag_fast.text.certificate import TextCertificate
from sapag_fast.text.recipe import TextRecipe
from sapag_fast.victim.cautions import Caution

__all__ = ["EXACT", "SEARCH", "TextRecovery"]

EXACT, SEARCH = "exact", "search"
"""What a source may be."""


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
    label_source, label_reason : tuple of str
        V, as in `Recovery`.
    source : tuple of str
        V: ``exact``, the sentence follows from the gradient by arithmetic and was not searched; ``search``.
    source_reason : tuple of str
        V, why arithmetic does not give the sentence; empty where it does, or was not asked.
    distance : Tensor
        ``[V]``, of the tokens' gradient.
    certificates : tuple of TextCertificate
        V, what the distance says of each sentence's truth, and why.
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
    warnings : tuple of Caution
        What speaks against the recovery although nothing went wrong, as in `Recovery`: dropout that is
        active, other randomness, BatchNorm in training mode, numbers in half precision.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    labels: Tensor
    label_source: tuple[str, ...]
    label_reason: tuple[str, ...]
    source: tuple[str, ...]
    source_reason: tuple[str, ...]
    distance: Tensor
    certificates: tuple[TextCertificate, ...]
    bags: tuple[Bag, ...] | None
    continuous: Tensor
    continuous_distance: Tensor
    evaluations: Tensor
    scored: Tensor
    mode: str
    mode_reason: str
    recipe: TextRecipe
    warnings: tuple[Caution, ...] = ()

    @property
    def certificate(self) -> tuple[str, ...]:
        """V of ``certified``, ``certified up to order`` and ``unknown``: the status of each certificate."""
        return tuple(certificate.status for certificate in self.certificates)
