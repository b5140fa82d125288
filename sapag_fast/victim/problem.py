"""What an attack is given: network and loss, the target gradients, the distance between gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.victim.surrogate import acting

__all__ = ["LossFunction", "Problem", "rebuilt"]

LossFunction = Callable[[Tensor, Tensor], Tensor]


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


class Problem:
    """What all implementations share: the victim's network, its loss, the targets and the distance.

    The user's module keeps its gradients, flags and running statistics: gradients come from
    ``autograd.grad``, which writes to no ``.grad``, and wherever a module could write to its buffers it is
    called with clones of them.

    Parameters
    ----------
    model : nn.Module
        The victim network. Parameters with ``requires_grad=False`` are left out of the matching.
    loss_fn : callable
        ``(output, labels) -> scalar``.
    distance : GradientDistance
        Kind and options; its own ``batched`` is not used.
    targets : sequence of Tensor or None
        ``[V, *parameter shape]``, one target gradient for each of V victims.
    restarts : int
        Recoveries for each victim: recovery r searches victim ``r // restarts``.
    joint : bool
        Labels are logits to be optimised; the loss sees their softmax.
    local_steps, local_lr : int, float
        The targets are sums of gradients over that many steps of gradient descent with this rate, all on the
        whole batch; dummy gradients are unrolled likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        distance: GradientDistance,
        targets: Sequence[Tensor | None],
        *,
        restarts: int = 1,
        joint: bool = False,
        local_steps: int = 1,
        local_lr: float = 0.0,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.distance = distance
        self.targets = list(targets)
        self.restarts = restarts
        self.joint = joint
        self.local_steps = local_steps
        self.local_lr = local_lr
        parameters = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        everything = {**parameters, **buffers}
        self.moved = device is not None and {t.device for t in everything.values()} != {torch.device(device)}
        self.names = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self.parameters = {name: self._place(parameters[name], device) for name in self.names}
        self.constants = {
            name: self._place(p, device) for name, p in parameters.items() if not p.requires_grad
        }
        self.buffers = {name: self._place(buffer, device) for name, buffer in buffers.items()}
        # Where each tensor has to be put, each place once: functional_call's own tying names a module that is
        # registered twice twice, and then does not restore it.
        known = {id(tensor): name for name, tensor in everything.items()}
        self.places = {
            f"{prefix}.{name}".removeprefix("."): known[id(tensor)]
            for prefix, module in model.named_modules()
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        # Only modules in training mode write to their buffers.
        self.writes_buffers = bool(self.buffers) and any(module.training for module in model.modules())

    def _place(self, tensor: Tensor, device: torch.device | str | None) -> Tensor:
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad) if self.moved else tensor

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
        """The targets of recoveries that search these victims (``[R]``, int64): ``[R, *parameter shape]``,
        or ``[1, ...]`` where all search the same one.
        """
        same = len(victims) == 0 or bool((victims == victims[0]).all())
        if not same and torch.equal(victims.cpu(), torch.arange(self.victims)):
            return list(self.targets)
        rows = victims[:1] if same else victims
        return [None if entry is None else entry[rows.to(entry.device)] for entry in self.targets]

    def output(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The network's output on ``inputs [B, *input_shape]``."""
        tensors = {**parameters, **self.constants, **buffers}
        state = {place: tensors[name] for place, name in self.places.items()}
        return functional_call(self.model, state, (inputs,), tie_weights=False)

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
            output = self.output(parameters, buffers, inputs)
        return self.loss_fn(output, labels.softmax(-1) if self.joint else labels)

    def leaves(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Detached inputs (and label logits) that the dummy gradient's graph starts from."""
        inputs = inputs.detach().requires_grad_()
        return [inputs, labels.detach().requires_grad_()] if self.joint else [inputs, labels]

    def pull_back(
        self,
        distance: GradientDistance,
        gradients: Sequence[Tensor | None],
        targets: Sequence[Tensor | None],
        leaves: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Distance of `gradients` to `targets`, and its gradient toward `leaves`."""
        dummy = [
            None if target is None else torch.zeros_like(target) if gradient is None else gradient.detach()
            for gradient, target in zip(gradients, targets, strict=True)
        ]
        value, weights = distance.distance_and_gradient(dummy, targets)
        roots = [
            (gradient, weight)
            for gradient, weight in zip(gradients, weights, strict=True)
            if weight is not None and gradient is not None and gradient.requires_grad
        ]
        if roots:
            outputs, flows = zip(*roots, strict=True)
            wanted = leaves if self.joint else leaves[:1]
            pulled = torch.autograd.grad(outputs, wanted, flows, allow_unused=True)
        if not roots or pulled[0] is None:
            raise ValueError("the model's gradient does not depend on its input: nothing to recover from")
        if not self.joint:
            return value, pulled[0], None
        return value, pulled[0], torch.zeros_like(leaves[1]) if pulled[1] is None else pulled[1]

    def fresh_buffers(self) -> dict[str, Tensor]:
        """Buffers for one forward of one recovery: clones wherever a module could write to them."""
        return {n: b.clone() for n, b in self.buffers.items()} if self.writes_buffers else self.buffers

    def over_local_steps(
        self, gradient: Callable[[dict[str, Tensor]], dict[str, Tensor | None]], parameters: dict[str, Tensor]
    ) -> dict[str, Tensor | None]:
        """The sum of what `gradient` gives by name, for the parameters at each of the local steps."""
        total = last = gradient(parameters)
        for _ in range(self.local_steps - 1):
            parameters = {
                name: tensor if last[name] is None else tensor - self.local_lr * last[name]
                for name, tensor in parameters.items()
            }
            last = gradient(parameters)
            total = {name: part if part is None else part + last[name] for name, part in total.items()}
        return total

    def gradients(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """Dummy gradient of one recovery with its graph; ``inputs [B, *input_shape]``; with `sharpness`
        (``[]``) through the surrogate.
        """

        def step(parameters: dict[str, Tensor]) -> dict[str, Tensor | None]:
            loss = self.loss(parameters, self.fresh_buffers(), inputs, labels, sharpness)
            found = torch.autograd.grad(
                loss, tuple(parameters.values()), create_graph=True, allow_unused=True
            )
            return dict(zip(parameters, found, strict=True))

        with torch.enable_grad():
            if self.local_steps > 1:
                return tuple(self.over_local_steps(step, self.parameters).values())
            if self.moved or self.writes_buffers:
                loss = self.loss(self.parameters, self.fresh_buffers(), inputs, labels, sharpness)
            else:
                # Nothing to put in the module's place: its plain call saves functional_call's time, 10 % on a
                # LeNet.
                with acting(sharpness):
                    output = self.model(inputs)
                loss = self.loss_fn(output, labels.softmax(-1) if self.joint else labels)
            return torch.autograd.grad(
                loss, tuple(self.parameters.values()), create_graph=True, allow_unused=True
            )
