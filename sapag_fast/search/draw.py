"""What a search begins with: starts and labels, given or drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.search.box import box_of
from sapag_fast.search.setup import Setup
from sapag_fast.search.starts import make_start
from sapag_fast.victim.label_inference import Evidence
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.local_labels import inferred_through
from sapag_fast.victim.losses import CrossEntropy
from sapag_fast.victim.problem import Problem

__all__ = ["check_loss", "draw_logits", "draw_starts", "known_labels"]

_NOISE_IMAGES = 64  # for the mean output that the label counts of a batch need


def draw_starts(setup: Setup, problem: Problem, generators: Sequence[torch.Generator]) -> Tensor:
    """Take the starts as given, or draw each with its own generator.

    Returns
    -------
    Tensor
        ``[V x restarts, B, *input_shape]``, victim by victim.
    """
    start, restarts = setup.options.start, problem.restarts
    if isinstance(start, Tensor):
        return check.check_start(
            start.detach().clone(), victims=problem.victims, restarts=restarts, shape=setup.shape
        )
    kinds = setup.recipe.starts
    of_victim = [kinds[k % len(kinds)] for k in range(restarts)] * problem.victims
    drawn = zip(of_victim, generators, strict=True)
    bounds = box_of(setup.options.bounds, setup.input_shape)
    return torch.stack([make_start(kind, setup.shape, bounds, g) for kind, g in drawn])


def draw_logits(setup: Setup, generators: Sequence[torch.Generator], restarts: int) -> Tensor:
    """Draw the numbers behind joint labels, normal, each with its own generator.

    But for cross-entropy they keep a distance of 1 from zero, and every second restart of a victim takes
    those of the one before, negated: a search hardly comes across the network's own output, on whose wrong
    side a target may begin.

    Returns
    -------
    Tensor
        ``[V x restarts, B, ...]``, of the output's shape.
    """
    shape = setup.loss.joint_shape(setup.probe.output)
    logits = [torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]
    if not isinstance(setup.loss, CrossEntropy):
        logits = [row + row.sign() for row in logits]
        second = [row % restarts % 2 for row in range(len(logits))]
        logits = [-logits[row - 1] if odd else logits[row] for row, odd in enumerate(second)]
    return torch.stack(logits).to(device=setup.device, dtype=setup.dtype)


def known_labels(labels: object, setup: Setup, problem: Problem, *, batched: bool) -> KnownLabels:
    """Infer the labels ``[V, B, ...]``, or check those that are given."""
    if isinstance(labels, str):
        if labels != "infer":
            raise ValueError(f"labels must be 'infer', 'joint' or a tensor, found {labels!r}")
        low, high = setup.bounds or (0.0, 1.0)
        shape = (_NOISE_IMAGES, *setup.input_shape)
        noise = torch.rand(shape, dtype=setup.dtype, device=setup.device) * (high - low) + low
        evidence = Evidence(setup.network, problem.targets, output=setup.probe.output, noise=noise)
        if problem.training is not None:
            return inferred_through(problem.training, setup.loss, evidence)
        return setup.loss.infer(evidence)
    given = check.check_labels(
        labels,
        victims=problem.victims,
        batch_size=setup.batch_size,
        batched=batched,
        classes=setup.probe.classes if isinstance(setup.loss, CrossEntropy) else None,
        device=setup.device,
    )
    return KnownLabels.alike(setup.loss.fitted(given, setup.probe.output), "given")


def check_loss(setup: Setup, labels: Tensor, *, joint: bool) -> None:
    """Try the loss on the probe's output and the labels ``[B, ...]`` of one search.

    Raises
    ------
    ValueError
        Where it rejects them, or does not give one number.
    """
    try:
        with torch.no_grad():
            targets = setup.loss.joint_targets(labels) if joint else labels
            value: object = setup.loss.function(setup.probe.output, targets)
    except Exception as error:
        raise ValueError(
            f"loss_fn rejects the model's output and the labels ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss_fn must return one number for the batch (a tensor of shape []), found {found}"
        )
