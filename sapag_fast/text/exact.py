"""Sentences that follow from a gradient without a search: read off, then checked against the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sapag_fast.exact.reproduce import reproduce
from sapag_fast.runtime.randomness import forked
from sapag_fast.text.analytic import match_positions, span_test
from sapag_fast.text.bag import Bag
from sapag_fast.text.group import Group
from sapag_fast.text.network import Tables

__all__ = ["begin_at", "read_off"]

_DIFFERENCE = 1e-3
"""The most by which the gradient at the sentence differs from the target, of its length: rounding. On an
encoder that was trained until 99 % a wrong token makes 0.017 at the least."""

Target = Sequence[Tensor | None]


def begin_at(start: str, model: nn.Module, targets: Target, groups: Sequence[Group]) -> None:
    """Have every group begin at an analytic attack's sentences, unless `start` is ``random``."""
    for group in groups if start != "random" else ():
        sentences = []
        for victim in group.victims:
            own = _own(targets, victim)
            bag = None if group.bags is None else group.bags[victim]
            tables = group.attack.tables
            if start == "span":
                sentences.append(span_test(model, own, tables.word, group.length, bag))
            elif (found := _by_positions(own, tables, bag)) is not None:
                sentences.append(found)
            else:
                raise ValueError("start='positions': needs tokens='bag' and the gradients of both embeddings")
        group.begin_at(sentences)


def read_off(model: nn.Module, targets: Target, groups: Sequence[Group]) -> None:
    """Settle the victims of a sentence each that follows from the gradient, and say why the others' do not.

    The rows of both embeddings' gradients are compared, then the span test is made. A sentence counts where
    the gradient at it is the target, up to a positive factor: that of clients that clip or scale.
    """
    for group in groups:
        for index, victim in enumerate(group.victims):
            with forked(group.embedding.device):
                _settle(model, _own(targets, victim), group, index)


def _own(targets: Target, victim: int) -> list[Tensor | None]:
    return [None if entry is None else entry[victim] for entry in targets]


def _settle(model: nn.Module, target: Target, group: Group, index: int) -> None:
    victim, known = group.victims[index], group.attack.known
    if known.source[victim] == "unknown":
        group.refuse(index, f"its label is unknown: {known.reason[victim]}")
        return
    refusals, tried = [], list[Tensor]()
    for name, attack in _attacks(model, target, group, victim):
        try:
            sentence = attack()
        except ValueError as error:
            refusals.append(f"{name}: {str(error).partition(': ')[2]}")
            continue
        if sentence is None:
            refusals.append(f"{name}: needs the tokens' bag and the gradients of both embeddings")
        elif any(torch.equal(sentence, other) for other in tried):
            refusals.append(f"{name}: the same sentence")
        else:
            tried.append(sentence)
            refused = _refused(group, victim, sentence)
            if not refused:
                group.settle(index, sentence)
                return
            refusals.append(f"{name}: {refused}")
    group.refuse(index, "; ".join(refusals))


def _attacks(
    model: nn.Module, target: Target, group: Group, victim: int
) -> Iterator[tuple[str, Callable[[], Tensor | None]]]:
    """By name; each is to be asked for its sentence."""
    tables, bag = group.attack.tables, None if group.bags is None else group.bags[victim]
    yield "positions", lambda: _by_positions(target, tables, bag)
    yield "span", lambda: span_test(model, target, tables.word, group.length, bag)


def _by_positions(target: Target, tables: Tables, bag: Bag | None) -> Tensor | None:
    """`match_positions`' sentence; None where it lacks what it compares."""
    word, position = (
        None if entry is None else target[entry] for entry in (tables.word_entry, tables.position_entry)
    )
    if bag is None or word is None or position is None:
        return None
    return match_positions(word, position, bag, tables.first_position)


def _refused(group: Group, victim: int, sentence: Tensor) -> str:
    """Why a sentence's gradient is not the target; empty where it is."""
    labels = group.attack.labels[victim]
    found = reproduce(group.attack.problem, victim, group.embedding[sentence][None], labels)
    if not found.difference <= _DIFFERENCE:
        return f"the gradient at its sentence differs from the target by {found.difference:.2g} of it"
    if not found.factor > 0:
        return f"the target is {found.factor:.2g} times the gradient at its sentence"
    return ""
