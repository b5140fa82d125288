"""A victim's result as an audit keeps it on disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.finished import RECOVERED, Finished, scored
from sapag_fast.search.options import SearchOptions

__all__ = ["Result"]

_REPORTED = {"name", "certificate", "distance", "evaluations", "status"}
"""Details without which a result cannot be reported."""


@dataclass(frozen=True)
class Result:
    """A finished victim.

    Attributes
    ----------
    inputs : Tensor
        ``[B, *input_shape]``.
    labels : Tensor
        ``[B]``, int64.
    history : Tensor
        ``[E]``, the winning restart's distance at each of its evaluations.
    details : mapping
        The rest, as JSON holds it: no time stamps, nothing of the machine's load.
    """

    inputs: Tensor
    labels: Tensor
    history: Tensor
    details: Mapping[str, Any]

    @classmethod
    def of(cls, recovery: Recovery, name: str, gradient_sha256: str, search: SearchOptions) -> Result:
        """Take the one victim of a recovery, and what identifies its search."""
        finished = scored(recovery, 0, name)
        history = recovery.history[:, 0].cpu()
        made = int((~history.isnan()).nonzero().max()) + 1 if not history.isnan().all() else 0
        details = {
            "certificate": finished.certificate,
            "distance": finished.distance,
            "evaluations": finished.evaluations,
            "gradient_sha256": gradient_sha256,
            "mode": finished.details["mode"],
            "recipe": finished.details["recipe"],
            "restarts": search.restarts,
            "seed": search.seed,
            "status": finished.status,
            "winner": finished.details["winner"],
        }
        assert finished.labels is not None  # a recovery has labels always
        return cls(finished.inputs, finished.labels, history[:made], details)

    @staticmethod
    def is_whole(tensors: Collection[str], details: Mapping[str, Any]) -> bool:
        """Whether a file with these tensors and details holds a result."""
        return set(tensors) == {"inputs", "labels", "history"} and details.keys() >= _REPORTED

    def finished(self, name: str, truth: Tensor | None, labels: Tensor | None) -> Finished:
        """Score the result against the truth ``[B, *input_shape]`` and the true labels, where known."""
        distance = self.details["distance"]
        return Finished(
            name=name,
            group=name,
            method=RECOVERED,
            inputs=self.inputs,
            labels=self.labels,
            distance=math.inf if distance is None else distance,
            evaluations=self.details["evaluations"],
            seconds=0.0,
            status=self.details["status"],
            certificate=self.details["certificate"],
            truth=truth,
            true_labels=labels,
        )
