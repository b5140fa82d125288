"""Explicit mode is used only once it has agreed with plain autograd on two recoveries.

Their targets are gradients of the network's own: whatever a victim shares, it decides nothing for others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sapag_fast.matching.explicit.derived_weights import private_copy
from sapag_fast.matching.explicit.matching import ExplicitMatching
from sapag_fast.matching.explicit.rules import NotCovered
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.runtime.randomness import forked
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

__all__ = ["verified_matching"]

_TOLERANCE = {torch.float64: 1e-7}
_LOOSE = 1e-3
"""Relative disagreement that passes: by dtype, and for all others."""
_NEGLIGIBLE = 1e-4  # of the whole gradient's norm: what lies below need not have digits
_ROUNDED = 64 * torch.finfo(torch.float64).eps  # of distances, and of gradients' directions
_NOISE = 0.25  # of the starts' size: two recoveries must differ for a coupling of theirs to show


class _Disagreement(NotCovered):
    """Explicit mode and autograd give different numbers."""


def verified_matching(
    problem: Problem,
    inputs: Tensor,
    labels: Tensor,
    *,
    victims: Tensor,
    recoveries: int | None = None,
    sharpness: Tensor | None = None,
    isolated: bool = False,
) -> ExplicitMatching:
    """Explicit mode for these recoveries, ready to run, once it has agreed with autograd.

    Parameters
    ----------
    problem, inputs, labels, victims, recoveries, sharpness
        As of `choose_matching`.
    isolated : bool
        As of `ExplicitMatching`.

    Raises
    ------
    NotCovered
        If explicit mode does not apply; the message says why.
    """
    try:
        matching = ExplicitMatching(problem, recoveries=recoveries, isolated=isolated)
        matching.retarget(victims)
        matching.network.check(inputs)
        matching.value_and_gradient(inputs, labels, sharpness)
        rows = sorted({0, inputs.shape[0] - 1})
        sharp = None if sharpness is None else _different(sharpness[rows])
        known = labels[rows]
        own = _own_targets(problem, _probe(inputs[rows], 1), known)
        tried = ExplicitMatching(own, recoveries=recoveries, isolated=isolated)
        tried.network.memory_format = matching.network.memory_format
        _verify(tried, _probe(inputs[rows], 0), known, sharp)
    except NotCovered:
        raise
    # What a stranger's module does not bear on a larger batch shows in many ways.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise NotCovered(f"explicit mode fails on the model ({type(error).__name__}: {error})") from error
    return matching


def _own_targets(problem: Problem, inputs: Tensor, labels: Tensor) -> Problem:
    """The problem with the network's gradients at `inputs`, each row a victim, as targets."""
    with forked(inputs.device):
        each = [problem.gradients(*problem.leaves(*row)) for row in zip(inputs, labels, strict=True)]
    targets = [
        None if t is None else torch.stack([torch.zeros_like(t[0]) if g is None else g.detach() for g in own])
        for t, own in zip(problem.targets, zip(*each, strict=True), strict=True)
    ]
    return replace(problem, targets=targets, restarts=1)


def _probe(starts: Tensor, seed: int) -> Tensor:
    """Different inputs of about the same size as `starts`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(starts.shape, generator=generator, dtype=torch.float64)
    size = starts.square().mean().sqrt()
    return starts + _NOISE * torch.where(size > 0, size, 1.0) * noise.to(starts)


def _different(sharpness: Tensor) -> Tensor:
    """Recoveries may be in different stages."""
    return sharpness * torch.arange(1, len(sharpness) + 1, device=sharpness.device)


def _verify(matching: ExplicitMatching, inputs: Tensor, labels: Tensor, sharpness: Tensor | None) -> None:
    """Raise NotCovered where the two ways differ by more than rounding."""
    try:
        _compare(matching, inputs, labels, sharpness)
        return
    except _Disagreement:
        if inputs.dtype == torch.float64:
            raise
    _compare_in_double(matching, inputs, labels, sharpness)


def _compare(matching: ExplicitMatching, inputs: Tensor, labels: Tensor, sharpness: Tensor | None) -> None:
    probe = _rows_of(matching)
    with _without_dropout(matching.network.model):
        ours = matching.value_and_gradient(inputs, labels, sharpness)
        dummy = matching.dummy_gradients(inputs, labels, sharpness)
    theirs = SequentialMatching(probe).value_and_gradient(inputs, labels, sharpness)
    tolerance = _TOLERANCE.get(inputs.dtype, _LOOSE)
    for row in range(inputs.shape[0]):
        leaves = probe.leaves(inputs[row], labels[row])
        expected = probe.gradients(
            leaves[0], leaves[1], sharpness=None if sharpness is None else sharpness[row]
        )
        _compare_parameters(matching, [None if d is None else d[row] for d in dummy], expected, tolerance)
    # Deep smooth networks' gradients are so alike that the difference has few digits left.
    lost = min(_LOOSE, _ROUNDED / float(theirs[0].double().min().clamp(min=_ROUNDED**2).sqrt()))
    for what, mine, other in zip(("distance", "input", "labels"), ours, theirs, strict=True):
        if mine is not None and other is not None:
            floor = _ROUNDED / tolerance if what == "distance" else 0.0
            error = _relative(mine, other, torch.tensor(floor))
            if not error <= max(tolerance, lost):
                raise _Disagreement(
                    f"explicit mode and autograd disagree on the gradient toward the {what} ({error:.1e})"
                )


def _compare_parameters(
    matching: ExplicitMatching,
    dummy: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    tolerance: float,
) -> None:
    """Refuse the first parameter whose dummy gradient is not what autograd says."""
    rules = matching.rules
    present = [e.detach() for e in expected if e is not None]
    floor = _NEGLIGIBLE * torch.stack([torch.linalg.vector_norm(e) for e in present]).norm()
    for index, mine in enumerate(dummy):
        if mine is None:
            continue
        wanted = expected[index]
        theirs = torch.zeros_like(mine) if wanted is None else wanted.detach()
        if index in rules:
            rule, local = rules[index]
            theirs = rule.layout(local, theirs[None])[0]
        error = _relative(mine, theirs.view(mine.shape), floor)
        if not error <= tolerance:
            name = matching.problem.names[index]
            raise _Disagreement(
                f"explicit mode and autograd disagree on the gradient of {name!r} ({error:.1e})"
            )


def _relative(mine: Tensor, theirs: Tensor, floor: Tensor) -> float:
    if torch.equal(mine, theirs):
        return 0.0
    norm = torch.linalg.vector_norm(theirs.double())
    difference = torch.linalg.vector_norm(mine.double() - theirs.double())
    return float(difference / torch.maximum(norm, floor.to(norm)))


def _rows_of(matching: ExplicitMatching) -> Problem:
    """A problem whose recoveries are the rows that `matching` has now, without dropout."""
    problem, assignment = matching.problem, matching.assignment
    network = problem.network
    if any(_is_active(module) for module in problem.model.modules()):
        model = private_copy(problem.model)
        for module in model.modules():
            module.training = module.training and not _is_active(module)
        device = next(iter(problem.parameters.values())).device if network.moved else None
        network = VictimModel(model, device)
    if assignment.shared:
        return replace(problem, network=network, restarts=assignment.rows)
    targets = [None if t is None else t[assignment.victims] for t in problem.targets]
    return replace(problem, network=network, targets=targets, restarts=1)


def _compare_in_double(
    matching: ExplicitMatching,
    inputs: Tensor,
    labels: Tensor,
    sharpness: Tensor | None,
) -> None:
    """The same in float64, where rounding is no excuse.

    An ill-conditioned network may disagree with itself in float32.
    """
    rows = _rows_of(matching)
    double = Problem(
        VictimModel(private_copy(rows.model).double()),
        rows.loss_fn,
        rows.distance,
        [None if t is None else t.double() for t in rows.targets],
        restarts=rows.restarts,
        joint=rows.joint,
        joint_targets=rows.joint_targets,
    )
    if labels.is_floating_point():
        labels = labels.double()
    _compare(ExplicitMatching(double), inputs.double(), labels, sharpness)


def _is_active(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Random numbers cannot be compared."""
    active = [module for module in model.modules() if _is_active(module)]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True
