"""One victim's recovery as results report it: what a search found, beside the truth where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.metrics import Scores, assign, score
from sapag_fast.reports.pictures import is_image
from sapag_fast.victim.cautions import Caution

__all__ = ["RECOVERED", "Finished", "scored", "warnings_of"]

RECOVERED = "recovered"
"""What the one method of a report is called."""


@dataclass(frozen=True)
class Finished:
    """One victim's recovery, scored where the truth is known.

    Attributes
    ----------
    name : str
        Of the victim; files are named after it (see `Report`).
    group : str
        Recoveries of one group are shown together.
    method : str
    inputs : Tensor
        ``[B, *input_shape]``.
    labels : Tensor or None
        ``[B]``, or of other losses than cross-entropy ``[B, ...]``.
    label_source, label_reason : str
        How labels were obtained and why that is not surer (see `Recovery`); empty where that is not known.
    distance : float
    evaluations : int
    seconds : float
        Wall time.
    status : str
    truth : Tensor or None
        ``[B, *input_shape]``, in any order.
    true_labels : Tensor or None
        ``[B]``, in the order of `truth`.
    certificate : mapping or None
        A `Certificate`, as a mapping.
    details : mapping
        Further entries of ``results.json``.
    order : tuple of int
        For each recovered image its true one.
    scores : tuple of Scores
        B, or none where the truth is not known.
    """

    name: str
    group: str
    method: str
    inputs: Tensor
    labels: Tensor | None
    distance: float
    evaluations: int
    seconds: float
    status: str
    truth: Tensor | None = None
    true_labels: Tensor | None = None
    certificate: Mapping[str, Any] | None = None
    label_source: str = ""
    label_reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[Scores, ...] = field(init=False)
    order: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        order: list[int] = []
        if self.truth is not None:
            classes = self.labels is not None and self.labels.dim() == 1
            order = assign(self.inputs, self.truth, self.labels if classes else None, self.true_labels)
        scores = (
            tuple(score(self.inputs[k], self.truth[i]) for k, i in enumerate(order))
            if self.truth is not None
            else ()
        )
        object.__setattr__(self, "order", tuple(order))
        object.__setattr__(self, "scores", scores)

    @property
    def success(self) -> bool:
        """Whether every image of the victim is recovered (`SUCCESS_MEANS`); False without the truth."""
        return bool(self.scores) and all(image.success for image in self.scores)

    @property
    def labels_from(self) -> dict[str, str]:
        """Source and reason of the labels, as results and audits keep them; empty where unknown."""
        if not self.label_source:
            return {}
        return {"label_source": self.label_source, "label_reason": self.label_reason}

    def file_endings(self) -> list[str]:
        """Tell what the picture of each image has behind the victim's name; none without images."""
        if not is_image(self.inputs.shape[1:]):
            return []
        if len(self.inputs) == 1:
            return [".png"]
        return [f"-{position:02d}.png" for position in range(len(self.inputs))]

    def as_json(self, stem: str) -> dict[str, Any]:
        """Give the victim's entry in ``results.json``; its pictures' names begin with the stem."""
        files = [f"{stem}{ending}" for ending in self.file_endings()]
        images = []
        for position in range(len(self.inputs)):
            image: dict[str, Any] = {"file": files[position] if files else None}
            image["label"] = None if self.labels is None else self.labels[position].tolist()
            if self.scores:
                image |= {"truth": self.order[position], **asdict(self.scores[position])}
                if self.true_labels is not None:
                    image["true_label"] = int(self.true_labels[self.order[position]])
            images.append(image)
        known = {"recovered": self.success} if self.scores else {}
        return {
            "name": self.name,
            "group": self.group,
            "method": self.method,
            "status": self.status,
            "distance": self.distance,
            "evaluations": self.evaluations,
            "seconds": round(self.seconds, 4),
            **known,
            **self.labels_from,
            **({} if self.certificate is None else {"certificate": self.certificate}),
            **self.details,
            "images": images,
        }


def scored(
    recovery: Recovery,
    victim: int,
    name: str,
    *,
    seconds: float = 0.0,
    truth: Tensor | None = None,
    true_labels: Tensor | None = None,
    details: Mapping[str, Any] | None = None,
) -> Finished:
    """Take one victim out of a recovery, and score it where the truth is known.

    Parameters
    ----------
    recovery : Recovery
        Of R victims.
    victim : int
        In 0..R-1.
    name : str
        What the victim is called.
    seconds : float
        Wall time that its search took.
    truth : Tensor, optional
        ``[B, *input_shape]``, in any order.
    true_labels : Tensor, optional
        ``[B]``, in the order of `truth`.
    details : mapping, optional
        Further entries of ``results.json``.

    Returns
    -------
    Finished
        On the CPU, with its certificate, and how it was searched as details.
    """
    return Finished(
        name=name,
        group=name,
        method=RECOVERED,
        inputs=recovery.inputs[victim].cpu(),
        labels=recovery.labels[victim].cpu(),
        distance=float(recovery.distance[victim]),
        evaluations=int(recovery.evaluations[victim]),
        seconds=seconds,
        status=recovery.status[victim],
        truth=truth,
        true_labels=true_labels,
        certificate=asdict(recovery.certificate[victim]),
        label_source=recovery.label_source[victim],
        label_reason=recovery.label_reason[victim],
        details={
            "source": recovery.source[victim],
            "source_reason": recovery.source_reason[victim],
            "winner": int(recovery.winner[victim]),
            "mode": recovery.mode,
            "mode_reason": recovery.mode_reason,
            "recipe": asdict(recovery.recipe),
            "scale": float(recovery.scale[victim]),
            "warnings": warnings_of(recovery.warnings, victim),
            **(details or {}),
        },
    )


def warnings_of(cautions: Iterable[Caution], victim: int) -> list[dict[str, Any]]:
    """Those of one victim, as ``results.json`` holds them."""
    return [
        {part: entry for part, entry in asdict(caution).items() if part != "victims"}
        for caution in cautions
        if not caution.victims or victim in caution.victims
    ]
