"""The patch embedding that is fed the input itself, and the parameter that holds its tokens' gradients.

A position that is added to its patch's token gets the gradient of that token, whatever its name and shape.
One run on noise tells which parameter does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.exact.answer import DoesNotApplyError
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

__all__ = ["PatchEmbedding", "find_patch_embedding"]

_SEED = 20240306
_SAME = 1e-4
"""The most by which a position's gradient differs from its token's, of the largest token's length."""
_MORE_ROWS = 64
"""Positions beyond those of the patches, such as a class token's."""
_FAR = 1000.0
_NO_PATCHES = "no convolution cuts the input itself into patches"


@dataclass(frozen=True, eq=False)
class PatchEmbedding:
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


def find_patch_embedding(problem: Problem, input_shape: Sequence[int]) -> PatchEmbedding:
    """Look for a patch embedding, and a parameter with its tokens' gradients, by a run on noise.

    To be called where random numbers may be drawn. Networks without such a convolution are not run.

    Raises
    ------
    DoesNotApplyError
        Where there is none, or its gradients are not there.
    """
    if problem.training is not None:
        raise DoesNotApplyError("local training of more than one step")
    if len(input_shape) != 3:
        raise DoesNotApplyError("inputs are no images")
    if not any(_may_cut(module, input_shape) for module in problem.model.modules()):
        raise DoesNotApplyError(_NO_PATCHES)
    like = next(iter(problem.parameters.values()))
    chance = torch.Generator().manual_seed(_SEED)
    noise = torch.rand(1, *input_shape, generator=chance, dtype=torch.float64).to(like)
    try:
        module, weight, flows, gradients = _run(problem, noise)
    except (DoesNotApplyError, MemoryError):
        raise
    except Exception as error:  # networks and users' code fail in as many ways as there are
        if is_out_of_memory(error):
            raise
        raise DoesNotApplyError(f"a run on noise fails ({type(error).__name__})") from error
    for index, gradient in enumerate(gradients):
        if gradient is None or problem.targets[index] is None or index == weight:
            continue
        for axis, size in enumerate(gradient.shape):
            if gradient.dim() < 2 or size != flows.shape[1]:
                continue
            rows = _matching_rows(flows, _rows(gradient.detach(), axis))
            if rows is not None:
                return PatchEmbedding(module, weight, index, axis, rows)
    raise DoesNotApplyError(
        "no parameter of positions has a gradient that is there and is that of the tokens"
    )


def _run(problem: Problem, noise: Tensor) -> tuple[nn.Conv2d, int, Tensor, tuple[Tensor | None, ...]]:
    """The patch embedding, its weight's place, the gradient ``[P, width]`` of its tokens, and all others."""
    with torch.no_grad():  # a clamp or an absolute value in between leaves pictures alone, and these not
        far = _embedded(problem, _FAR * (2 * noise - 1))[0]
    module = far[0]
    count, width = far[1][0, 0].numel(), far[1].shape[1]
    if count >= width:
        raise DoesNotApplyError(
            f"{count} patches leave none of the {width} equations of each of their pixels for a check"
        )
    named = dict(problem.model.named_parameters())
    weight = next((i for i, name in enumerate(problem.names) if named[name] is module.weight), None)
    if weight is None or problem.targets[weight] is None:
        raise DoesNotApplyError("the gradient of the patch embedding is not there")
    with torch.enable_grad():
        (again, token), output = _embedded(problem, noise)
        if module is not again:
            raise DoesNotApplyError(_NO_PATCHES)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output).cos()
        # Any function of the output will do: tokens and positions stay alike.
        loss = (output * weights.to(output)).sum()
        wanted = (token, *problem.network.parameters.values())
        flow, *gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    if flow is None:
        raise DoesNotApplyError("the output does not depend on the patches")
    return module, weight, flow[0].flatten(1).T, tuple(gradients)


def _embedded(problem: Problem, inputs: Tensor) -> tuple[tuple[nn.Conv2d, Tensor], Tensor]:
    """The one convolution that cuts the input itself into patches, with its tokens; and the output."""
    normal = problem.model if isinstance(problem.model, Normalised) else None
    fed = inputs if normal is None else (inputs - normal.mean) / normal.std
    seen: list[tuple[nn.Conv2d, Tensor]] = []

    def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and given and torch.equal(given[0], fed):
            seen.append((module, output))

    patching = [module for module in problem.model.modules() if _may_cut(module, fed.shape)]
    hooks = [module.register_forward_hook(note) for module in patching]
    network = problem.network
    try:  # with a copy: networks may change what they are given
        output = network.output(network.parameters, network.fresh_buffers(), inputs.clone())
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != 1:
        raise DoesNotApplyError(_NO_PATCHES)
    return seen[0], output


def _may_cut(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether patches of more than a pixel, side by side, are what a convolution takes of such an input."""
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels == shape[-3]
        and module.kernel_size == module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
        and all(side % kernel == 0 for side, kernel in zip(shape[-2:], module.kernel_size, strict=True))
    )


def _rows(gradient: Tensor, axis: int) -> Tensor:
    return gradient.movedim(axis, -1).flatten(0, -2)


def _matching_rows(flows: Tensor, rows: Tensor) -> Tensor | None:
    """For each token the row with its gradient, if every token has one of its own."""
    if not len(flows) <= len(rows) <= len(flows) + _MORE_ROWS:
        return None
    apart = torch.cdist(flows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.min(1)
    largest = torch.linalg.vector_norm(flows.double(), dim=1).max()
    if not bool((nearest.values <= _SAME * largest).all()) or len(nearest.indices.unique()) < len(flows):
        return None
    return nearest.indices
