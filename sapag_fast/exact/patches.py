"""One image behind a patch embedding with positions, by a system of linear equations.

A position that is added to its patch's token gets the gradient of that token, δ_p. The patch embedding's
gradient is Σ_p δ_p x_pᵀ = Δᵀ X, with Δ known from the positions: so the patches X follow wherever Δ has full
column rank, as it mostly has where the width is more than the number of patches. (As many do not do behind
normalisations, where each δ_p sums to zero.)

Source: Lu, Zhang, Zhao, Mao, Tang, Li, Lu, "APRIL: finding the Achilles' heel on privacy for vision
transformers" (2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.exact.first_linear import DoesNotApplyError
from sapag_fast.exact.reproduce import Reproduction, reproduce
from sapag_fast.runtime.randomness import forked
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

__all__ = ["PatchAnswer", "recover_patches"]

_SEED = 20240306
_SAME = 1e-4
"""The most by which a position's gradient differs from its token's, of the largest token's length."""
_SINGULAR = {torch.float64: 1e-11}
_SINGULAR_OTHERWISE = 1e-5
"""The least singular value of Δ, of the largest, that stands above its rounding."""
_DIFFERENCE = 1e-2
"""The most by which the gradient at the image differs from the target, of its length."""


@dataclass(frozen=True, eq=False)
class PatchAnswer:
    """What the patches' equations say of one victim.

    Attributes
    ----------
    inputs : Tensor or None
        ``[1, *input_shape]``; None where there is no answer.
    labels : Tensor or None
        ``[1]``: the one given, or the class whose gradient fits.
    condition : float
        Largest over smallest singular value of Δ: by how much the image may be less exact than the gradient.
    reproduction : Reproduction or None
        Of the target, at the image.
    reason : str
        Why there is no answer; empty where there is.
    """

    inputs: Tensor | None = None
    labels: Tensor | None = None
    condition: float = float("inf")
    reproduction: Reproduction | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Embedding:
    """A patch embedding, and the rows of positions that go with its patches.

    Attributes
    ----------
    module : nn.Conv2d
    weight, positions : int
        Where their gradients stand among the target's.
    axis : int
        The dimension of the positions that is as wide as a token.
    rows : Tensor
        ``[P]``, int64: of the positions, patch by patch.
    """

    module: nn.Conv2d
    weight: int
    positions: int
    axis: int
    rows: Tensor

    def flows(self, gradient: Tensor) -> Tensor:
        """Δ ``[P, width]`` in float64."""
        return _rows(gradient, self.axis)[self.rows].double()


def recover_patches(
    problem: Problem,
    victim: int,
    input_shape: Sequence[int],
    *,
    labels: Tensor | None = None,
    classes: int | None = None,
) -> PatchAnswer:
    """Solve for one victim's image.

    Parameters
    ----------
    problem : Problem
        With the targets, without joint labels; each target is the gradient of one image.
    victim : int
    input_shape : sequence of int
        ``(channels, height, width)``.
    labels : Tensor, optional
        ``[1]``, if it is known.
    classes : int, optional
        Otherwise any of so many.

    Returns
    -------
    PatchAnswer
        With an image only where the gradient there is the target, whose distance from it is said.

    Raises
    ------
    ValueError
        Without labels and classes.
    """
    if labels is None and classes is None:
        raise ValueError("labels, classes: expected one of them")
    device = next(iter(problem.parameters.values())).device
    with forked(device):
        torch.manual_seed(_SEED)
        try:
            embedding = _find_embedding(problem, tuple(input_shape))
            found, condition = _solve(problem, victim, embedding, tuple(input_shape))
            return _verified(problem, victim, found, condition, labels, classes)
        except DoesNotApplyError as refusal:
            return PatchAnswer(reason=str(refusal))


def _find_embedding(problem: Problem, input_shape: tuple[int, ...]) -> _Embedding:
    """Look for a patch embedding, and a parameter with its tokens' gradients, by a run on noise."""
    if problem.training is not None:
        raise DoesNotApplyError("local training of more than one step")
    if len(input_shape) != 3:
        raise DoesNotApplyError("inputs are no images")
    like = next(iter(problem.parameters.values()))
    chance = torch.Generator().manual_seed(_SEED)
    noise = torch.rand(1, *input_shape, generator=chance, dtype=torch.float64).to(like)
    module, flows, gradients = _run(problem, noise)
    named = dict(problem.model.named_parameters())
    weight = next((i for i, name in enumerate(problem.names) if named[name] is module.weight), None)
    if weight is None or problem.targets[weight] is None:
        raise DoesNotApplyError("the gradient of the patch embedding is not there")
    for index, gradient in enumerate(gradients):
        if gradient is None or problem.targets[index] is None or index == weight:
            continue
        for axis, size in enumerate(gradient.shape):
            if gradient.dim() < 2 or size != flows.shape[1]:
                continue
            rows = _matching_rows(flows, _rows(gradient.detach(), axis))
            if rows is not None:
                return _Embedding(module, weight, index, axis, rows)
    raise DoesNotApplyError(
        "no parameter of positions has a gradient that is there and is that of the tokens"
    )


def _run(problem: Problem, noise: Tensor) -> tuple[nn.Conv2d, Tensor, tuple[Tensor | None, ...]]:
    """The patch embedding, the gradient ``[P, width]`` of its tokens, and those of all parameters."""
    normal = problem.model if isinstance(problem.model, Normalised) else None
    fed = noise if normal is None else (noise - normal.mean) / normal.std
    tokens: list[tuple[nn.Conv2d, Tensor]] = []

    def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and given and torch.equal(given[0], fed):
            tokens.append((module, output))

    hooks = [m.register_forward_hook(note) for m in problem.model.modules() if isinstance(m, nn.Conv2d)]
    network = problem.network
    try:
        with torch.enable_grad():
            output = network.output(network.parameters, network.fresh_buffers(), noise)
            loss = problem.loss_fn(output, output.argmin(-1))
            patched = [(m, t) for m, t in tokens if _cuts_patches(m, fed)]
            if len(patched) != 1:
                raise DoesNotApplyError("no convolution cuts the input itself into patches")
            module, token = patched[0]
            wanted = (token, *network.parameters.values())
            flow, *gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    if flow is None:
        raise DoesNotApplyError("the loss does not depend on the patches")
    return module, flow[0].flatten(1).T, tuple(gradients)


def _cuts_patches(module: nn.Conv2d, fed: Tensor) -> bool:
    sides = zip(fed.shape[2:], module.kernel_size, strict=True)
    return (
        module.kernel_size == module.stride
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
        and all(side % kernel == 0 for side, kernel in sides)
    )


def _rows(gradient: Tensor, axis: int) -> Tensor:
    return gradient.movedim(axis, -1).flatten(0, -2)


def _matching_rows(flows: Tensor, rows: Tensor) -> Tensor | None:
    """For each token the row with its gradient, if every token has one of its own."""
    if len(rows) < len(flows):
        return None
    apart = torch.cdist(flows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.min(1)
    largest = torch.linalg.vector_norm(flows.double(), dim=1).max()
    if not bool((nearest.values <= _SAME * largest).all()) or len(nearest.indices.unique()) < len(flows):
        return None
    return nearest.indices


def _solve(
    problem: Problem, victim: int, embedding: _Embedding, input_shape: tuple[int, ...]
) -> tuple[Tensor, float]:
    """The image ``[1, *input_shape]`` of X in Δᵀ X = G, and Δ's condition."""
    of_weight, of_positions = (problem.targets[i] for i in (embedding.weight, embedding.positions))
    assert of_weight is not None
    assert of_positions is not None
    target = of_weight[victim].flatten(1).double()
    flows = embedding.flows(of_positions[victim])
    if not bool(target.isfinite().all() and flows.isfinite().all()):
        raise DoesNotApplyError("the gradient is not finite")
    count, width = flows.shape
    if count > width:
        raise DoesNotApplyError(
            f"{count} patches are more than the {width} equations of each of their pixels"
        )
    sizes = torch.linalg.svdvals(flows)
    least = _SINGULAR.get(of_positions.dtype, _SINGULAR_OTHERWISE)
    if not bool(sizes[-1] > least * sizes[0]):
        raise DoesNotApplyError("the gradients of the positions do not tell all patches apart")
    patches = torch.linalg.lstsq(flows.T.cpu(), target.cpu(), driver="gelsd").solution
    kernel = embedding.module.kernel_size
    image = F.fold(patches.T[None], input_shape[1:], kernel, stride=kernel).to(of_weight.device)
    if isinstance(problem.model, Normalised):
        image = image * problem.model.std.double() + problem.model.mean.double()
    return image.to(of_weight.dtype), float(sizes[0] / sizes[-1])


def _verified(
    problem: Problem, victim: int, found: Tensor, condition: float, labels: Tensor | None, classes: int | None
) -> PatchAnswer:
    """The answer, if it gives the target gradient."""
    tried = (
        [labels] if labels is not None else list(torch.arange(classes or 0, device=found.device).view(-1, 1))
    )
    each = [reproduce(problem, victim, found, label) for label in tried]
    best = min(range(len(each)), key=lambda i: each[i].difference)
    if not (each[best].difference <= _DIFFERENCE and each[best].factor > 0):
        raise DoesNotApplyError(
            f"the gradient at what fits the patch embedding differs by {each[best].difference:.1g} of the "
            "target's length"
        )
    return PatchAnswer(found, tried[best], condition, each[best])
