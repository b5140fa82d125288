"""What the searches for sentences of all lengths share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.text.network import Tables
from sapag_fast.text.recipe import TextRecipe
from sapag_fast.victim.cautions import Caution
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.problem import Problem

__all__ = ["TextAttack"]


@dataclass(frozen=True, eq=False)
class TextAttack:
    """The victims, and how they are searched.

    Attributes
    ----------
    problem : Problem
        In word embeddings, with the targets of all V victims.
    tables : Tables
        The model's embeddings.
    known : KnownLabels
        ``[V, 1, ...]``.
    word_gradient : Tensor or None
        ``[V, vocabulary, H]``, the targets of the word embedding, where the bags are read from them; None:
        any token may be anywhere.
    lengths_told : bool
        Whether the lengths were read from the gradients.
    recipe : TextRecipe
        The recipe in force.
    seed : int
        Of all random numbers.
    at_once : int
        Searches, and sentences, at once.
    cautions : tuple of Caution
        What makes recoveries worse than they look.
    """

    problem: Problem
    tables: Tables
    known: KnownLabels
    word_gradient: Tensor | None
    lengths_told: bool
    recipe: TextRecipe
    seed: int
    at_once: int
    cautions: tuple[Caution, ...] = ()

    @property
    def labels(self) -> Tensor:
        """The labels ``[V, 1, ...]``."""
        return self.known.labels
