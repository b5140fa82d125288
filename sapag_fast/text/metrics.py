"""How close recovered sentences are to the true ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.runtime.extras import needs

__all__ = ["TextScores", "score_text"]


@dataclass(frozen=True)
class TextScores:
    """One recovered sentence against the true one, all in 0..1.

    Attributes
    ----------
    positions : float
        Share of positions with the right token.
    recall : float
        Share of the true tokens that were found at all, wherever they stand, counted as often as they occur.
    rouge1, rouge2, rougeL : float
        F measures of ROUGE (Lin, 2004) over tokens.
    """

    positions: float
    recall: float
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 (its name)

    @property
    def success(self) -> bool:
        """Every token is right."""
        return self.positions == 1.0


class _TokenNumbers:
    """Splits what `score_text` has joined; rouge-score's own tokenizer would drop punctuation."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def score_text(found: Tensor, truth: Tensor) -> TextScores:
    """Score a recovered sentence. Needs the ``text`` extra.

    Parameters
    ----------
    found, truth : Tensor
        ``[T]``, int64.

    Returns
    -------
    TextScores
        All in 0..1.

    Raises
    ------
    ValueError
        For another shape or no tokens.
    """
    with needs("text", "scores of sentences"):
        from rouge_score.rouge_scorer import RougeScorer

    for name, sentence in (("found", found), ("truth", truth)):
        if not isinstance(sentence, Tensor) or sentence.is_floating_point():
            raise TypeError(f"{name} must be an integer tensor of tokens, found {check.shown(sentence)}")
    if found.shape != truth.shape or truth.dim() != 1 or not len(truth):
        raise ValueError(
            f"found, truth: expected two sentences of T > 0 tokens, found {list(found.shape)} and "
            f"{list(truth.shape)}"
        )
    ours, true = found.tolist(), truth.tolist()
    common = sum((Counter(ours) & Counter(true)).values())
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_TokenNumbers())
    rouge = scorer.score(" ".join(map(str, true)), " ".join(map(str, ours)))
    return TextScores(
        positions=float(torch.eq(found, truth).double().mean()),
        recall=common / len(true),
        rouge1=rouge["rouge1"].fmeasure,
        rouge2=rouge["rouge2"].fmeasure,
        rougeL=rouge["rougeL"].fmeasure,
    )
