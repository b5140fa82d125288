"""What an attack is given: network and loss, the target gradients, the distance between gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.surrogate import acting

__all__ = ["LossFunction", "Problem", "rebuilt"]

LossFunction = Callable[[Tensor, Tensor], Tensor]


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def rebuilt(distance: GradientDistance, *, batched: bool) -> GradientDistance:
    """The same distance with its own cache, for gradients with or without a leading recovery dimension."""
    return distance.copy(
        batched=batched,
        layer_weights=_one_row("layer_weights", distance.layer_weights),
        variance=_one_row("variance", distance.variance),
    )


def _one_row(name: str, rows: Tensor | None) -> Tensor | None:
    """Options by layer hold for all victims: recoveries are the attack's own business."""
    if rows is None or rows.dim() == 1:
        return rows
    if rows.shape[0] != 1:
        raise ValueError(f"distance: {name} must be one row for all victims, found shape {list(rows.shape)}")
    return rows[0]


@dataclass(frozen=True, eq=False)
class Problem:
    """What all ways to match gradients share: the victim's network, its loss, the targets and the distance.

    Gradients come from ``autograd.grad``, which writes to no ``.grad``.

    Attributes
    ----------
    network : VictimModel
        The victim's network. Parameters with ``requires_grad=False`` are left out of the matching.
    loss_fn : callable
        ``(output, labels) -> scalar``.
    distance : GradientDistance
        Kind and options; its own ``batched`` is not used.
    targets : sequence of Tensor or None
        ``[V, *parameter shape]``, one target gradient for each of V victims.
    restarts : int
        Recoveries for each victim: recovery r searches victim ``r // restarts``.
    joint : bool
        Labels are numbers to be optimised, of which `joint_targets` makes what the loss is given.
    joint_targets : callable
        ``[..., classes] -> [..., classes]``: cross-entropy's softmax, or another loss's own (see `Loss`).
    training : LocalTraining or None
        The targets are what clients share that trained like this; candidates are unrolled likewise. None:
        they are gradients.
    """

    network: VictimModel
    loss_fn: LossFunction
    distance: GradientDistance
    targets: Sequence[Tensor | None]
    restarts: int = 1
    joint: bool = False
    joint_targets: Callable[[Tensor], Tensor] = _probabilities
    training: LocalTraining | None = None

    @property
    def model(self) -> nn.Module:
        """The victim's module."""
        return self.network.module

    @property
    def names(self) -> list[str]:
        """Names of the parameters that take part, in order."""
        return self.network.names

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that take part, by name."""
        return self.network.parameters

    @property
    def victims(self) -> int:
        """V."""
        return next(entry.shape[0] for entry in self.targets if entry is not None)

    @property
    def parameters_count(self) -> int:
        """Elements of one target gradient."""
        return sum(entry[0].numel() for entry in self.targets if entry is not None)

    def rows(self) -> Tensor:
        """The victim of each recovery, ``[V x restarts]``, int64, victim by victim."""
        return torch.arange(self.victims).repeat_interleave(self.restarts)

    def targets_of(self, victims: Tensor) -> list[Tensor | None]:
        """Pick the targets of recoveries that search these victims (``[R]``, int64).

        ``[R, *parameter shape]``, or ``[1, ...]`` where all search the same one.
        """
        same = len(victims) == 0 or bool((victims == victims[0]).all())
        if not same and torch.equal(victims.cpu(), torch.arange(self.victims)):
            return list(self.targets)
        rows = victims[:1] if same else victims
        return [None if entry is None else entry[rows.to(entry.device)] for entry in self.targets]

    def loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
        sharpness: Tensor | None = None,
    ) -> Tensor:
        """The victim's loss on ``inputs [B, *input_shape]``; with `sharpness` (``[]``) of the surrogate."""
        with acting(sharpness):
            output = self.network.output(parameters, buffers, inputs)
        return self.loss_fn(output, self.as_targets(labels))

    def as_targets(self, labels: Tensor) -> Tensor:
        """What the loss is given for these labels ``[..., B, ...]``, or joint labels' numbers."""
        return self.joint_targets(labels) if self.joint else labels

    def leaves(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Detached inputs (and label logits) that the dummy gradient's graph starts from."""
        inputs = inputs.detach().requires_grad_()
        return [inputs, labels.detach().requires_grad_()] if self.joint else [inputs, labels]

    def trained(
        self,
        gradient: Callable[[dict[str, Tensor], Tensor, Tensor], Mapping[str, Tensor | None]],
        parameters: dict[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor | None]:
        """What a client shares of ``inputs [B, *input_shape]``, by name.

        Parameters
        ----------
        gradient : callable
            ``(parameters, inputs, labels)`` of one step to gradients, all by name.
        parameters : dict of str to Tensor
            Before the first step.
        inputs, labels : Tensor
            Of one recovery.
        """
        if self.training is None:
            return dict(gradient(parameters, inputs, labels))

        def step(now: dict[str, Tensor], rows: slice | None) -> Mapping[str, Tensor | None]:
            if rows is None:
                return gradient(now, inputs, labels)
            return gradient(now, inputs[rows], labels[rows])

        return self.training.shared(step, parameters, inputs.shape[0])

    def idle(self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None) -> frozenset[str]:
        """Names of parameters that take no part for one recovery: weight decay leaves them alone."""
        if self.training is None or not self.training.weight_decay:
            return frozenset()
        slopes = replace(self, training=None).gradients(inputs, labels, sharpness)
        return frozenset(name for name, slope in zip(self.names, slopes, strict=True) if slope is None)

    def gradients(
        self,
        inputs: Tensor,
        labels: Tensor,
        sharpness: Tensor | None = None,
        *,
        on_loss: Callable[[], None] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Dummy gradient of one recovery with its graph.

        Parameters
        ----------
        inputs, labels : Tensor
            ``[B, *input_shape]`` and ``[B, ...]``, or the logits of joint labels.
        sharpness : Tensor, optional
            ``[]``: through the surrogate.
        on_loss : callable, optional
            Called between the loss and its gradient.
        """

        def step(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> dict[str, Tensor | None]:
            loss = self.loss(parameters, self.network.fresh_buffers(), inputs, labels, sharpness)
            if on_loss is not None:
                on_loss()
            slopes = torch.autograd.grad(
                loss, tuple(parameters.values()), create_graph=True, allow_unused=True
            )
            return dict(zip(parameters, slopes, strict=True))

        with torch.enable_grad():
            if self.training is not None:
                return tuple(self.trained(step, self.parameters, inputs, labels).values())
            if self.network.moved or self.network.writes_buffers:
                loss = self.loss(self.parameters, self.network.fresh_buffers(), inputs, labels, sharpness)
            else:
                # Nothing to put in the module's place: its plain call saves functional_call's time, 10 % on a
                # LeNet.
                with acting(sharpness):
                    output = self.network.module(inputs)
                loss = self.loss_fn(output, self.as_targets(labels))
            if on_loss is not None:
                on_loss()
            return torch.autograd.grad(
                loss, tuple(self.parameters.values()), create_graph=True, allow_unused=True
            )
