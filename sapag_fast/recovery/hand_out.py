"""Victims whose searches have ended: checked where they are close, and handed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sapag_fast.exact.answer import Answer
from sapag_fast.recovery.cautions import cautions_of
from sapag_fast.recovery.certificate import Certifier
from sapag_fast.recovery.exact_answers import with_answers
from sapag_fast.recovery.identifiability import Identifiability, check_identifiability
from sapag_fast.recovery.joint_labels import with_joint_labels
from sapag_fast.recovery.result import Recovery, winners
from sapag_fast.search.loop import Ended
from sapag_fast.search.prepare import Attack
from sapag_fast.search.tasks import AttackResult

__all__ = ["HandOut"]


class HandOut:
    """Makes recoveries of what searches come to, and gives each victim's out as soon as it is known.

    A victim that is close enough to be certified waits for others, and all are checked at once: as many as
    run at once in the search, or what is left when it ends.

    Parameters
    ----------
    attack : Attack
    certifier : Certifier
    on_finished : callable or None
        Given a victim and its `Recovery`.
    answers : mapping of int to Answer, optional
        What arithmetic says of the victims; those that it solves are not searched.
    """

    def __init__(
        self,
        attack: Attack,
        certifier: Certifier,
        on_finished: Callable[[int, Recovery], object] | None,
        answers: Mapping[int, Answer] | None = None,
    ) -> None:
        self.answers = dict(answers or {})
        self.attack, self.certifier, self.on_finished = attack, certifier, on_finished
        self._waiting: dict[int, Recovery] = {}
        self._checks: dict[int, Identifiability] = {}

    def take(self, ended: Ended) -> None:
        """Hand out the victims that need no check, and the others once there are enough of them."""
        for victim in ended.victims:
            if victim in self._waiting:
                continue
            recovery = self.recovery(ended.result(victim), victim)
            if self._is_close(victim, float(recovery.distance[0])):
                self._waiting[victim] = recovery
            else:
                self._give(victim, recovery, ended)
        if self._waiting and (ended.last or len(self._waiting) >= self._at_once):
            self._check(ended)

    def whole(self, result: AttackResult) -> Recovery:
        """The recovery of all victims; of an interrupted search what has not been checked stays so."""
        recovery = self.recovery(result)
        close = [v for v, distance in enumerate(recovery.distance.tolist()) if self._is_close(v, distance)]
        left = [victim for victim in close if victim not in self._checks]
        if result.interrupted or not left:
            return recovery
        # They were handed out before a stop, by another process.
        self._look(left, recovery.inputs[left], recovery.labels[left], recovery.at_once)
        return self.recovery(result)

    def recovery(self, result: AttackResult, first: int = 0) -> Recovery:
        """Take the winners, with what is known of them; `first` is the number of the first victim."""
        problem = self.attack.problem
        recovery = winners(
            result,
            restarts=problem.restarts,
            recipe=self.attack.setup.recipe,
            certifier=self.certifier,
            checks=self._checks,
            labels_from=(self.attack.label_source, self.attack.label_reason),
            first=first,
        )
        if problem.joint:
            recovery = with_joint_labels(self.attack, recovery, first)
        recovery = with_answers(recovery, self.answers, first)
        found = (recovery.inputs, recovery.distance, recovery.scale)
        return replace(recovery, warnings=cautions_of(self.attack.setup, *found))

    @property
    def answered(self) -> frozenset[int]:
        """Victims whose inputs arithmetic gives, all of them."""
        return frozenset(victim for victim, answer in self.answers.items() if answer.whole)

    @property
    def _at_once(self) -> int:
        return max(recovery.at_once for recovery in self._waiting.values())

    def _is_close(self, victim: int, distance: float) -> bool:
        return victim not in self.answered and self.certifier.is_close(victim, distance)

    def _check(self, ended: Ended) -> None:
        """Check all that wait, and hand them out."""
        victims, found = list(self._waiting), list(self._waiting.values())
        inputs = torch.cat([recovery.inputs for recovery in found])
        labels = torch.cat([recovery.labels for recovery in found])
        self._look(victims, inputs, labels, self._at_once)
        self._waiting.clear()
        for victim in victims:
            self._give(victim, self.recovery(ended.result(victim), victim), ended)

    def _look(self, victims: Sequence[int], inputs: Tensor, labels: Tensor, at_once: int) -> None:
        # Half as many as in the search, whose state still takes memory.
        checks = check_identifiability(
            self.attack,
            victims,
            inputs,
            labels,
            certifies=max(self.certifier.thresholds[victim] for victim in victims),
            at_once=max(1, at_once // 2),
        )
        self._checks.update(zip(victims, checks, strict=True))

    def _give(self, victim: int, recovery: Recovery, ended: Ended) -> None:
        if self.on_finished is not None:
            self.on_finished(victim, recovery)
        ended.take(victim)
