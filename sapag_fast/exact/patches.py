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

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.exact.answer import DoesNotApplyError
from sapag_fast.exact.patch_embedding import PatchEmbedding
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

__all__ = ["METHOD", "Patches", "solve_patches"]

METHOD = "the patch embedding's gradient over that of the positions"
_SINGULAR = 8
"""The least singular value of Δ that stands above its rounding, in roundings of the largest."""
_ROUNDINGS = {torch.float64: 1000.0}
_ROUNDINGS_OTHERWISE = 3.0
"""What Δᵀ X may leave of the embedding's gradient, in roundings of its terms: at most 1.8 of one image in
float32, untrained and trained; two images that differ by 0.1 in one pixel leave 7 and more. (Float64 has the
solution's own rounding.)
"""


@dataclass(frozen=True, eq=False)
class Patches:
    """An image that fits the patch embedding.

    Attributes
    ----------
    image : Tensor
        ``[1, *input_shape]``.
    errors : Tensor
        ``[1]``: the largest standard error of its pixels.
    condition : float
        Largest over smallest singular value of Δ.
    """

    image: Tensor
    errors: Tensor
    condition: float


def solve_patches(
    problem: Problem, victim: int, embedding: PatchEmbedding, input_shape: Sequence[int]
) -> Patches:
    """Solve Δᵀ X = G for one victim's patches by least squares, in float64.

    Raises
    ------
    DoesNotApplyError
        Where the equations do not determine them.
    """
    of_weight, of_positions = (problem.targets[i] for i in (embedding.weight, embedding.positions))
    assert of_weight is not None
    assert of_positions is not None
    target = of_weight[victim].flatten(1).double().cpu()  # [width, pixels of a patch]
    flows = embedding.flows(of_positions[victim]).cpu()  # [P, width]
    if not bool(target.isfinite().all() and flows.isfinite().all()):
        raise DoesNotApplyError("the gradient is not finite")
    left, sizes, right = torch.linalg.svd(flows, full_matrices=False)
    if not bool(sizes[-1] > _SINGULAR * torch.finfo(of_positions.dtype).eps * sizes[0]):
        raise DoesNotApplyError("the gradients of the positions do not tell all patches apart")
    patches = left @ ((right @ target) / sizes[:, None])
    spread = _spread(flows, target, patches, of_weight.dtype)
    kernel = embedding.module.kernel_size
    image = F.fold(patches.T[None], tuple(input_shape[1:]), kernel, stride=kernel)
    errors = spread * (left / sizes).norm(dim=1).max()
    if isinstance(problem.model, Normalised):
        std = problem.model.std.double().cpu()
        image, errors = image * std + problem.model.mean.double().cpu(), errors * std.max()
    return Patches(image.to(of_weight), errors.view(1).to(of_weight), float(sizes[0] / sizes[-1]))


def _spread(flows: Tensor, target: Tensor, patches: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard deviation of the equations' errors, of the pixel in whose equations they are largest.

    Raises
    ------
    DoesNotApplyError
        Where they are more than rounding.
    """
    count, width = flows.shape
    rest = target - flows.T @ patches
    left = (rest.square().sum(0) / (width - count)).sqrt()
    rounding = torch.finfo(dtype).eps * (flows.abs().T @ patches.abs()).square().mean(0).sqrt()
    allowed = _ROUNDINGS.get(dtype, _ROUNDINGS_OTHERWISE)
    if not bool((left <= allowed * rounding).all()):
        most = float((left / rounding).max())
        raise DoesNotApplyError(
            "the patch embedding's gradient holds noise, pruning, half precision or more inputs: patches "
            f"leave {most:.2g} roundings of it"
        )
    return torch.maximum(left, rounding).max()
