"""Small classifiers of sentences that see the order of the tokens wholly, in part, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sentence_victims import VOCABULARY, make_encoder
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HIDDEN, LONGEST = 16, 12, 12


class Classifier(nn.Module):
    """What follows the word embedding is `read`'s.

    Parameters
    ----------
    read : callable
        From the module's parts and embeddings ``[B, T, H]`` to features ``[B, C]``.
    parts : nn.Module
        By name.
    """

    def __init__(self, read: Callable[[nn.ModuleDict, Tensor], Tensor], features: int, **parts: nn.Module):
        super().__init__()
        self.word, self.parts, self.read = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleDict(parts), read
        self.fc = nn.Linear(features, 2)

    def forward(self, tokens: Tensor | None = None, *, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.fc(self.read(self.parts, self.word(tokens) if inputs_embeds is None else inputs_embeds))


class Block(nn.Module):
    """Attention and a network for each token, normalised before (GPT-2)."""

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        scores = self.query(y) @ self.key(y).mT / WIDTH**0.5
        if self.causal:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        x = x + self.out(scores.softmax(-1) @ self.value(y))
        return x + self.down(F.gelu(self.up(self.between(x))))


def _placed(parts: nn.ModuleDict, e: Tensor) -> Tensor:
    return e + parts["position"](torch.arange(e.shape[1]).expand(e.shape[0], -1))


def _last(parts: nn.ModuleDict, e: Tensor) -> Tensor:
    return parts["rnn"](e)[0][:, -1]


def _gru() -> nn.GRU:
    return nn.GRU(WIDTH, HIDDEN, batch_first=True)


def _positions() -> nn.Embedding:
    return nn.Embedding(LONGEST, WIDTH)


def mean() -> nn.Module:
    def read(parts, e):
        return parts["hidden"](e.mean(1)).tanh()

    return Classifier(read, HIDDEN, hidden=nn.Linear(WIDTH, HIDDEN))


def mean_with_positions() -> nn.Module:
    """Sees positions, but their sum with the words alone: no order."""

    def read(parts, e):
        return parts["hidden"](_placed(parts, e).mean(1)).tanh()

    return Classifier(read, HIDDEN, hidden=nn.Linear(WIDTH, HIDDEN), position=_positions())


def transformer_without_positions() -> nn.Module:
    return Classifier(lambda parts, e: parts["block"](e).mean(1), WIDTH, block=Block())


def torch_transformer_without_positions() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.0, batch_first=True)
    return Classifier(lambda parts, e: parts["layer"](e).mean(1), WIDTH, layer=layer)


def causal_without_positions() -> nn.Module:
    """The last token sees the others, their order not."""
    return Classifier(lambda parts, e: parts["block"](e)[:, -1], WIDTH, block=Block(causal=True))


def gpt() -> nn.Module:
    def read(parts, e):
        return parts["norm"](parts["two"](parts["one"](_placed(parts, e))))[:, -1]

    blocks = {"one": Block(causal=True), "two": Block(causal=True)}
    return Classifier(read, WIDTH, position=_positions(), norm=nn.LayerNorm(WIDTH), **blocks)


def gpt_first() -> nn.Module:
    """The first token sees nothing of what follows."""

    def read(parts, e):
        return parts["block"](_placed(parts, e))[:, 0]

    return Classifier(read, WIDTH, position=_positions(), block=Block(causal=True))


def lstm() -> nn.Module:
    return Classifier(_last, HIDDEN, rnn=nn.LSTM(WIDTH, HIDDEN, batch_first=True))


def gru() -> nn.Module:
    return Classifier(_last, HIDDEN, rnn=_gru())


def both_directions() -> nn.Module:
    """By the same weights, and summed: a sentence and its reversal look the same."""
    return Classifier(lambda parts, e: _last(parts, e) + _last(parts, e.flip(1)), HIDDEN, rnn=_gru())


def both_halves() -> nn.Module:
    def read(parts, e):
        half = e.shape[1] // 2
        return _last(parts, e[:, :half]) + _last(parts, e[:, half : 2 * half])

    return Classifier(read, HIDDEN, rnn=_gru())


def in_pairs() -> nn.Module:
    """Neighbours are averaged in pairs."""
    return Classifier(lambda parts, e: _last(parts, F.avg_pool1d(e.mT, 2).mT), HIDDEN, rnn=_gru())


def circular() -> nn.Module:
    """Bears rotations."""
    conv = nn.Conv1d(WIDTH, HIDDEN, 3, padding=1, padding_mode="circular")
    return Classifier(lambda parts, e: parts["conv"](e.mT).tanh().mean(2), HIDDEN, conv=conv)


def bigrams(padding: int = 1) -> nn.Module:
    """Sees pairs of neighbours, and not in which order they come."""
    conv = nn.Conv1d(WIDTH, HIDDEN, 2)
    return Classifier(
        lambda parts, e: parts["conv"](F.pad(e.mT, (0, padding))).tanh().mean(2), HIDDEN, conv=conv
    )


def beginning() -> nn.Module:
    """Reads no more than four tokens."""
    return Classifier(lambda parts, e: _last(parts, e[:, :4]), HIDDEN, rnn=_gru())


def encoder() -> nn.Module:
    return make_encoder(width=WIDTH, layers=2, hidden=24)
