"""Labels behind what a client shares that has trained: inferred as from one gradient, as far as that goes.

The shared update is a w + (a sum of the steps' gradients), with w the weights before. Without a w, which the
settings tell, it is as of so many steps whose gradients were added up: the signs that tell labels stay, for
all its factors are positive. Counts take all inputs for alike, which mini-batches of other sizes, a momentum
and a schedule of rates make them not.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sapag_fast.victim.label_inference import Evidence
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.loss import Loss

__all__ = ["inferred_through"]

_UNEVEN = "inputs count differently in the update (momentum, rates or sizes of mini-batches)"
_UNORDERED = "labels come in ascending order, and which mini-batch each was in is not known"


def inferred_through(training: LocalTraining, loss: Loss, evidence: Evidence) -> KnownLabels:
    """Infer the labels ``[V, B, ...]`` behind the targets of `evidence`, which clients made in this way.

    Raises
    ------
    ValueError
        Where the last layer does not tell them.
    """
    inputs = evidence.batch_size
    steps, response = len(training.plan(inputs)), training.response(inputs)
    scale = steps / response.gradient
    network = evidence.network
    targets = evidence.target
    if response.parameters or abs(scale - 1.0) > 1e-9:
        weights = [network.parameters[name].detach() for name in network.names]
        targets = [
            None if target is None else _gradients(target, weight, response.parameters, scale)
            for target, weight in zip(targets, weights, strict=True)
        ]
    known = loss.infer(replace(evidence, target=targets, local_steps=steps))
    if inputs == 1:
        return known
    if not response.even:
        known = _without(known, "estimated", "unknown", _UNEVEN)
    if training.batches(inputs) > 1:
        for source in ("estimated", "inferred"):
            known = _without(known, source, "estimated", _UNORDERED)
    return known


def _gradients(target: Tensor, weight: Tensor, decayed: float, scale: float) -> Tensor:
    """The sum of the steps' gradients, ``[V, *parameter shape]``."""
    return ((target.double() - decayed * weight.double()) * scale).to(target.dtype)


def _without(known: KnownLabels, source: str, lesser: str, reason: str) -> KnownLabels:
    """The same labels, those of one source told to be of a lesser one, for this reason."""
    pairs = [
        (lesser, f"{why}; {reason}" if why else reason) if how == source else (how, why)
        for how, why in zip(known.source, known.reason, strict=True)
    ]
    sources, reasons = zip(*pairs, strict=True)
    return KnownLabels(known.labels, sources, reasons)
