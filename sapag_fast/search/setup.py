"""A victim's network as an attack meets it: checked, tried once, with its recipe and its distance."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.runtime.denormals import flushed_denormals
from sapag_fast.runtime.memory import check_memory
from sapag_fast.runtime.randomness import forked
from sapag_fast.search.basis import Basis, make_basis
from sapag_fast.search.box import Box, box_of
from sapag_fast.search.capacity import kept_bytes
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe
from sapag_fast.victim.cautions import (
    Caution,
    averaged_caution,
    find_cautions,
    order_caution,
    trial_inputs,
)
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.losses import Loss, find_loss
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import Normalised, normalised
from sapag_fast.victim.probe import Probe, RejectedInputsError, probe
from sapag_fast.victim.problem import Problem
from sapag_fast.victim.searchable import Searchable, causes_named, searchable

__all__ = ["Setup", "set_up"]

_MANY = 64  # inputs of a batch, before which two are tried
_PASSES, _GRADIENTS = 12, 4
"""What an evaluation holds at most, in outputs of one forward pass and in gradients, with a good margin:
ResNet-18 and ViT-B/16 take a quarter of it in explicit mode, half of it by plain autograd."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A victim's network as an attack meets it.

    Attributes
    ----------
    network : VictimModel
        With the normalisation in front, where there is one.
    loss : Loss
        With what belongs to it.
    input_shape : tuple of int
        Of one input, without the batch.
    batch_size : int
        Inputs behind one gradient, B.
    options : SearchOptions
        As given.
    recipe : Recipe
        The recipe in force.
    distance : GradientDistance
        The distance in force.
    probe : Probe
        What one forward pass told.
    told : tuple of Caution
        What in the model's or the target's numbers makes recoveries worse than they look.
    joint : bool
        Whether labels are searched together with the inputs.
    """

    network: VictimModel
    loss: Loss
    input_shape: tuple[int, ...]
    batch_size: int
    options: SearchOptions
    recipe: Recipe
    distance: GradientDistance
    probe: Probe
    told: tuple[Caution, ...] = ()
    joint: bool = False

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters, gradients and inputs."""
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return next(iter(self.network.parameters.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(B, *input_shape)``."""
        return (self.batch_size, *self.input_shape)

    @cached_property
    def bounds(self) -> Box | None:
        """The box of the inputs, by channel on the device."""
        return box_of(self.options.bounds, self.input_shape, device=self.device, dtype=self.dtype)

    @property
    def most_bytes(self) -> int:
        """Bytes of one search, by a generous estimate: an evaluation's, and what it keeps between two."""
        gradients = sum(parameter.nbytes for parameter in self.network.parameters.values())
        return _PASSES * self.probe.nbytes + _GRADIENTS * gradients + self._pairs_bytes

    @property
    def _pairs_bytes(self) -> int:
        """Bytes of one search's pairs of L-BFGS, or of Adam's moments."""
        recipe = self.recipe
        pairs = 2 * min(recipe.history, recipe.steps) if recipe.optimizer == "lbfgs" else 2
        return pairs * math.prod(self.shape) * self.dtype.itemsize

    def check_searches(self, victims: int, restarts: int) -> None:
        """Refuse more or larger searches than memory bears, before any is drawn: by arithmetic alone.

        Raises
        ------
        ValueError
            Naming the arguments.
        """
        recipe = self.recipe
        needed = victims * restarts * kept_bytes(self.shape, recipe, self.dtype)
        needed += self._pairs_bytes  # of one search under way
        arguments = f"restarts {restarts}, steps {recipe.steps}, {_batch(self.input_shape, self.batch_size)}"
        check_memory(f"{victims} victim(s), {arguments}", needed, self.options.max_memory, self.device)

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of a search but for its random numbers: attention and denormals; given back as they were.

        Raises
        ------
        NoSecondDerivativeError
            In place of PyTorch's errors about parts of the network that have none.
        """
        flush = self.recipe.surrogate is not None and self.device.type == "cpu"
        # The fused attention kernels cannot be differentiated twice.
        with causes_named(), sdpa_kernel(SDPBackend.MATH), flushed_denormals(flush):
            yield

    @cached_property
    def bases(self) -> tuple[Basis, ...]:
        """Coordinates of the search, for the restarts in turn.

        Raises
        ------
        ValueError
            For a basis that does not fit the inputs.
        """
        options = {"bounds": self.bounds, "device": self.device, "dtype": self.dtype}
        return tuple(make_basis(name, self.input_shape, **options) for name in self.recipe.bases)

    @cached_property
    def cautions(self) -> tuple[Caution, ...]:
        """What in the network's mode makes recoveries worse than they look."""
        inputs = trial_inputs(self.network, self.input_shape, self.batch_size)
        averaged = averaged_caution(self.options.averaged_batches or 1)
        module = self.network.module
        model = module.model if isinstance(module, Normalised) else module
        training = self.training
        order = () if training is None else order_caution(training, self.batch_size, joint=self.joint)
        return (*find_cautions(self.network, inputs, model), *averaged, *order, *self.told)

    @property
    def training(self) -> LocalTraining | None:
        """How the client trained; None where what it shared is its gradient."""
        training = self.options.training
        return None if training is None or training.is_gradient(self.batch_size) else training

    def problem(self, targets: Sequence[Tensor | None], *, restarts: int = 1, joint: bool = False) -> Problem:
        """Add the target gradients ``[V, *parameter shape]``."""
        return Problem(
            self.network,
            self.loss.function,
            self.distance,
            list(targets),
            restarts=restarts,
            joint=joint,
            joint_targets=self.loss.joint_targets,
            training=self.training,
        )


def set_up(
    model: nn.Module | Searchable,
    input_shape: Sequence[int],
    *,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    options: SearchOptions | None = None,
) -> Setup:
    """Check, try the network once, and settle recipe and distance.

    A network with dropout draws from the global generators: to be called within `seeded` or `forked`.

    Parameters
    ----------
    model, input_shape, loss_fn, batch_size, device
        As for `recover`.
    options : SearchOptions, optional
        None: all from the recipe.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    options = options or SearchOptions()
    found = model if isinstance(model, Searchable) else searchable(model)
    model = found.model
    chosen, _ = check.check_model(model, device)
    shape = check.check_shape(input_shape)
    box_of(options.bounds, shape)  # refused now
    batch_size = check.check_count("batch_size", batch_size)
    if options.training is not None:
        options.training.plan(batch_size)  # refused now
    layers = model_layers(model, options.layers)
    loss = find_loss(loss_fn)
    network = VictimModel(normalised(model, options.mean, options.std, shape, chosen), device)
    _check_size(network, shape, batch_size, options)
    tried = probe(network, shape, batch_size)
    loss.check_output(tried.output)
    recipe = options.settled(shape, batch_size, piecewise_linear=tried.piecewise_linear)
    distance = options.distance
    if not isinstance(distance, GradientDistance):
        kind = options.kind_of(recipe)
        distance = GradientDistance(kind, bandwidth=recipe.bandwidth, layers=None if kind.merged else layers)
    setup = Setup(network, loss, shape, batch_size, options, recipe, distance, tried, found.cautions)
    setup.check_searches(1, options.restarts)
    return setup


def _check_size(
    network: VictimModel, shape: tuple[int, ...], batch_size: int, options: SearchOptions
) -> None:
    """Raise ValueError for a batch that memory does not bear, before it is allocated.

    What the network makes of it is told by two inputs, where there are many.
    """
    like = next(iter(network.parameters.values()))
    argument = _batch(shape, batch_size)
    numbers, kept = batch_size * math.prod(shape), 8 + 3 * like.element_size()  # start, inputs, slope, best
    check_memory(argument, numbers * kept, options.max_memory, like.device)
    if batch_size > _MANY:
        with contextlib.suppress(RejectedInputsError), forked(like.device):
            tried = probe(network, shape, 2)
            needed = tried.nbytes * batch_size // 2
            check_memory(argument, needed, options.max_memory, like.device)


def _batch(shape: tuple[int, ...], batch_size: int) -> str:
    return f"input_shape {list(shape)}, batch_size {batch_size}"
