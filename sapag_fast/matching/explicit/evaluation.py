"""One forward and backward pass of all recoveries: what its layers noted, and the pass back from there."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sapag_fast.matching.explicit.network import Capture
from sapag_fast.matching.explicit.rules import LayerCall
from sapag_fast.matching.explicit.watch import SUMS_PART, LayerWatch, told_apart

__all__ = ["Evaluation", "Flow", "Use"]

Flow = tuple[Tensor | None, Tensor | None]
"""Derivatives of D toward a call's a and b; None where there is none."""


class Use(NamedTuple):
    """One call of a layer that has a parameter, with the layer's own name for the parameter."""

    position: int
    call: LayerCall
    local: str


class Evaluation:
    """What explicit mode works on outside of autograd.

    Parameters
    ----------
    captures : sequence of Capture
        Of the layers' calls that reach the loss.
    arrived : sequence of Tensor
        The gradients of their outputs, with their graph.
    inputs : Tensor
        ``[R, B, *input_shape]``.
    scratch : dict
        Memory by call, kept from one evaluation to the next.
    watch : callable, optional
        Who is told of each layer's work.

    Attributes
    ----------
    calls : list of LayerCall
        What the rules work on: a and b ``[R, rows, ...]`` without their graph.
    """

    def __init__(
        self,
        captures: Sequence[Capture],
        arrived: Sequence[Tensor],
        inputs: Tensor,
        scratch: dict[int, dict[str, Tensor]],
        watch: LayerWatch | None,
    ) -> None:
        self.captures, self.arrived, self.inputs, self.watch = captures, arrived, inputs, watch
        recoveries = inputs.shape[0]
        self.calls: list[LayerCall] = []
        for position, (capture, b) in enumerate(zip(captures, arrived, strict=True)):
            call = told_apart(watch, capture.name, SUMS_PART, capture.rule.call)(
                capture.module,
                capture.a.detach().unflatten(0, (recoveries, -1)),
                b.detach().unflatten(0, (recoveries, -1)),
                wants_a=capture.a.requires_grad,
                wants_b=b.requires_grad,
            )
            call.scratch = scratch.setdefault(position, {})
            self.calls.append(call)

    def uses(self, wanted: Container[int]) -> dict[int, list[Use]]:
        """The calls that use each of the `wanted` parameters, by the parameter's position."""
        uses: dict[int, list[Use]] = {}
        for position, (capture, call) in enumerate(zip(self.captures, self.calls, strict=True)):
            for local, index in capture.parameters.items():
                if index in wanted:
                    uses.setdefault(index, []).append(Use(position, call, local))
        return uses

    def rows(self, use: Use) -> tuple[Tensor, Tensor]:
        """A ``[R, N, K]`` and B ``[R, N, O]`` of a matrix's use."""
        return told_apart(self.watch, self.captures[use.position].name, SUMS_PART, use.call.rows)(use.local)

    def from_rows(self, use: Use, toward_rows: Flow) -> Flow:
        """Derivatives toward a use's rows as derivatives toward its call's a and b."""
        layer = self.captures[use.position].name
        return told_apart(self.watch, layer, SUMS_PART, use.call.from_rows)(*toward_rows)

    def formed(self, targets: Mapping[int, Tensor]) -> list[Tensor]:
        """Form dummy gradients ``[R, *shape]``; those of several uses add up.

        Parameters
        ----------
        targets : mapping of int to Tensor
            Of the wanted parameters, ``[V, *shape]``: theirs is the shape where no call reached a parameter.
        """
        formed: dict[int, Tensor] = {}
        for capture, call in zip(self.captures, self.calls, strict=True):
            names = [local for local, index in capture.parameters.items() if index in targets]
            if not names:
                continue
            gradients = told_apart(self.watch, capture.name, SUMS_PART, call.gradients)(names)
            for local, gradient in gradients.items():
                index = capture.parameters[local]
                formed[index] = formed[index] + gradient if index in formed else gradient
        recoveries = self.inputs.shape[0]
        return [
            formed[index] if index in formed else self.inputs.new_zeros(recoveries, *target.shape[1:])
            for index, target in targets.items()
        ]

    def flows(self, weights: Mapping[int, Tensor], by_rows: Mapping[int, Sequence[Flow]]) -> list[Flow]:
        """For each call the derivatives of D toward its a and b.

        Parameters
        ----------
        weights : mapping of int to Tensor
            V of the parameters that are formed.
        by_rows : mapping of int to sequence
            What comes from matrices that are not, by the call's position.
        """
        flows = []
        for position, (capture, call) in enumerate(zip(self.captures, self.calls, strict=True)):
            mine = {local: weights[i] for local, i in capture.parameters.items() if i in weights}
            toward: Flow = (None, None)
            if mine:
                toward = told_apart(self.watch, capture.name, SUMS_PART, call.products)(mine)
            for of_rows in by_rows.get(position, ()):
                toward = _add(toward[0], of_rows[0]), _add(toward[1], of_rows[1])
            flows.append(toward)
        return flows

    def pull_back(self, flows: Sequence[Flow], leaves: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Derivatives of D toward `leaves`: one more backward pass, from all a and b at once."""
        roots = [
            (root, flow)
            for capture, b, toward in zip(self.captures, self.arrived, flows, strict=True)
            for root, flow in zip((capture.a, b), toward, strict=True)
            if flow is not None and root.requires_grad
        ]
        if not roots:
            return (None,) * len(leaves)
        outputs = [root for root, _ in roots]
        shaped = [flow.reshape(root.shape) for root, flow in roots]
        return torch.autograd.grad(outputs, leaves, shaped, allow_unused=True)


def _add(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
