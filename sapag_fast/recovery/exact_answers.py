"""What arithmetic says of an attack's victims, before a search: answers, and their place in a recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.exact.answer import Answer
from sapag_fast.exact.solve import STARTS, Arithmetic
from sapag_fast.recovery.certificate import Certificate
from sapag_fast.recovery.result import EXACT, Recovery
from sapag_fast.search.prepare import Attack
from sapag_fast.victim.losses import CrossEntropy

__all__ = ["ARITHMETIC", "answers_of", "answers_to", "with_answers"]

ARITHMETIC = "arithmetic"
"""The family of certificates that rest on no measurement."""


def answers_of(attack: Attack) -> dict[int, Answer]:
    """What arithmetic says of each victim, by number; nothing where the options switch it off."""
    if attack.setup.options.exact == "off":
        return {}
    known = [
        attack.labels[victim * attack.problem.restarts] if how == "given" or _by_number(attack) else None
        for victim, how in enumerate(attack.label_source)
    ]
    return dict(enumerate(answers_to(attack, known)))


def answers_to(attack: Attack, labels: Sequence[Tensor | None], *, starts: int = STARTS) -> list[Answer]:
    """Solve all victims of an attack.

    Parameters
    ----------
    attack : Attack
    labels : sequence of Tensor or None
        For each victim its labels ``[B, ...]``; None: any class.
    starts : int
        The most starts of a batch's search for zeros.
    """
    problem, setup = attack.problem, attack.setup
    classes = setup.probe.classes if isinstance(setup.loss, CrossEntropy) else None
    if problem.joint and classes is None:
        return [Answer.none("labels are searched jointly, and are no classes")] * problem.victims
    with setup.conditions():
        arithmetic = Arithmetic(
            replace(problem, joint=False),
            setup.batch_size,
            setup.input_shape,
            classes=classes,
            starts=starts,
        )
        return [arithmetic.solve(victim, known) for victim, known in enumerate(labels)]


def with_answers(recovery: Recovery, answers: Mapping[int, Answer], first: int = 0) -> Recovery:
    """Put what arithmetic says in place of searches; `first` is the number of the recovery's first victim."""
    if not answers:
        return recovery
    mine = [answers[victim] for victim in range(first, first + len(recovery.distance))]
    recovery = replace(recovery, source_reason=tuple(answer.reason for answer in mine))
    for row, answer in enumerate(mine):
        if answer.whole:
            recovery = _with_answer(recovery, row, answer)
    return recovery


def _with_answer(recovery: Recovery, row: int, answer: Answer) -> Recovery:
    """One victim's inputs, labels, distance and certificate; its first restart has them too."""
    inputs, labels, found = answer.inputs, answer.labels, answer.reproduction
    assert inputs is not None
    assert labels is not None
    assert found is not None
    distance = torch.tensor(found.distance).to(recovery.distance)

    def put(rows: Tensor, value: Tensor, *at: int) -> Tensor:
        rows = rows.clone()
        rows[at] = value.to(rows)
        return rows

    source, reason = recovery.label_source[row], recovery.label_reason[row]
    if source not in ("given", "joint") and not answer.scaled:
        source, reason = "inferred", ""
    soft = recovery.soft_labels
    if soft is not None:
        soft = put(soft, F.one_hot(labels, soft.shape[-1]), row)
    restarts = recovery.restarts
    return replace(
        recovery,
        inputs=put(recovery.inputs, inputs, row),
        labels=put(recovery.labels, labels, row),
        label_source=_replaced(recovery.label_source, row, source),
        label_reason=_replaced(recovery.label_reason, row, reason),
        soft_labels=soft,
        source=_replaced(recovery.source, row, EXACT),
        distance=put(recovery.distance, distance, row),
        certificate=_replaced(recovery.certificate, row, _certificate(answer)),
        winner=put(recovery.winner, torch.tensor(0), row),
        restarts=replace(
            restarts,
            inputs=put(restarts.inputs, inputs, row, 0),
            distance=put(restarts.distance, distance, row, 0),
            matched=put(restarts.matched, distance, row, 0),
        ),
    )


def _certificate(answer: Answer) -> Certificate:
    status, words = "certified", f"determined by arithmetic, which reproduces the gradient: {answer.method}"
    if answer.doubt:
        status, words = "unknown", answer.doubt
    return Certificate(status, words, ARITHMETIC, measured_on="no measurement: it follows")


def _replaced(entries: tuple, row: int, entry: object) -> tuple:
    return (*entries[:row], entry, *entries[row + 1 :])


def _by_number(attack: Attack) -> bool:
    """Whether labels that were not given are none of classes, and must be taken as inferred."""
    return not attack.problem.joint and not isinstance(attack.setup.loss, CrossEntropy)
