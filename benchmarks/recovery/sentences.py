"""Sentences behind the gradients of encoders trained until 99 %: read off, and batches by the spans.

CoLA's in-domain training sentences of 16 tokens or more: networks are trained on the first 512; victims are
the 64 from the 1400th on, on which nothing was set.

    python -m benchmarks.recovery.sentences --data DATA [--networks 1] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.shared.interleaved import machine
from sapag_fast.clients.training import train_to
from sapag_fast.data import read_sentences
from sapag_fast.models import make_model
from sapag_fast.text import encode, recover_sentences, recover_text, score_text, train_tokenizer

VOCABULARY, TOKENS = 2000, 16
ACCURACY, EPOCHS = 0.99, 300
"""Whichever comes first: some sentences have the same beginning and another label."""
TRAINED_ON, FIRST, VICTIMS = 512, 1400, 60
BATCHES: dict[int, int] = {32: 1, 8: 2, 2: 4}
"""Batches of each size."""
WIDE, WIDE_BATCHES = 256, {8: 2}
"""An untrained encoder's width, and its batches."""
FILE = RESULTS / "sentences.json"


def singles(model: nn.Module, sentences: Tensor, labels: Tensor) -> dict[str, Any]:
    """One sentence behind each gradient."""
    began = time.process_time()
    pairs = zip(sentences.split(1), labels.split(1), strict=True)
    rows = [torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())) for x, y in pairs]
    found = recover_text(model, [torch.stack(part) for part in zip(*rows, strict=True)], batched=True)
    right = (found.tokens == sentences).all(1)
    certified = torch.tensor([status == "certified" for status in found.certificate])
    return {
        "sentences": len(sentences),
        "whole": int(right.sum()),
        "read off": found.source.count("exact"),
        "certified": int(certified.sum()),
        "certified and wrong": int((certified & ~right).sum()),
        "tokens right": round(float((found.tokens == sentences).double().mean()), 4),
        "cpu seconds": round(time.process_time() - began, 1),
    }


def batches(model: nn.Module, sentences: Tensor, labels: Tensor, size: int, count: int) -> dict[str, Any]:
    """Several behind one gradient."""
    whole = wrong = certified = 0
    rouge: list[float] = []
    reasons: Counter[str] = Counter()
    began = time.process_time()
    for x, y in zip(sentences.split(size)[:count], labels.split(size)[:count], strict=True):
        target = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        found = recover_sentences(model, target, batch_size=size)
        same = (found.tokens[:, None] == x).all(2)
        whole += int(same.any(0).sum())
        certified += found.certified
        wrong += found.certified and not bool(same.any(1).all())
        rouge += [max(score_text(mine, truth).rougeL for mine in found.tokens) for truth in x]
        reasons[found.reason.partition(":")[0]] += 1
    return {
        "batch size": size,
        "sentences": size * count,
        "whole": whole,
        "batches certified": certified,
        "certified and wrong": wrong,
        "ROUGE-L": round(sum(rouge) / len(rouge), 4),
        "reasons": {reason: number for reason, number in reasons.items() if reason},
        "cpu seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    """Run all and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with cola/")
    parser.add_argument("--networks", type=int, default=1, help="60 single sentences are dealt out to them")
    parser.add_argument("--cache", type=Path, help="folder of trained networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts, given = read_sentences(options.data / "cola" / "in_domain_train.tsv")
    tokenizer = train_tokenizer(texts, VOCABULARY)
    tokens, kept = encode(tokenizer, texts, TOKENS)
    labels = given[kept]
    lines: list[dict[str, Any]] = []
    where = machine()  # the commit before the file changes

    def keep(network: int, accuracy: float | None, width: int, line: dict[str, Any]) -> None:
        lines.append({"network": network, "accuracy": accuracy, "width": width, **line})
        print(json.dumps(lines[-1]), flush=True)
        content = {"benchmark": "sentences", **where, "tokens": TOKENS, "lines": lines}
        FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    wide = make_model("encoder", seed=0, vocabulary=tokenizer.get_vocab_size(), max_length=64, width=WIDE)
    for size, count in WIDE_BATCHES.items():
        own = slice(FIRST, FIRST + size * count)
        keep(0, None, WIDE, batches(wide, tokens[own], labels[own], size, count))
    for seed, rows in enumerate(torch.arange(FIRST, FIRST + VICTIMS).chunk(options.networks)):
        model = make_model("encoder", seed=seed, vocabulary=tokenizer.get_vocab_size(), max_length=64)
        model, phase = train_to(
            model,
            tokens[:TRAINED_ON],
            labels[:TRAINED_ON],
            epochs=EPOCHS,
            accuracy=ACCURACY,
            cache=options.cache,
        )
        some = slice(FIRST, FIRST + max(BATCHES) * BATCHES[max(BATCHES)])
        measured = [partial(singles, model, tokens[rows], labels[rows])]
        if seed == 0:
            measured += [
                partial(batches, model, tokens[some], labels[some], *each) for each in BATCHES.items()
            ]
        for measure in measured:
            keep(seed, phase.accuracy, 64, measure())


if __name__ == "__main__":
    main()
