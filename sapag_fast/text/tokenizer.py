"""A tokenizer trained on sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.runtime.extras import needs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PADDING", "UNKNOWN", "encode", "load_tokenizer", "train_tokenizer"]

PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""The first two tokens of every vocabulary, 0 and 1."""


def train_tokenizer(sentences: Iterable[str], vocabulary: int = 2000) -> Tokenizer:
    """Train a byte-pair tokenizer (lower case, split at spaces and punctuation). Needs the ``text`` extra.

    The same sentences give the same tokens. The library's training of WordPiece, or with marks at the end of
    words, numbers them otherwise in every process; here a word's first token begins with its space instead.

    Parameters
    ----------
    sentences : iterable of str
        To train on.
    vocabulary : int
        Tokens at most.

    Returns
    -------
    tokenizers.Tokenizer
        Whose first two tokens are `PADDING` and `UNKNOWN`.

    Raises
    ------
    TypeError, ValueError
        For a vocabulary that is no positive number, and for sentences that hold nothing.
    """
    with needs("text", "trained tokenizers"):
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    check.check_count("vocabulary", vocabulary)
    sentences = _texts(sentences)
    if not any(sentence.strip() for sentence in sentences):
        raise ValueError(f"sentences: expected some text to train on, found {len(sentences)} empty ones")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def load_tokenizer(path: str | Path, vocabulary: int | None = None) -> Tokenizer:
    """Read a tokenizer's JSON file, such as ``tokenizer.json`` of Hugging Face. Needs the ``text`` extra.

    Parameters
    ----------
    path : str or Path
        What ``Tokenizer.save`` writes.
    vocabulary : int, optional
        Rows of the word embedding, which its tokens must not exceed.

    Raises
    ------
    ValueError
        Naming the file, for what is no tokenizer, and for one with more tokens.
    """
    with needs("text", "tokenizers"):
        from tokenizers import Tokenizer

    path = regular_file(path, "tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"tokenizer {shown(path)}: expected a tokenizer's JSON file: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocabulary is not None and largest >= vocabulary:
        raise ValueError(
            f"tokenizer {shown(path)}: expected tokens below {vocabulary}, the rows of the model's word "
            f"embedding, found {largest}"
        )
    return tokenizer


def encode(tokenizer: Tokenizer, sentences: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Take the first `length` tokens of every sentence that has so many.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Such as `train_tokenizer` gives.
    sentences : sequence of str
        Any number.
    length : int
        T.

    Returns
    -------
    tokens : Tensor
        ``[N, T]``, int64.
    kept : Tensor
        ``[N]``, int64, which sentences those are.
    """
    check.check_count("length", length)
    rows = [encoding.ids[:length] for encoding in tokenizer.encode_batch(_texts(sentences))]
    kept = [index for index, row in enumerate(rows) if len(row) == length]
    tokens = torch.tensor([rows[index] for index in kept], dtype=torch.long).reshape(-1, length)
    return tokens, torch.tensor(kept, dtype=torch.long)


def _texts(sentences: object) -> list[str]:
    texts = check.check_sequence("sentences", sentences, "strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"sentences[{i}] must be a string, found {check.shown(text)}")
    return list(texts)
