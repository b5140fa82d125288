"""Which tokens a gradient gives away: the word embedding's gradient has a non-zero row for each of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Bag", "infer_length", "read_bag"]


@dataclass(frozen=True)
class Bag:
    """Tokens of one sentence of T tokens.

    Attributes
    ----------
    tokens : Tensor
        ``[K]``, int64, ascending, each once: every one of them occurs.
    length : int
        T. With K = T every token occurs once; with K < T the rows do not tell which ones occur again.
    """

    tokens: Tensor
    length: int

    @property
    def repeats(self) -> int:
        """T - K, occurrences beyond each token's first."""
        return self.length - len(self.tokens)


def infer_length(position_gradient: Tensor, first: int) -> int:
    """Count the positions, T, up to the gradient's last non-zero row.

    Parameters
    ----------
    position_gradient : Tensor
        ``[rows, H]``, of the position embedding.
    first : int
        The first token's row.

    Returns
    -------
    int
        T.

    Raises
    ------
    ValueError
        When there is none.
    """
    rows = position_gradient[first:].ne(0).any(1).nonzero()
    if not len(rows):
        raise ValueError("length: the position embedding's gradient is zero; give length=")
    return int(rows[-1]) + 1


def read_bag(word_gradient: Tensor, length: int) -> Bag:
    """Read off which tokens have a row that is not zero.

    Parameters
    ----------
    word_gradient : Tensor
        ``[vocabulary, H]``, of the word embedding.
    length : int
        T.

    Returns
    -------
    Bag
        These tokens, and T.

    Raises
    ------
    ValueError
        When there are none, or more than tokens in the sentence: the gradient is not as it was computed.
    """
    tokens = word_gradient.ne(0).any(1).nonzero()[:, 0]
    if not 0 < len(tokens) <= length:
        raise ValueError(
            f"tokens='bag': expected 1..{length} non-zero rows in the word embedding's gradient for a "
            f"sentence of {length} tokens, found {len(tokens)}; give tokens=None"
        )
    return Bag(tokens, length)
