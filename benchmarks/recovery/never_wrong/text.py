"""Sentences: networks that see all of the order, some of it or none, and gradients that are no plain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.never_wrong.case import ANNOUNCED, RIGHT, SILENT, Case, Outcome, Victims
from sapag_fast.clients.defences import clip_norm, gaussian_noise
from sapag_fast.models import make_model
from sapag_fast.text.recover import recover_text
from sapag_fast.text.recovery import TextRecovery

__all__ = ["CASES"]

VOCABULARY, WIDTH, HIDDEN, LONGEST = 80, 16, 14, 16
QUICK: dict[str, Any] = {"restarts": 1, "steps": 60, "candidates": 400}
LENGTHS = (6,)
Read = Callable[[nn.ModuleDict, Tensor], Tensor]
Share = Callable[[nn.Module, Tensor, Tensor], Sequence[Tensor | None]]


class Classifier(nn.Module):
    """Word embeddings, what `read` makes of them, and a head of three classes."""

    def __init__(self, read: Read, features: int, *, frozen: bool = False, **parts: nn.Module) -> None:
        super().__init__()
        self.word, self.parts, self.read = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleDict(parts), read
        self.word.requires_grad_(not frozen)
        self.fc = nn.Linear(features, 3)

    def forward(self, tokens: Tensor | None = None, *, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.fc(self.read(self.parts, self.word(tokens) if inputs_embeds is None else inputs_embeds))


def _dense(features: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh())


def _pooled(pool: Callable[[Tensor], Tensor]) -> nn.Module:
    return Classifier(lambda parts, e: parts["dense"](pool(e)), HIDDEN, dense=_dense())


def _recurrent(
    pool: Callable[[Tensor], Tensor], kind: type[nn.RNNBase] = nn.GRU, features: int = HIDDEN, **options: Any
) -> nn.Module:
    rnn = kind(WIDTH, HIDDEN, batch_first=True, **options)
    return Classifier(lambda parts, e: pool(parts["rnn"](e)[0]), features, rnn=rnn)


def _convolved(pool: Callable[[Tensor], Tensor], **options: int) -> nn.Module:
    conv = nn.Conv1d(WIDTH, HIDDEN, 3, padding=1, **options)
    return Classifier(lambda parts, e: pool(parts["conv"](e.mT).tanh()), HIDDEN, conv=conv)


def _attending(*, places: Tensor | None = None, masked: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.0, batch_first=True)

    def read(parts: nn.ModuleDict, e: Tensor) -> Tensor:
        seen = e if places is None else e + places[: e.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(e.shape[1]) if masked else None
        return parts["layer"](seen, src_mask=mask).mean(1)

    return Classifier(read, WIDTH, layer=layer)


def _waves() -> Tensor:
    rates = torch.exp(-torch.arange(WIDTH // 2) / 2)
    angles = torch.arange(LONGEST)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def _beginning(e: Tensor) -> Tensor:
    """Position 0, and the mean of all others."""
    return torch.cat((e[:, 0], e[:, 1:].mean(1)), -1)


def _gpt2() -> nn.Module:
    """GPT-2 as transformers has it, random and small."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=WIDTH, n_layer=2, n_head=2, num_labels=3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


def _encoder() -> nn.Module:
    seed = int(torch.randint(1000, ()))
    return make_model(
        "encoder", vocabulary=VOCABULARY, max_length=LONGEST, width=WIDTH, hidden=24, classes=3, seed=seed
    )


def _last(h: Tensor) -> Tensor:
    return h[:, -1]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "encoder": _encoder,
    "GPT-2": _gpt2,
    "LSTM": lambda: _recurrent(_last, nn.LSTM),
    "GRU": lambda: _recurrent(_last),
    "GRU of two layers": lambda: _recurrent(_last, num_layers=2),
    "LSTM in both directions": lambda: _recurrent(
        lambda h: h.mean(1), nn.LSTM, 2 * HIDDEN, bidirectional=True
    ),
    "mean of a GRU's states": lambda: _recurrent(lambda h: h.mean(1)),
    "first state of a GRU": lambda: _recurrent(lambda h: h[:, 0]),
    "largest states of a GRU": lambda: _recurrent(lambda h: h.amax(1)),
    "mean of embeddings": lambda: _pooled(lambda e: e.mean(1)),
    "sum of embeddings": lambda: _pooled(lambda e: e.sum(1)),
    "largest embeddings": lambda: _pooled(lambda e: e.amax(1)),
    "weighted mean of embeddings": lambda: _pooled(
        lambda e: (e * torch.arange(1.0, e.shape[1] + 1)[:, None]).mean(1)
    ),
    "mean of the first three embeddings": lambda: _pooled(lambda e: e[:, :3].mean(1)),
    "last embedding": lambda: _pooled(_last),
    "first embedding and the others' mean": lambda: Classifier(
        lambda parts, e: parts["dense"](_beginning(e)), HIDDEN, dense=_dense(2 * WIDTH)
    ),
    "mean of products of neighbours": lambda: _pooled(lambda e: (e[:, 1:] * e[:, :-1]).mean(1)),
    "convolution, mean": lambda: _convolved(lambda h: h.mean(2)),
    "convolution, largest": lambda: _convolved(lambda h: h.amax(2)),
    "convolution with a stride": lambda: _convolved(lambda h: h.mean(2), stride=4),
    "convolution with dilation": lambda: _convolved(lambda h: h.mean(2), dilation=2),
    "transformer without positions": lambda: _attending(),
    "transformer, causal, without positions": lambda: _attending(masked=True),
    "transformer with waves": lambda: _attending(places=_waves()),
    "transformer with hardly any positions": lambda: _attending(places=1e-5 * _waves()),
}


def _frozen() -> nn.Module:
    rnn = nn.GRU(WIDTH, HIDDEN, batch_first=True)
    return Classifier(lambda parts, e: parts["rnn"](e)[0][:, -1], HIDDEN, frozen=True, rnn=rnn)


def _plain(model: nn.Module, tokens: Tensor, labels: Tensor) -> list[Tensor | None]:
    output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(F.cross_entropy(logits, labels), trained, allow_unused=True))


def _of_first(change: Callable[[list[Tensor]], Sequence[Tensor]]) -> Share:
    def share(model: nn.Module, tokens: Tensor, labels: Tensor) -> Sequence[Tensor | None]:
        return change([g for g in _plain(model, tokens[:1], labels[:1]) if g is not None])

    return share


def _noisy(gradient: list[Tensor]) -> Sequence[Tensor]:
    return gaussian_noise(gradient, 0.01, generator=torch.Generator().manual_seed(0), relative=True)


def _without_a_word(model: nn.Module, tokens: Tensor, labels: Tensor) -> list[Tensor | None]:
    """The row of one token is gone."""
    shared = _plain(model, tokens[:1], labels[:1])
    shared[0] = shared[0].index_fill(0, tokens[0, 1:2], 0.0)
    return shared


CLIENTS: dict[str, Share] = {
    "half the gradient": _of_first(lambda g: [e / 2 for e in g]),
    "the gradient's sign turned": _of_first(lambda g: [-e for e in g]),
    "clipped": _of_first(lambda g: clip_norm(g, max_norm=0.1)),
    "noise of a hundredth": _of_first(_noisy),
    "two sentences, searched as one": _plain,
    "one token's row taken out": _without_a_word,
}


def _sentences(length: int) -> tuple[Tensor, Tensor]:
    """Two of that length ``[2, length]``, the first with a token that stands twice, and labels."""
    tokens = torch.randint(1, VOCABULARY, (2, length))
    tokens[0, -1] = tokens[0, 1]
    return tokens, torch.randint(3, (2,))


def _judged(found: TextRecovery, sentence: Tensor) -> Outcome:
    certificate, tokens = found.certificates[0], found.tokens[0]
    right = torch.equal(tokens, sentence)
    if certificate.status == "certified up to order":
        right = torch.equal(tokens.sort().values, sentence.sort().values)
    elif certificate.status == "unknown":
        said = f"unknown: {certificate.reason}"
        return Outcome(ANNOUNCED if certificate.reason else SILENT, said)
    return Outcome(RIGHT if right else SILENT, certificate.status)


def _case(name: str, build: Callable[[], nn.Module], share: Share | None = None, **options: Any) -> Case:
    def run(victims: Victims) -> list[Outcome]:
        outcomes = []
        for length in LENGTHS:
            tokens, labels = _sentences(length)
            model = build()
            if share is not None:
                outcomes.append(_found(model, share(model, tokens, labels), tokens[0], options))
                continue
            for one, label in zip(tokens.split(1), labels.split(1), strict=True):
                outcomes.append(_found(model, _plain(model, one, label), one[0], options))
        return outcomes

    return Case("text", name, run)


def _found(
    model: nn.Module, target: Sequence[Tensor | None], sentence: Tensor, options: dict[str, Any]
) -> Outcome:
    told = QUICK | {"length": len(sentence)} | options
    try:
        return _judged(recover_text(model, target, **told), sentence)
    except ValueError as error:
        return Outcome(ANNOUNCED, f"refused: {error}")


CASES: list[Case] = [
    *(_case(name, build) for name, build in NETWORKS.items()),
    _case("GRU, embeddings not trained", _frozen, tokens=None),
    *(_case(f"encoder: {name}", _encoder, share) for name, share in CLIENTS.items()),
    *(
        _case(f"{name}, tokens not from the bag", NETWORKS[name], tokens=None)
        for name in ("LSTM", "mean of embeddings", "transformer without positions", "convolution, mean")
    ),
    _case("encoder, length from the gradient", _encoder, length=None),
]
