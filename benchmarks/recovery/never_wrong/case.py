"""One case, what became of it, and what counts as announced."""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shared.victims import succeeded
from sapag_fast import data
from sapag_fast.data import read_mnist
from sapag_fast.recovery.result import Recovery
from sapag_fast.victim.cautions import CautionWarning

__all__ = [
    "ANNOUNCED",
    "RIGHT",
    "SILENT",
    "Case",
    "Outcome",
    "Victims",
    "judged_labels",
    "judged_pictures",
    "judged_warning",
]

RIGHT, ANNOUNCED, SILENT = "right", "announced", "WRONG WITHOUT A WORD"
_FIRST, _COUNT = 1400, 380
"""Of the bundled digits: those that nothing was set on."""
_MNIST_FIRST = 7300


@cache
def _bundled() -> tuple[Tensor, Tensor]:
    return data.digits()


@dataclass(frozen=True)
class Victims:
    """Where a case takes its pictures from.

    Attributes
    ----------
    folder : Path or None
        With MNIST in ``mnist/``; None: the bundled digits.
    """

    folder: Path | None = None

    def digits(self, case: str, count: int) -> tuple[Tensor, Tensor]:
        """``[count, 1, 28, 28]`` in [0, 1] and their labels, which the case's name decides."""
        at = zlib.crc32(case.encode()) % (_COUNT - count)
        if self.folder is not None:
            images, labels = read_mnist(
                self.folder / "mnist", first=_MNIST_FIRST + at, count=count, classes=10
            )
            return images, labels
        images, labels = _bundled()
        return images[_FIRST + at :][:count], labels[_FIRST + at :][:count]


@dataclass(frozen=True)
class Outcome:
    """What became of one victim.

    Attributes
    ----------
    verdict : str
        `RIGHT`, `ANNOUNCED` or `SILENT`.
    said : str
        What the tool said.
    """

    verdict: str
    said: str


@dataclass(frozen=True)
class Case:
    """A network, a target and what is right.

    Attributes
    ----------
    kind, name : str
        The name is unique.
    run : callable
        Gives one outcome for each victim. A refusal (TypeError, ValueError) is an announcement, and
        so is what PyTorch cannot compute (RuntimeError).
    """

    kind: str
    name: str
    run: Callable[[Victims], list[Outcome]]

    def outcomes(self, victims: Victims) -> list[Outcome]:
        """Run it; one outcome for each victim."""
        torch.manual_seed(zlib.crc32(self.name.encode()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CautionWarning)
            try:
                return self.run(victims)
            except (TypeError, ValueError, RuntimeError) as error:
                return [Outcome(ANNOUNCED, f"refused: {error}")]

    def line(self, victims: Victims) -> dict[str, str | int]:
        """Run it, and count."""
        outcomes = self.outcomes(victims)
        counts = Counter(outcome.verdict for outcome in outcomes)
        worst = next(verdict for verdict in (SILENT, ANNOUNCED, RIGHT) if counts[verdict])
        said = Counter(outcome.said for outcome in outcomes if outcome.verdict == worst).most_common(1)[0][0]
        return {
            "kind": self.kind,
            "case": self.name,
            "runs": len(outcomes),
            **{verdict: counts[verdict] for verdict in (RIGHT, ANNOUNCED, SILENT)},
            "verdict": worst,
            "said": said,
        }


def judged_pictures(found: Recovery, images: Tensor) -> list[Outcome]:
    """Of certificates: certified pictures ``[V, B, ...]`` must be right, and others say why they are not."""
    outcomes = []
    for victim, certificate in enumerate(found.certificate):
        if certificate.certified:
            good = succeeded(found.inputs[victim], images[victim])
            outcomes.append(Outcome(RIGHT if good else SILENT, "certified"))
        else:
            outcomes.append(_announced(certificate.reason, "unknown: "))
    return outcomes


def judged_labels(found: Recovery, labels: Tensor) -> list[Outcome]:
    """Of inferred labels ``[V, B, ...]``: wrong ones must not be called certain."""
    outcomes = []
    for mine, theirs, source, reason in zip(
        found.labels, labels, found.label_source, found.label_reason, strict=True
    ):
        if _same(mine, theirs):
            outcomes.append(Outcome(RIGHT, source))
        elif source in ("estimated", "unknown"):
            outcomes.append(_announced(reason, f"{source}: "))
        else:
            outcomes.append(Outcome(SILENT, f"{source} {mine.tolist()} for {theirs.tolist()}"))
    return outcomes


def judged_warning(found: Recovery, images: Tensor, kind: str) -> list[Outcome]:
    """Pictures ``[V, B, ...]`` that are wrong must come with a warning of that kind, or else uncertified."""
    outcomes = []
    for victim, picture in enumerate(found.inputs):
        told = [c for c in found.warnings if c.kind == kind and (not c.victims or victim in c.victims)]
        if succeeded(picture, images[victim]):
            outcomes.append(Outcome(RIGHT, "recovered, " + ("warned" if told else "no warning")))
        elif told:
            outcomes.append(_announced(told[0].message, f"warning {kind}: "))
        else:
            certificate = found.certificate[victim]
            reason = "" if certificate.certified else certificate.reason
            outcomes.append(_announced(reason, "no warning; unknown: "))
    return outcomes


def _announced(reason: str, before: str) -> Outcome:
    return Outcome(ANNOUNCED, before + reason) if reason else Outcome(SILENT, f"{before}no reason")


def _same(mine: Tensor, theirs: Tensor) -> bool:
    """Whether labels of one victim are the same; classes in any order, for that of a batch is not known."""
    if mine.is_floating_point() or theirs.is_floating_point():
        if mine.shape != theirs.shape:
            return False
        return bool((mine.double() - theirs.double()).abs().max() < _CLOSE)
    return sorted(mine.flatten().tolist()) == sorted(theirs.flatten().tolist())


_CLOSE = 0.02
"""Real targets that differ by less are the same."""


def verdicts(lines: Sequence[dict[str, str | int]]) -> dict[str, int]:
    """Runs of each verdict, over all lines."""
    return {verdict: sum(int(line[verdict]) for line in lines) for verdict in (RIGHT, ANNOUNCED, SILENT)}
