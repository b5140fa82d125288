"""The victim's network as explicit mode runs it: a private copy of the module tree over the same weights.

Its layers note their inputs, and where their outputs' gradients will come by. The copy's parameters do not
require gradients, so that autograd forms none for them; the user's module is not touched, and shares its
storage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.matching.explicit.coupling import Coupled, require_separate
from sapag_fast.matching.explicit.rules import NotCovered, Rule, find_rule
from sapag_fast.matching.explicit.shared_convolution import has_large_work
from sapag_fast.matching.explicit.watch import FORWARD_PART, LayerWatch, told_apart
from sapag_fast.victim.problem import Problem
from sapag_fast.victim.surrogate import acting

__all__ = ["Capture", "Network"]


@dataclass
class Capture:
    """One call of a layer in one forward pass.

    Attributes
    ----------
    name, module, rule
        The layer.
    parameters : dict of str to int
        The module's own names of its parameters, and their positions in the problem's list.
    a : Tensor
        What the gradients are made of, ``[R·B, ...]``.
    version : int
        Of `a`, when it was captured.
    edge : GradientEdge
        Where the gradient of the output comes by.
    shape : torch.Size
        Of the output.
    """

    name: str
    module: nn.Module
    rule: Rule
    parameters: dict[str, int]
    a: Tensor
    version: int
    edge: torch.autograd.graph.GradientEdge
    shape: torch.Size


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Network:
    """Runs all recoveries as one batch and captures every covered layer.

    Parameters
    ----------
    problem : Problem
        Whose network it is.

    Attributes
    ----------
    watch : callable or None
        Who is told of each layer's own work (`LayerWatch`).

    Raises
    ------
    NotCovered
        For a module whose own parameters no rule covers, for hooks, or a module that cannot be copied.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        model = problem.model
        self._refuse_hooks(model)
        tensors = {**problem.network.parameters, **problem.network.constants}
        memo: dict[int, Any] = {
            id(p): nn.Parameter(tensors[name].detach(), requires_grad=False)
            for name, p in model.named_parameters()
        }
        self.positions = {
            id(memo[id(p)]): problem.names.index(name)
            for name, p in model.named_parameters()
            if p.requires_grad and problem.targets[problem.names.index(name)] is not None
        }
        for name, buffer in model.named_buffers():
            own = problem.network.buffers[name].detach()
            memo[id(buffer)] = own.clone() if problem.network.writes_buffers else own
        try:
            self.model = copy.deepcopy(model, memo)
        except Exception as error:
            raise NotCovered(f"the model cannot be copied ({type(error).__name__}: {error})") from error
        self.covered: list[tuple[str, nn.Module, Rule, dict[str, int]]] = []
        self.captures: list[Capture] = []
        self.watch: LayerWatch | None = None
        self.recoveries = self.rows = 0
        self.memory_format = torch.contiguous_format
        self._cover()

    @staticmethod
    def _refuse_hooks(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if any(getattr(module, hooks, None) for hooks in _HOOKS):
                raise NotCovered(f"{_shown(name, module)} has hooks of its own")

    def _cover(self) -> None:
        for name, module in self.model.named_modules():
            own = {
                local: self.positions[id(p)]
                for local, p in module._parameters.items()
                if p is not None and id(p) in self.positions
            }
            # Batch normalisation couples a batch even without parameters: its rule keeps recoveries apart.
            if not own and not isinstance(module, nn.modules.batchnorm._BatchNorm):
                continue
            try:
                rule = find_rule(module)
            except NotCovered as refusal:
                raise NotCovered(f"{_shown(name, module)}: {refusal}") from None
            module.forward = partial(self._forward, name, module, rule, own, module.forward)
            if own:
                self.covered.append((name, module, rule, own))

    def _forward(
        self,
        name: str,
        module: nn.Module,
        rule: Rule,
        own: dict[str, int],
        original: Callable[..., Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        forward = told_apart(self.watch, name, FORWARD_PART, rule.forward) if own else rule.forward
        output, a = forward(module, original, self.recoveries, *args, **kwargs)
        if not own or not torch.is_grad_enabled():
            return output
        if not isinstance(output, Tensor):
            raise NotCovered(f"{_shown(name, module)} gives no single tensor")
        if not a.requires_grad and a.shape[:1] != (self.rows,):
            # A constant that broadcasts over the batch, as positions do: every row gets its own, or their
            # gradients would be added up.
            a, output = self._for_every_row(a), self._for_every_row(output)
        if a.shape[0] % self.recoveries or output.shape[:1] != a.shape[:1]:
            raise NotCovered(
                f"{_shown(name, module)} maps {list(a.shape)} to {list(output.shape)}, which does not have "
                f"{self.rows} inputs in front"
            )
        if not output.requires_grad:
            # Nothing before depends on the inputs, but the gradient that arrives here does.
            output = output.detach().requires_grad_().clone()
        # Now: an activation that works in place would give the tensor another edge.
        edge = torch.autograd.graph.get_gradient_edge(output)
        self.captures.append(Capture(name, module, rule, own, a, a._version, edge, output.shape))
        return output

    def _for_every_row(self, constant: Tensor) -> Tensor:
        one = constant[0] if constant.dim() > 1 and constant.shape[0] == 1 else constant
        return one.expand(self.rows, *one.shape)

    def rules(self) -> dict[int, tuple[Rule, str]]:
        """Rule and local name of each covered parameter, by its position.

        Raises
        ------
        NotCovered
            If layers of different kinds share one.
        """
        rules: dict[int, tuple[Rule, str]] = {}
        for name, module, rule, own in self.covered:
            for local, index in own.items():
                known = rules.setdefault(index, (rule, local))
                if type(known[0]) is not type(rule) or known[1] != local:
                    raise NotCovered(
                        f"{_shown(name, module)} shares its {local} with a layer of another kind"
                    )
        return rules

    def owners(self) -> dict[int, str]:
        """Each parameter's layer, by the parameter's position; of several that share it the first."""
        owners: dict[int, str] = {}
        for name, _, _, own in self.covered:
            for index in own.values():
                owners.setdefault(index, name)
        return owners

    def run(self, inputs: Tensor, sharpness: Tensor | None = None) -> tuple[Tensor, list[Capture]]:
        """Run all recoveries once.

        Parameters
        ----------
        inputs : Tensor
            ``[R, B, *input_shape]``.
        sharpness : Tensor, optional
            ``[R]``: through the surrogate.

        Returns
        -------
        output : Tensor
            ``[R·B, ...]``, with its graph.
        captures : list of Capture
            One for each call of a covered layer, in order; none where no graph is kept.
        """
        self.recoveries, self.rows = inputs.shape[0], inputs.shape[0] * inputs.shape[1]
        self.captures = []
        batch = inputs.flatten(0, 1).contiguous(memory_format=self.memory_format)
        with acting(sharpness):
            output = self.model(batch)
        captures, self.captures = self.captures, []
        for capture in captures:
            if capture.a._version != capture.version:
                raise NotCovered(
                    f"{_shown(capture.name, capture.module)}: its input is written to after it was used"
                )
        return output, captures

    def check(self, inputs: Tensor) -> None:
        """Run once, refusing whatever would couple recoveries or change state."""
        buffers = list(self.model.buffers())
        versions = [buffer._version for buffer in buffers]
        try:
            require_separate(self.run, inputs)
        except Coupled as reason:
            raise NotCovered(str(reason)) from None
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            output, captures = self.run(inputs)
        if not isinstance(output, Tensor) or output.shape[:1] != (self.rows,):
            raise NotCovered(f"the model's output does not have {self.rows} inputs in front")
        for (name, buffer), version in zip(self.model.named_buffers(), versions, strict=True):
            if buffer._version != version:
                raise NotCovered(f"the model writes to its buffer {name!r}")
        if inputs.dim() == 5 and any(has_large_work(c.module, c.a, c.shape) for c in captures):
            self._try_channels_last(inputs)

    def _try_channels_last(self, inputs: Tensor) -> None:
        """Put the channels innermost, if the model bears it: ``view`` does not always.

        Large convolutions are faster so.
        """
        self.memory_format = torch.channels_last
        try:
            with torch.enable_grad():
                self.run(inputs)
        except RuntimeError:
            self.memory_format = torch.contiguous_format


def _shown(name: str, module: nn.Module) -> str:
    return f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
