"""True sentences, one a line of a text file, and how a recovered one compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sapag_fast.files.regular import regular_file, shown
from sapag_fast.text.metrics import TextScores, score_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TrueSentence", "read_true_sentences"]

_MISSING, _SUPERFLUOUS = -1, -2


@dataclass(frozen=True)
class TrueSentence:
    """One of them.

    Attributes
    ----------
    tokens : Tensor
        ``[T]``, int64.
    text : str
        As its line has it.
    """

    tokens: Tensor
    text: str

    def cut(self, length: int) -> TrueSentence:
        """Its first tokens, where the client cut it off."""
        return TrueSentence(self.tokens[:length], self.text)

    def score(self, found: Tensor) -> TextScores:
        """Compare with a sentence of any length; places that one of them lacks count as wrong."""
        size = max(len(found), len(self.tokens))
        ours, true = found.new_full((size,), _MISSING), self.tokens.new_full((size,), _SUPERFLUOUS)
        ours[: len(found)], true[: len(self.tokens)] = found, self.tokens
        return score_text(ours.cpu(), true)


def read_true_sentences(paths: Sequence[Path], tokenizer: Tokenizer | None) -> list[TrueSentence]:
    """Read the lines of all files in order; empty ones are left out.

    Parameters
    ----------
    paths : sequence of Path
        UTF-8.
    tokenizer : tokenizers.Tokenizer or None
        Makes tokens of a line; None: a line is the tokens' numbers, separated by spaces or commas.

    Raises
    ------
    ValueError
        Naming the file, for what is no text, and the line where it has no tokens or is no list of numbers.
    """
    sentences = []
    for path in paths:
        try:
            text = regular_file(path, "true sentences").read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"true sentences {shown(path)}: not UTF-8") from None
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                tokens = _numbers(line) if tokenizer is None else tokenizer.encode(line.strip()).ids
                if not tokens:
                    wanted = "tokens such as 17 301 5, or a tokenizer" if tokenizer is None else "tokens"
                    raise ValueError(f"true sentences {shown(path)}, line {number}: expected {wanted}")
                sentences.append(TrueSentence(torch.tensor(tokens, dtype=torch.long), line.strip()))
    return sentences


def _numbers(line: str) -> list[int]:
    """The numbers of a line, or none where something else stands there."""
    parts = line.replace(",", " ").split()
    plain = all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts)  # int64 holds them
    return [int(part) for part in parts] if plain else []
