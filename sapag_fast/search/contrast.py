"""The inputs' contrast, which BatchNorm in training mode hides from distances and leaves in the gradient.

Behind the first convolution such a layer sees a picture's contrast in its eps alone: at a thousand times the
contrast the gradient has the same direction and the same length to four digits. What penalties make of the
contrast, and the way that the search has come, then decide it. But for each channel c, with weights W, their
gradient G, the layer's own weight γ and its gradient g::

    <W_c, G_c> = γ_c g_c eps / (v_c + eps)

holds exactly, v_c the variance of the channel over the batch: the gradient's small part along the weights is
the variances. The contrast of the inputs found is brought to them once a search has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sapag_fast.search.batch import Batch
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

__all__ = ["Contrast", "contrast_of"]

_BORNE = 1.05
"""At another contrast the distance may be so many times larger: else something else than eps sees it."""

_LEAST_CHANNELS = 4
_MOST_ERROR = 0.1
"""Of 1 / contrast², estimated from how far the channels disagree: 5 % of the contrast."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """What tells the contrast of a victim's inputs.

    Attributes
    ----------
    network : VictimModel
    norm : nn.Module
        BatchNorm in training mode, right behind the first layer.
    weight, scale : Tensor
        The first layer's weights ``[C, ...]`` and BatchNorm's ``[C]``.
    weight_targets, scale_targets : Tensor
        ``[V, C, ...]`` and ``[V, C]``, their gradients.
    centre : Tensor
        The inputs, ``[]`` or ``[channels, 1, ...]``, that the network takes for zeros.
    """

    network: VictimModel
    norm: _BatchNorm
    weight: Tensor
    scale: Tensor
    weight_targets: Tensor
    scale_targets: Tensor
    centre: Tensor

    def bring(self, batch: Batch, rows: Sequence[int], victims: Sequence[int]) -> None:
        """Bring the best iterates of a batch's rows to their victims' contrast, where the distance bears it.

        The matching has to be of these victims.
        """
        objective = batch.objective
        at = torch.tensor(rows, dtype=torch.long, device=batch.variables.device)
        best, restarts, age = batch.best_variables[at], batch.restarts[at], batch.age[at] - 1
        labels = objective.labels(best, batch.labels[at])
        found = objective.inputs(best, restarts)
        brought = self.rescaled(found, victims)
        variables = objective.variables(brought, labels, restarts)
        leading = age < batch.rest_at[at]
        seen = objective.evaluate(variables, labels, age, restarts, batch.scale[at], leading)
        moved = (brought != found).flatten(1).any(1) & (seen.distance <= _BORNE * batch.best_distance[at])
        batch.best_variables[at] = torch.where(moved[:, None], variables, best)
        batch.best[at] = torch.where(moved, seen.objective, batch.best[at])
        batch.best_distance[at] = torch.where(moved, seen.distance, batch.best_distance[at])

    def rescaled(self, inputs: Tensor, victims: Sequence[int]) -> Tensor:
        """Bring inputs ``[R, B, *input_shape]`` of these victims to their contrast.

        Rows whose victim's gradient does not tell it stay as they are, to the bit.
        """
        rows = [self._row(found, victim) for found, victim in zip(inputs, victims, strict=True)]
        return torch.stack(rows) if rows else inputs

    def _row(self, inputs: Tensor, victim: int) -> Tensor:
        factor = self.factor(self._variances(inputs), victim)
        return inputs if factor is None else self.centre + factor * (inputs - self.centre)

    def factor(self, variances: Tensor, victim: int) -> float | None:
        """By how much contrast lacks where the channels have these variances ``[C]``; None: not told.

        One factor is fitted to all channels, each with the weight that rounding in the gradient leaves it.
        """
        terms = (self.weight * self.weight_targets[victim]).detach().double().flatten(1)
        along = terms.sum(1)
        across = (self.scale * self.scale_targets[victim]).detach().double() - along
        seen, rounding = variances.double(), terms.square().sum(1)
        live = (seen > 0) & (rounding > 0)
        wanted = torch.where(live, self.norm.eps * across / seen, 0.0)
        trust = torch.where(live, 1.0 / rounding, 0.0)
        total = (trust * wanted.square()).sum()
        inverse = (trust * wanted * along).sum() / total  # 1 / contrast²
        left = (trust * (along - inverse * wanted).square()).sum() / (live.sum() - 1)
        enough = int(live.sum()) >= _LEAST_CHANNELS
        told = enough and inverse > 0 and (left / total).sqrt() <= _MOST_ERROR * inverse  # nan tells nothing
        return float(inverse.rsqrt()) if told else None

    def _variances(self, inputs: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with torch.no_grad(), _watched({self.norm: lambda given, _: seen.append(given)}):
            self.network.output(self.network.parameters, self.network.fresh_buffers(), inputs)
        channels = seen[0].transpose(0, 1).flatten(1)
        return channels.double().var(1, unbiased=False)


def contrast_of(problem: Problem, inputs: Tensor) -> Contrast | None:
    """Make it, where BatchNorm in training mode follows the first layer and both have their gradients.

    Parameters
    ----------
    problem : Problem
        What clients share has to be one gradient.
    inputs : Tensor
        ``[B, *input_shape]``, anything that the network takes.
    """
    network = problem.network
    if problem.training is not None or (found := _first_layers(network, inputs)) is None:
        return None
    layer, norm = found
    name_of = {id(parameter): name for name, parameter in network.module.named_parameters()}
    names = [name_of.get(id(module.weight)) for module in (layer, norm)]
    if any(name not in problem.parameters for name in names):
        return None
    weight, scale = (problem.parameters[str(name)] for name in names)
    weight_targets, scale_targets = (problem.targets[problem.names.index(str(name))] for name in names)
    if weight_targets is None or scale_targets is None or len(scale) < _LEAST_CHANNELS:
        return None
    module = network.module
    centre = module.mean if isinstance(module, Normalised) else inputs.new_zeros(())
    return Contrast(network, norm, weight, scale, weight_targets, scale_targets, centre)


def _first_layers(network: VictimModel, inputs: Tensor) -> tuple[nn.Module, _BatchNorm] | None:
    """The layer that takes the network's input, and BatchNorm that takes what it gives."""
    module = network.module
    inner = module.model if isinstance(module, Normalised) else module
    entered: list[Tensor] = []
    outputs: list[tuple[nn.Module, Tensor]] = []
    found: list[tuple[nn.Module, _BatchNorm]] = []

    def layer(child: nn.Module, given: Tensor, output: Tensor) -> None:
        if _same_numbers(given, entered[0]):
            outputs.append((child, output))

    def norm(child: _BatchNorm, given: Tensor) -> None:
        found.extend((first, child) for first, output in outputs if output is given)

    hooks: dict[nn.Module, Callable[[Tensor, Tensor], object]] = {}
    for child in inner.modules():
        if isinstance(child, nn.Linear | _ConvNd) and not isinstance(child, _ConvTransposeNd):
            hooks[child] = lambda given, output, child=child: layer(child, given, output)
        elif isinstance(child, _BatchNorm) and child.affine and child.training:
            hooks[child] = lambda given, output, child=child: norm(child, given)
    if not any(isinstance(child, _BatchNorm) for child in hooks):
        return None
    enter = inner.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    try:
        with torch.no_grad(), _watched(hooks):
            network.output(network.parameters, network.fresh_buffers(), inputs)
    finally:
        enter.remove()
    return found[0] if found else None


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether one is a view of all of the other: flattened, say."""
    return one.numel() == other.numel() and one.data_ptr() == other.data_ptr()


@contextmanager
def _watched(hooks: Mapping[nn.Module, Callable[[Tensor, Tensor], object]]) -> Iterator[None]:
    """Call each module's hook with what it is given and what it gives."""
    handles = [module.register_forward_hook(_hook(own)) for module, own in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(own: Callable[[Tensor, Tensor], object]) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        own(given[0], output)  # what it returns would take the output's place

    return hook
