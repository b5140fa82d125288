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
    """T, the number of positions up to the last non-zero row of the position embedding's gradient ``[rows,
    H]``; `first` is the first token's row.

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
    """The tokens whose rows in the word embedding's gradient ``[vocabulary, H]`` are not zero.

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
