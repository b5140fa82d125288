"""Images of one label behind one gradient: starts that tell them apart.

Where weights are small a network is close to linear, and a gradient close to a sum over images that knows the
sum of those of one label alone. A search comes to their average then, for the difference shows in the second
order only. The last linear layer holds that order in the open. Let the images of a batch have features
f_i = f + Δ_i, f the mean over the images of the same label, so that each label's Δ_i add up to zero. With
errors e_i = p_i - y_i the layer's weight gradient is the mean of e_i f_iᵀ, and to second order

    B (gradient - gradient of the averaged images) = S W C + (what the averages are still off by),
    C = Σ_i Δ_i Δ_iᵀ,   S = diag(p) - p pᵀ,   W the layer's weight.

What the averages are off by enters along the errors e of the labels that occur (from the left) and along
their features f (from the right). With both projected out, the right singular vectors span the Δ_i, and a
small least-squares problem gives C between them. C determines the Δ_i but for a rotation among the patterns
in which the images of the labels can differ: nothing is open for a single pair, and rotations are drawn where
there are more. The images move by the features' Jacobian: the smallest change, in the coordinates of
the search, that makes the Δ_i, slightly regularised.

What is left after the projections is small: the errors of a float32 gradient cover it where few classes are
free of labels (eight images, ten classes), those of a float64 one do not. No paper is behind this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from sapag_fast.search.basis import Basis
from sapag_fast.search.box import Box
from sapag_fast.search.priors import box_prior, total_variation
from sapag_fast.search.starts import recovery_generator

__all__ = ["Features", "has_equal_labels", "separating_starts"]

_ITERATIONS = 30  # of conjugate gradients, for each pattern and image
_DAMPING = 1e-3  # of the features' normal matrix, relative to it along the offset
_DRAWN = 200  # rotations from which a start is chosen
_JITTER = 0.03  # of the bounds' width; all that sets the later starts of a single pair apart


def has_equal_labels(labels: Tensor) -> Tensor:
    """Tell which victims have two images of one label, ``[V]``, bool, from labels ``[V, B]``."""
    ordered = labels.sort(-1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(-1)


def separating_starts(
    features: Features,
    gradient: Tensor,
    inputs: Tensor,
    labels: Tensor,
    *,
    basis: Basis,
    restarts: int,
    bounds: Box = (0.0, 1.0),
    seed: int = 0,
) -> Tensor:
    """Starts of a search that tells images of one label apart.

    Parameters
    ----------
    features : Features
        Of the victim's network.
    gradient : Tensor
        ``[V, classes, features]``, the target gradients of that layer's weight, of cross-entropy.
    inputs : Tensor
        ``[V, B, *input_shape]``, what a search has come to: averages where labels are equal.
    labels : Tensor
        ``[V, B]``, int64.
    basis : Basis
        Coordinates of the search, in which moves are as small as can be: those of natural images are smooth.
    restarts : int
        K starts of each victim.
    bounds : pair of float or Tensor
        Of the inputs.
    seed : int
        Of the rotations.

    Returns
    -------
    Tensor
        ``[V, K, B, *input_shape]``, of the inputs' type.

    Raises
    ------
    ValueError
        When that layer does not make the model's output.
    """
    starts = []
    for victim, (images, known, target) in enumerate(
        zip(inputs.double(), labels, gradient.double(), strict=True)
    ):
        groups = [(known == label).nonzero().flatten().tolist() for label in known.unique()]
        averaged = _averaged(images, groups)
        directions, root = _spread(features, averaged, known, groups, target * len(known))
        several = [group for group in groups if len(group) > 1]
        moves = _moves(features, averaged, several, directions, basis)
        for restart in range(restarts):
            generator = recovery_generator(seed, victim, restart)
            start = _likeliest(averaged, several, moves, root, bounds, generator)
            jitter = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start)
            starts.append(start + (_JITTER * (bounds[1] - bounds[0]) if restart else 0.0) * jitter)
    return torch.stack(starts).view(len(inputs), restarts, *inputs.shape[1:]).to(inputs.dtype)


class Features:
    """What enters the last linear layer, ``[N, features]``, for inputs ``[N, *input_shape]``, in float64.

    Parameters
    ----------
    model : nn.Module
        The victim's network, taken in evaluation mode; it is left as it is found.
    layer : str
        Name of the ``nn.Linear`` that makes the output.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.model, self.layer = copy.deepcopy(model).double().eval(), layer
        self.tail = cast(nn.Linear, self.model.get_submodule(layer))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the network as far as that layer."""
        seen: list[tuple[Tensor, Tensor]] = []

        def _note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen.append((given[0], made))

        hook = self.tail.register_forward_hook(_note)
        try:
            output = self.model(inputs)
        finally:
            hook.remove()
        if not seen or seen[-1][1] is not output:
            raise ValueError(f"model must give the output of its layer {self.layer!r}, found another one")
        return seen[-1][0]


def _likeliest(
    averaged: Tensor,
    groups: Sequence[Sequence[int]],
    moves: dict[int, Tensor],
    root: Tensor,
    bounds: Box,
    generator: torch.Generator,
) -> Tensor:
    """Of `_DRAWN` rotations the start ``[B, *input_shape]`` with the least total variation.

    A wrong one lays images over each other. Inputs that are not images leave the bounds least instead.
    """
    patterns, images = _patterns(groups).to(root), list(chain.from_iterable(groups))
    stacked = torch.stack([moves[image] for image in images])
    free = patterns.shape[1]
    drawn = 1 if free == 1 else _DRAWN
    rotations = torch.stack([_rotation(free, generator)[:, : root.shape[0]] for _ in range(drawn)]).to(root)
    offsets = torch.einsum("dik,ik...->di...", patterns @ rotations @ root, stacked)
    moved = averaged.repeat(drawn, *[1] * averaged.dim())
    moved[:, images] += offsets
    value, _ = total_variation(moved) if moved.dim() > 4 else box_prior(moved, *bounds)
    return moved[value.argmin()]


def _averaged(inputs: Tensor, groups: Iterable[Sequence[int]]) -> Tensor:
    averaged = inputs.clone()
    for group in groups:
        averaged[group] = inputs[group].mean(0, keepdim=True)
    return averaged


@torch.no_grad()
def _spread(
    features_of: Features, inputs: Tensor, labels: Tensor, groups: Sequence[Sequence[int]], gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions ``[k, features]`` in which images of one label differ, and the root ``[k, k]`` of C there.

    ``gradient`` is the sum over the images, ``[classes, features]``.
    """
    features, tail = features_of(inputs), features_of.tail
    probabilities = tail(features).softmax(-1)
    errors = probabilities - nn.functional.one_hot(labels, probabilities.shape[-1])
    first = [group[0] for group in groups]
    # Errors, probabilities too, add up to zero over the classes: nothing is there along the ones.
    known = torch.cat((errors[first].T, torch.ones_like(errors[:1]).T), 1)
    left, right = torch.linalg.qr(known).Q, torch.linalg.qr(features[first].T).Q
    rest = gradient - errors.T @ features
    rest = rest - left @ (left.T @ rest)
    rest = rest - (rest @ right) @ right.T
    free = max(1, min(len(labels) - len(groups), len(rest) - known.shape[1]))
    directions = torch.linalg.svd(rest, full_matrices=False).Vh[:free]
    mean = probabilities.mean(0)
    slope = (torch.diag(mean) - torch.outer(mean, mean)) @ tail.weight @ directions.T
    slope = slope - left @ (left.T @ slope)
    spread = torch.linalg.lstsq(slope, rest @ directions.T).solution
    values, vectors = torch.linalg.eigh((spread + spread.T) / 2)
    return directions, vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def _patterns(groups: Sequence[Sequence[int]]) -> Tensor:
    """Orthonormal patterns ``[images, k]`` that add up to zero in each of the groups, image after image."""
    blocks = []
    for group in groups:
        size = len(group)
        centred = torch.eye(size, dtype=torch.float64) - 1.0 / size
        blocks.append(torch.linalg.svd(centred).U[:, : size - 1])
    return torch.block_diag(*blocks)


def _rotation(size: int, generator: torch.Generator) -> Tensor:
    """A rotation ``[size, size]``, float64, uniform over all."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    orthogonal, triangular = torch.linalg.qr(drawn)
    return orthogonal * torch.diagonal(triangular).sign()


def _moves(
    features: Callable[[Tensor], Tensor],
    inputs: Tensor,
    groups: Iterable[Sequence[int]],
    directions: Tensor,
    basis: Basis,
) -> dict[int, Tensor]:
    """For each image of the groups its moves ``[k, *input_shape]``, along the directions of its features."""
    moves_of: dict[int, Tensor] = {}
    middle = basis.forward(torch.zeros_like(inputs[:1]))
    for group in groups:
        base = inputs[group[:1]]
        transposed = torch.func.vjp(features, base)[1]

        def pull(v: Tensor, transposed: Callable = transposed) -> Tensor:
            return basis.forward(basis.transpose(transposed(v[None])[0])) - middle

        def normal(v: Tensor, base: Tensor = base, pull: Callable = pull) -> Tensor:
            return torch.func.jvp(features, (base,), (pull(v),))[1][0]

        # Averages of one label are one image.
        moves = torch.stack([pull(_solve(normal, direction))[0] for direction in directions])
        moves_of |= dict.fromkeys(group, moves.detach())
    return moves_of


def _solve(normal: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
    """Damped conjugate gradients on the features' normal matrix."""
    damping = _DAMPING * (wanted @ normal(wanted)) / (wanted @ wanted)
    solution, residual = torch.zeros_like(wanted), wanted.clone()
    direction, square = residual.clone(), residual @ residual
    for _ in range(_ITERATIONS):
        turned = normal(direction) + damping * direction
        step = square / (direction @ turned)
        solution = solution + step * direction
        residual = residual - step * turned
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return solution
