"""A victim's result as an audit keeps it on disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.finished import RECOVERED, Finished, scored
from sapag_fast.search.options import SearchOptions

__all__ = ["Result"]

_TENSORS = {"inputs", "labels", "history"}
_REPORTED = {"name", "certificate", "distance", "evaluations", "status"}
"""Details without which a result cannot be reported."""

_MEASURED = {"family", "threshold", "precision", "interval", "below", "measured_on"}
"""What a certificate that certifies says beside its status."""

_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_STATUSES = ("finished", "non-finite", "interrupted")


@dataclass(frozen=True)
class Result:
    """A finished victim.

    Attributes
    ----------
    inputs : Tensor
        ``[B, *input_shape]``; ``[1, T]``, int64, of a sentence.
    labels : Tensor
        ``[B]``, int64; of other losses than cross-entropy the targets, ``[B, K]``.
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
            "scale": finished.details["scale"],
            "seed": search.seed,
            "source": finished.details["source"],
            "source_reason": finished.details["source_reason"],
            "status": finished.status,
            "warnings": finished.details["warnings"],
            "winner": finished.details["winner"],
            **finished.labels_from,
        }
        assert finished.labels is not None  # a recovery has labels always
        labels = finished.labels
        if labels.is_floating_point():
            labels = labels.reshape(len(labels), -1)  # so that targets are not taken for classes
        return cls(finished.inputs, labels, history[:made], details)

    @staticmethod
    def has_all_parts(tensors: Collection[str], details: Mapping[str, Any]) -> bool:
        """Whether a file with tensors and details of these names is a result, whole or damaged."""
        return set(tensors) == _TENSORS and details.keys() >= _REPORTED

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All three, by name."""
        return {"inputs": self.inputs, "labels": self.labels, "history": self.history}

    def check(self, shape: Sequence[int] | None = None) -> None:
        """Check that every part is of such a type and shape as a search gives it.

        Parameters
        ----------
        shape : sequence of int, optional
            ``(B, *input_shape)``; None: any.

        Raises
        ------
        ValueError
            Naming the part.
        """
        inputs, labels, history, details = self.inputs, self.labels, self.history, self.details
        fits = inputs.dim() > 1 and inputs.numel() > 0 if shape is None else inputs.shape == tuple(shape)
        kinds = (torch.int64,) if "sentence" in details else _FLOATING
        right = {
            "inputs": inputs.dtype in kinds and fits,
            "labels": _are_classes(labels, inputs) or _are_targets(labels, inputs),
            "history": history.dtype in _FLOATING and history.dim() == 1,
            "certificate": _is_certificate(details["certificate"]),
            "distance": details["distance"] is None or _is_number(details["distance"]),
            "evaluations": type(details["evaluations"]) is int and 0 <= details["evaluations"] < 2**63,
            "status": details["status"] in _STATUSES,
            "gradient_sha256": isinstance(details.get("gradient_sha256", ""), str),
        }
        if wrong := [part for part, as_it_should_be in right.items() if not as_it_should_be]:
            raise ValueError(f"its {' and '.join(wrong)}: not what a search gives")

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
            label_source=self.details.get("label_source", ""),
            label_reason=self.details.get("label_reason", ""),
            details={"source": self.details.get("source", "")},
            truth=truth,
            true_labels=labels,
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf  # type: ignore[operator]


def _is_certificate(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, Mapping) or value.get("status") not in ("certified", "unknown"):
        return False
    return value["status"] == "unknown" or value.keys() >= _MEASURED


def _are_classes(labels: Tensor, inputs: Tensor) -> bool:
    return labels.dtype == torch.int64 and labels.shape == inputs.shape[:1]


def _are_targets(labels: Tensor, inputs: Tensor) -> bool:
    finite = labels.is_floating_point() and bool(labels.isfinite().all())
    return finite and labels.dim() == 2 and labels.shape[:1] == inputs.shape[:1]
