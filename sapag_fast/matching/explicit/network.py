"""The victim's network as explicit mode runs it: a private copy of the module tree over the same weights.

Its layers note their inputs, and where their outputs' gradients will come by. The copy's parameters do not
require gradients, so that autograd forms none for them; the user's module is not touched, and shares its
storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.matching.explicit.coupling import Coupled, require_separate
from sapag_fast.matching.explicit.derived_weights import has_derived_weights, hooks_of_its_own, private_copy
from sapag_fast.matching.explicit.marks import BareRule, Covered, Marks
from sapag_fast.matching.explicit.operands import OperandRule
from sapag_fast.matching.explicit.operators import Operators
from sapag_fast.matching.explicit.rules import NoRule, NotCovered, Rule, find_rule
from sapag_fast.matching.explicit.shapes import TRIED
from sapag_fast.matching.explicit.shared_convolution import has_large_work
from sapag_fast.matching.explicit.watch import FORWARD_PART, LayerWatch, told_apart
from sapag_fast.runtime.randomness import forked
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
        For a module that its rule refuses, for hooks, or a module that cannot be copied.
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
            self.model = private_copy(model, memo)
        except Exception as error:
            raise NotCovered(f"the model cannot be copied ({type(error).__name__}: {error})") from error
        self.covered: list[Covered] = []
        self.layers: dict[int, tuple[str, nn.Module]] = {}
        self.captures: list[Capture] = []
        self.watch: LayerWatch | None = None
        self.recoveries = self.rows = 0
        self.memory_format = torch.contiguous_format
        self._cover()
        shown = {index: _shown(*owner) for index, owner in self.layers.items()}
        self.operators = Operators(problem.names, shown, self._capture)
        self.marks = Marks(self.covered, self.operators)

    @staticmethod
    def _refuse_hooks(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if hooks_of_its_own(module):
                raise NotCovered(f"{_shown(name, module)} has hooks of its own")

    def _cover(self) -> None:
        for name, module in self.model.named_modules():
            own = {
                local: self.positions[id(p)]
                for local, p in module._parameters.items()
                if p is not None and id(p) in self.positions
            }
            # Batch normalisation couples a batch even without parameters: its rule keeps recoveries apart.
            if not own and not isinstance(module, nn.modules.batchnorm._NormBase):
                continue
            try:
                rule = None if own and has_derived_weights(module) else find_rule(module)
            except NoRule:
                rule = None
            except NotCovered as refusal:
                raise NotCovered(f"{_shown(name, module)}: {refusal}") from None
            if rule is not None:
                module.forward = partial(self._forward, name, module, rule, own, module.forward)
            for index in own.values():
                self.layers.setdefault(index, (name, module))
            if own:
                self.covered.append(Covered(name, _shown(name, module), module, rule or BareRule(), own))

    def _capture(self, rule: OperandRule, a: Tensor, output: Tensor) -> None:
        """Note an operator on bare parameters."""
        name, module = self.layers[next(iter(rule.parameters.values()))]
        edge = torch.autograd.graph.get_gradient_edge(output)
        self.captures.append(Capture(name, module, rule, rule.parameters, a, a._version, edge, output.shape))

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
        args = tuple(self.operators.enter(type(module), argument) for argument in args)
        kwargs = {key: self.operators.enter(type(module), argument) for key, argument in kwargs.items()}
        with self.marks.lifted(module):
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
            If layers share one whose gradients come in different orders.
        """
        rules: dict[int, tuple[Rule, str]] = {}
        for layer in self.covered:
            for local, index in layer.own.items():
                known, its_local = rules.setdefault(index, (layer.rule, local))
                alike = type(known) is type(layer.rule) and its_local == local
                if not alike and (known.reorders or layer.rule.reorders):
                    raise NotCovered(f"{layer.shown} shares its {local} with a layer of another kind")
        return rules

    def owners(self) -> dict[int, str]:
        """Each parameter's layer, by the parameter's position; of several that share it the first."""
        owners: dict[int, str] = {}
        for layer in self.covered:
            for index in layer.own.values():
                owners.setdefault(index, layer.name)
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
        self._learn(inputs)
        output = self._call(inputs, sharpness)
        captures, self.captures = self.captures, []
        for capture in captures:
            if capture.a._version != capture.version:
                raise NotCovered(
                    f"{_shown(capture.name, capture.module)}: its input is written to after it was used"
                )
        return output, captures

    def _call(self, inputs: Tensor, sharpness: Tensor | None = None) -> Tensor:
        self.recoveries, self.rows = inputs.shape[0], inputs.shape[0] * inputs.shape[1]
        self.captures = []
        self.operators.begin(self.recoveries)
        batch = inputs.flatten(0, 1).contiguous(memory_format=self.memory_format)
        try:
            with acting(sharpness):
                return self.model(batch)
        finally:
            self.operators.end()

    def _learn(self, inputs: Tensor) -> None:
        """Before the first run see which operators use parameters outside of rules, and how."""
        if self.operators.operators is not None:
            return
        learned = False
        while not learned:
            for recoveries in TRIED:
                batch = inputs[:1].expand(recoveries, *inputs.shape[1:]).detach().clone().requires_grad_()
                with torch.enable_grad(), forked(inputs.device):
                    self._call(batch)
            learned = self.operators.end_learning()
        self.marks.keep(self.operators.used)

    def check(self, inputs: Tensor) -> None:
        """Run once, refusing whatever would couple recoveries or change state."""
        self._learn(inputs)
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
