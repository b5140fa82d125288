"""What is found beside what is true, for the victims of which the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from sapag_fast.audit.result import Result
from sapag_fast.audit.truth import Truth, true_labels
from sapag_fast.files.fault import guarded
from sapag_fast.files.victims import ListedVictim
from sapag_fast.reports.finished import Finished
from sapag_fast.runtime.streams import shown, tell

__all__ = ["Scoring"]


class Scoring:
    """Scores results; what is wrong with one victim's truth leaves that one unscored, and is said.

    Parameters
    ----------
    victims : iterable of ListedVictim
    truth : Truth or None

    Attributes
    ----------
    unscored : dict of str to str
        Why a victim has no scores, by name; empty without `truth`.
    """

    def __init__(self, victims: Iterable[ListedVictim], truth: Truth | None) -> None:
        self.truth = truth
        self.unscored: dict[str, str] = {}
        self._victims = {victim.name: victim for victim in victims}
        self._labels: dict[str, Tensor | None] = {}
        faults: dict[str, str] = {}
        for victim in self._victims.values():
            with guarded(victim.name, faults):
                self._labels[victim.name] = true_labels(victim)
        _say("left out the true labels of", faults)
        if truth is not None:
            self._leave(truth.faults)

    def finished(self, name: str, result: Result) -> Finished:
        """Score the result, where that can be done."""
        labels, finished = self._labels.get(name), None
        if self.truth is not None and name not in self.unscored:
            faults: dict[str, str] = {}
            with guarded(name, faults):
                finished = result.finished(name, self.truth.of(self._victims[name]), labels)
            self._leave(faults)
        return finished or result.finished(name, None, labels)

    def success(self, name: str, result: Result) -> bool | None:
        """Tell whether the victim is recovered, or None where the truth is not known."""
        finished = self.finished(name, result)
        return finished.success if finished.scores else None

    def _leave(self, faults: Mapping[str, str]) -> None:
        new = {name: reason for name, reason in faults.items() if name not in self.unscored}
        _say("not scored", new)
        self.unscored |= new


def _say(what: str, faults: Mapping[str, str]) -> None:
    for name, reason in faults.items():
        tell(f"{what} {shown(name)}: {shown(reason)}")
