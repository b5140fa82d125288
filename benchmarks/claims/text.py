"""Sentences from gradients: CoLA, an encoder of two layers, three networks, SAPAG beside rivals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.claims.cell import Cell
from sapag_fast.clients.training import train_to
from sapag_fast.data import read_sentences
from sapag_fast.models import make_model
from sapag_fast.text import (
    TEXT_RECIPES,
    TextRecovery,
    encode,
    find_tables,
    infer_length,
    match_positions,
    read_bag,
    recover_text,
    score_text,
    span_test,
    train_tokenizer,
)

__all__ = ["cells"]

VOCABULARY = 2000
TRAINING_SENTENCES = 2000
ACCURACY = 0.9
"""On the training sentences, where a network is called trained."""

LONGEST = 16
"""Tokens up to which there are enough single sentences."""

NETWORKS, VICTIMS = (0, 1, 2), 20
"""Seeds of the networks, and victims of each."""

RIVALS = ("l2", "cosine", "tag")
ANALYTIC = ("positions", "span")
SEARCHED = ("sapag", *RIVALS)
READ_FIRST = "sapag-exact"
"""Reads off what it can, as `recover_text` does by default, and searches the rest by `sapag`."""
EQUAL = {"restarts": 1, "candidates": 1000}
"""What SAPAG and its rivals get where they are compared: no rival can tell when it has arrived."""

BARS: dict[tuple[int, bool, bool], float] = {
    (8, False, True): 0.97,
    (16, False, True): 0.97,
    (32, False, True): 0.9,
    (8, True, True): 0.95,
    (16, True, True): 0.8,
    (8, False, False): 0.9,
    (16, False, False): 0.75,
}
"""Share of exact positions by tokens, trained, bag."""


def cells(data: Path, quick: bool) -> list[Cell]:
    """SAPAG where there are bars and a few beyond; beside rivals at equal budgets; the analytic attacks."""
    make = partial(_cell, data)
    if quick:
        few = {"networks": (0,), "victims": 8}
        return [
            *(make(tokens, "sapag", **few) for tokens in (8, 16)),
            make(8, "sapag", trained=True, **few),
            make(8, "sapag", bag=False, **few),
            *(make(8, attack, **few, **EQUAL) for attack in RIVALS),
            *(make(8, attack, **few) for attack in ANALYTIC),
        ]
    found = [make(*key[:1], "sapag", trained=key[1], bag=key[2]) for key in BARS]
    found += [make(32, "sapag", trained=True), make(16, "sapag", trained=True, accuracy=0.99)]
    found += [make(tokens, "sapag", trained=True, bag=False) for tokens in (8, 16)]
    found += [make(tokens, READ_FIRST, trained=True) for tokens in (16, 32)]
    found += [make(16, READ_FIRST, trained=True, accuracy=0.99)]
    for tokens, trained, bag in BARS:
        found += [make(tokens, a, trained=trained, bag=bag, equal=True, **EQUAL) for a in SEARCHED]
    for tokens, trained, bag in BARS:
        found += [make(tokens, attack, trained=trained) for attack in ANALYTIC if bag]
    return found


def _cell(
    data: Path,
    tokens: int,
    attack: str,
    *,
    trained: bool = False,
    bag: bool = True,
    accuracy: float = ACCURACY,
    networks: Sequence[int] = NETWORKS,
    victims: int = VICTIMS,
    restarts: int = 4,
    candidates: int | None = None,
    equal: bool = False,
) -> Cell:
    settings: dict[str, object] = {
        "dataset": "cola",
        "network": "encoder 2 x 64",
        "vocabulary": VOCABULARY,
        "tokens": tokens,
        "attack": attack,
        "bag": bag,
        "trained to": accuracy if trained else None,
        "networks": list(networks),
        "victims": victims,
    }
    if attack not in ANALYTIC:
        recipe = TEXT_RECIPES["text" if bag else "text-no-bag"]
        settings |= {
            "restarts": restarts,
            "steps": recipe.steps,
            "candidates": candidates or recipe.candidates,
        }
    words = [
        f"text.{tokens}",
        f"trained{accuracy:g}" if trained else "untrained",
        *([] if bag else ["no-bag"]),
        attack,
        *(["equal"] if equal else []),
    ]
    return Cell(".".join(words), "text", settings, partial(_run, data, settings))


def _run(data: Path, settings: dict[str, object]) -> dict[str, object]:
    folder = data / "cola"
    tokenizer = train_tokenizer(read_sentences(folder / "in_domain_train.tsv")[0], VOCABULARY)
    tokens, accuracy = settings["tokens"], settings["trained to"]
    training = _read(folder / "in_domain_train.tsv", tokenizer, tokens)
    training = [part[:TRAINING_SENTENCES] for part in training]
    sentences, labels = _read(folder / "in_domain_dev.tsv", tokenizer, tokens)
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(tokens))
    chosen = order[: len(settings["networks"]) * settings["victims"]].split(settings["victims"])
    victims, reached, seconds = [], [], 0.0
    for seed, rows in zip(settings["networks"], chosen, strict=True):
        model = make_model("encoder", seed=seed, vocabulary=tokenizer.get_vocab_size(), max_length=64)
        if accuracy is not None:
            model, phase = train_to(model, *training, accuracy=accuracy)
            reached.append(phase.accuracy)
        start = time.process_time()
        victims += _attacked(model, sentences[rows], labels[rows], settings, seed)
        seconds += time.process_time() - start
    found = {"victims": victims, "accuracy": reached or None, "attack cpu seconds": seconds}
    bar = BARS.get((tokens, accuracy is not None, settings["bag"]))
    if bar is not None and settings["attack"] in ("sapag", READ_FIRST) and settings["restarts"] > 1:
        found["bar"] = {"metric": "positions", "least": bar}
    return found


def _read(path: Path, tokenizer: Tokenizer, tokens: int) -> tuple[Tensor, Tensor]:
    """Sentences ``[N, tokens]``, cut where they are longer, and their labels.

    Few sentences are longer than `LONGEST`: beyond, those that follow one another are joined to passages with
    the first one's label.
    """
    texts, labels = read_sentences(path)
    starts = list(range(len(texts)))
    if tokens > LONGEST:
        starts, length = [], tokens
        for index, encoding in enumerate(tokenizer.encode_batch(texts)):
            if length >= tokens:
                starts.append(index)
                length = 0
            length += len(encoding.ids)
        ends = [*starts[1:], len(texts)]
        texts = [" ".join(texts[a:b]) for a, b in zip(starts, ends, strict=True)]
    found, kept = encode(tokenizer, texts, tokens)
    return found, labels[starts][kept]


def _attacked(
    model: nn.Module, sentences: Tensor, labels: Tensor, settings: dict[str, object], seed: int
) -> list[dict[str, object]]:
    """An entry for each victim of one network."""
    parameters = list(model.parameters())
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), parameters)
        for x, y in zip(sentences, labels, strict=True)
    ]
    attack = settings["attack"]
    if attack in ANALYTIC:
        told = [{"tokens": _read_off(model, list(row), attack), "evaluations": 0} for row in rows]
    else:
        found = recover_text(
            model,
            [torch.stack(part) for part in zip(*rows, strict=True)],
            tokens="bag" if settings["bag"] else None,
            distance="sapag" if attack == READ_FIRST else attack,
            restarts=settings["restarts"],
            steps=settings["steps"],
            candidates=settings["candidates"],
            seed=seed,
            batched=True,
            exact="auto" if attack == READ_FIRST else "off",  # the others are about the search
        )
        told = [
            {
                "tokens": found.tokens[v],
                "evaluations": int(found.evaluations[v]),
                "scored": int(found.scored[v]),
                "distance": float(found.distance[v]),
                "label": bool(found.labels[v] == labels[v]),
                **_continuous(found, v, sentences[v]),
                **({"certificate": found.certificate[v]} if attack.startswith("sapag") else {}),
            }
            for v in range(len(rows))
        ]
    entries = []
    for entry, truth in zip(told, sentences, strict=True):
        scores = score_text(entry.pop("tokens"), truth)
        entries.append({"network": seed, "success": scores.success, **asdict(scores), **entry})
    return entries


def _continuous(found: TextRecovery, victim: int, truth: Tensor) -> dict[str, float]:
    """What the search had before its discrete part; nothing of what was read off."""
    if found.source[victim] == "exact":
        return {}
    return {"before discrete": score_text(found.continuous[victim], truth).positions}


def _read_off(model: nn.Module, target: list[Tensor], attack: str) -> Tensor:
    """The analytic attack's sentence."""
    tables = find_tables(model)
    rows = target[tables.word_entry], target[tables.position_entry]
    length = infer_length(rows[1], tables.first_position)
    bag = read_bag(rows[0], length)
    if attack == "span":
        return span_test(model, target, tables.word, length, bag)
    return match_positions(*rows, bag, tables.first_position)
