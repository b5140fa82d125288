"""What every recovery minimises: distance of gradients plus penalties, in the search's coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.search.basis import Basis
from sapag_fast.search.box import Box
from sapag_fast.search.priors import box_prior, total_variation
from sapag_fast.search.recipe import Recipe

__all__ = ["Evaluation", "Objective"]


class Evaluation(NamedTuple):
    """Distance ``[R]``, distance in its scale plus penalties ``[R]``, gradient of the latter ``[R, N]``."""

    distance: Tensor
    objective: Tensor
    gradient: Tensor


class Objective:
    """Distance plus penalties of R recoveries, and the gradient toward their variables.

    Variables ``[R, N]`` are the coordinates of B inputs, with joint labels followed by the labels' logits.

    Parameters
    ----------
    matching : Matching
        Distances and their gradients.
    recipe : Recipe
        Evaluations and weights of the penalties.
    bases : sequence of Basis
        Coordinates of the search: restart k's are the k-th, and round again.
    bounds : pair of float, pair of Tensor or None
        The box of the penalty.
    shape : sequence of int
        ``[B, *input_shape]``.
    joint : bool
        Labels are searched too.
    """

    def __init__(
        self,
        matching: Matching,
        *,
        recipe: Recipe,
        bases: Sequence[Basis],
        bounds: Box | None,
        shape: Sequence[int],
        joint: bool = False,
    ) -> None:
        self.matching = matching
        self.recipe = recipe
        self.steps = recipe.steps
        self.bases = tuple(bases)
        self.bounds = bounds
        self.shape = tuple(shape)
        self.pixels = 1
        for size in shape:
            self.pixels *= size
        self.joint = joint

    def variables(self, inputs: Tensor, labels: Tensor, restarts: Tensor) -> Tensor:
        """Make variables ``[R, N]`` from inputs ``[R, B, *input_shape]`` (and the logits of joint labels).

        `restarts` ``[R]``, int64, tells which restart of its victim each row is.
        """
        flat = self._mapped([basis.inverse for basis in self.bases], inputs, restarts)
        flat = flat.reshape(inputs.shape[0], -1)
        return torch.cat((flat, labels.flatten(1)), 1) if self.joint else flat

    def inputs(self, variables: Tensor, restarts: Tensor) -> Tensor:
        """``[R, B, *input_shape]`` from variables."""
        coordinates = variables[:, : self.pixels].view(-1, *self.shape)
        return self._mapped([basis.forward for basis in self.bases], coordinates, restarts)

    def _mapped(
        self, maps: Sequence[Callable[[Tensor], Tensor]], tensors: Tensor, restarts: Tensor
    ) -> Tensor:
        """Each row of `tensors` ``[R, B, *input_shape]`` by the map of its restart's basis.

        All maps take all rows, so that nothing depends on which rows a batch happens to hold.
        """
        mapped = maps[0](tensors)
        for position, own in enumerate(maps[1:], 1):
            mine = (restarts % len(maps) == position).view(-1, *[1] * (tensors.dim() - 1))
            mapped = torch.where(mine, own(tensors), mapped)
        return mapped

    def labels(self, variables: Tensor, known: Tensor) -> Tensor:
        """The labels that go with the variables: with joint labels the logits, else the `known` ones."""
        return variables[:, self.pixels :].view_as(known) if self.joint else known

    def evaluate(
        self,
        variables: Tensor,
        known: Tensor,
        age: Tensor,
        restarts: Tensor,
        scale: Tensor,
        leading: Tensor,
    ) -> Evaluation:
        """Evaluate once.

        `age` ``[R]`` counts each recovery's evaluations so far, `restarts` ``[R]`` tells which restart of its
        victim it is, `scale` ``[R]`` what its distance is multiplied with, and `leading` ``[R]``, bool,
        whether total variation still leads.
        """
        inputs = self.inputs(variables, restarts)
        surrogate = self.recipe.surrogate
        sharp = () if surrogate is None else (surrogate.sharpness(age, self.steps),)
        distance, gradient, label_gradient = self.matching.value_and_gradient(
            inputs, self.labels(variables, known), *sharp
        )
        distance = distance.to(variables.dtype)
        objective = scale * distance
        gradient = gradient * scale.view(-1, *[1] * (gradient.dim() - 1))
        if self.recipe.box and self.bounds is not None:
            value, slope = box_prior(inputs, *self.bounds)
            objective = objective + self.recipe.box * value
            gradient = gradient.add(slope, alpha=self.recipe.box)
        if self.recipe.tv:
            value, slope = total_variation(inputs)
            weight = self._tv_weights(leading, restarts, value)
            objective = objective + weight * value
            gradient = torch.addcmul(gradient, slope, weight.view(-1, *[1] * (slope.dim() - 1)))
        flat = self._mapped([basis.transpose for basis in self.bases], gradient, restarts)
        flat = flat.reshape(variables.shape[0], -1)
        if label_gradient is not None:
            flat = torch.cat((flat, scale[:, None] * label_gradient.flatten(1)), 1)
        return Evaluation(distance, objective, flat)

    def distance(
        self, variables: Tensor, known: Tensor, restarts: Tensor, *, age: Tensor | None = None
    ) -> Tensor:
        """Distance ``[R]`` of the network itself; with `age` of what stands in for it in the search."""
        inputs, surrogate = self.inputs(variables, restarts), self.recipe.surrogate
        sharp = () if surrogate is None or age is None else (surrogate.sharpness(age, self.steps),)
        distance, _, _ = self.matching.value_and_gradient(inputs, self.labels(variables, known), *sharp)
        return distance.to(variables.dtype)

    def _tv_weights(self, leading: Tensor, restarts: Tensor, like: Tensor) -> Tensor:
        """``[R]``, each row's by its restart and whether it still leads.

        Constants alone are filled in: the device is not waited for.
        """
        recipe, count = self.recipe, len(self.recipe.tv_weights)
        weights = like
        for position in range(count):
            first, last = (
                like.new_full((), recipe.tv_of(position, leading=leads)) for leads in (True, False)
            )
            own = torch.where(leading, first, last)
            weights = own if position == 0 else torch.where(restarts % count == position, own, weights)
        return weights

    def clip(self, variables: Tensor) -> None:
        """Clamp the inputs to the bounds, in place, where the recipe says so."""
        if self.recipe.clip and self.bounds is not None:
            pixels = variables[:, : self.pixels].unflatten(1, self.shape)
            pixels.clamp_(*self.bounds)  # type: ignore[arg-type]
