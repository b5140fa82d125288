"""R recoveries by one ordinary batched forward and backward pass with shared weights.

Autograd never forms a weight's gradient. Every layer notes its input a and its output's gradient b, both with
their graph; the distance's sums and V = dD/dg' come from them outside of autograd, one layer at a time; and

    dD/dx = Σ_layers (V·∂g'/∂b)·∂b/∂x + (V·∂g'/∂a)·∂a/∂x

is one more backward pass, from all a and b at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.distances.autograd import Settings
from sapag_fast.distances.kind import value_and_coefficients
from sapag_fast.distances.layering import Layering
from sapag_fast.distances.sums import GradientSums
from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.ghost import MatrixTarget, RowProducts
from sapag_fast.matching.explicit.loss import losses
from sapag_fast.matching.explicit.network import Capture, Network, NotCovered
from sapag_fast.matching.explicit.plan import Choice, Matrix, choose_ways, needs_elements, same_way
from sapag_fast.matching.explicit.rules import LayerCall, Rule
from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["ExplicitMatching"]


class ExplicitMatching:
    """All recoveries at once, each at about the cost of one image in a training step.

    Parameters
    ----------
    problem : Problem
        Network, loss, targets, distance.
    ways : str or mapping, optional
        ``materialised``, ``ghost`` or ``low-rank`` for all matrices that can be matched that way, or by
        parameter name; None: whatever costs least.
    calibrate : bool
        Measure the ways at the first evaluation instead of believing the cost model.
    recoveries : int, optional
        R for which the cost model chooses; None: that of the first evaluation.

    Raises
    ------
    NotCovered
        Where explicit mode does not apply; the message names the module.
    """

    mode = "explicit"
    reason = ""

    def __init__(
        self,
        problem: Problem,
        *,
        ways: str | Mapping[str, str] | None = None,
        calibrate: bool = False,
        recoveries: int | None = None,
    ) -> None:
        if problem.local_steps > 1:
            raise NotCovered(
                f"{problem.local_steps} local steps: after the first, every recovery has weights of its own"
            )
        self.problem = problem
        self.network = Network(problem)
        self.forced = same_way(ways) if isinstance(ways, str) else dict(ways or {})
        self.calibrate = calibrate
        self.recoveries = recoveries
        self.distance = rebuilt(problem.distance, batched=True)
        self.matched = [index for index, target in enumerate(problem.targets) if target is not None]
        self.rules = self._rules()
        self.targets: list[Tensor | None] = [
            target if index not in self.rules else self._laid_out(index, target)
            for index, target in enumerate(problem.targets)
        ]
        self.settings: Settings = self.distance.settings(self.targets)
        # What is formed comes without the None entries that the numbers of layers count.
        self.distance = self.distance.copy(layers=self.settings.found.layer_of)
        self.choices: dict[int, Choice] | None = None
        self.retarget(problem.rows())

    def _laid_out(self, index: int, target: Tensor) -> Tensor:
        rule, local = self.rules[index]
        return rule.layout(local, target)

    def _rules(self) -> dict[int, tuple[Rule, str]]:
        """Rule and local name of each covered parameter."""
        found: dict[int, tuple[Rule, str]] = {}
        for name, module, rule, own in self.network.covered:
            for local, index in own.items():
                known = found.setdefault(index, (rule, local))
                if type(known[0]) is not type(rule) or known[1] != local:
                    raise NotCovered(
                        f"module {name!r} ({type(module).__name__}) shares its {local} with a layer of "
                        "another kind"
                    )
        return found

    def retarget(self, victims: Tensor) -> None:
        """Say which victim each row of the next evaluations belongs to: int64 ``[R]``, any R."""
        victims = victims.to(self._first().device) if isinstance(victims, Tensor) else victims
        self.assignment = Assignment(victims, self.problem.victims)
        self.scratch: dict[int, dict[str, Tensor]] = {}
        self._lay_out()

    def _first(self) -> Tensor:
        return self.targets[self.matched[0]]

    def _lay_out(self) -> None:
        """Targets, and what is known of them, for the present rows."""
        formed = [i for i in self.matched if self.choices is None or self._matrix(i) is None]
        self.formed = formed
        if self.choices is None:
            return
        self.rows = [self.assignment.pick(self.targets[i]) for i in formed]
        if len(formed) < len(self.matched):
            layer_of = dict(zip(self.matched, self.settings.found.layer_of, strict=True))
            self.layer_of = layer_of
            self.formed_layers = Layering(
                tuple(range(len(formed))), tuple(layer_of[i] for i in formed), self.settings.found.layers
            )
            self.target_sums = self.assignment.pick(self._victims_sums)

    def _matrix(self, index: int) -> MatrixTarget | None:
        choice = self.choices.get(index)
        return None if choice is None else choice.matrix

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if inputs.shape[0] != self.assignment.rows:
            raise ValueError(
                f"inputs: expected {self.assignment.rows} recoveries as last retargeted, found "
                f"{inputs.shape[0]}"
            )
        leaves = self.problem.leaves(inputs, labels)
        with torch.enable_grad():
            captures, arrived = self._differentiate(*leaves, sharpness)
        with torch.no_grad():
            calls = self._planned_calls(captures, arrived)
            value, flows = self._match(captures, calls, inputs)
        return value, *self._pull_back(captures, arrived, flows, leaves)

    def value(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """D ``[R]`` alone, at less than half the cost: no graph of the gradients is kept."""
        with torch.enable_grad():
            captures, arrived = self._differentiate(*self.problem.leaves(inputs, labels), None, graph=False)
        with torch.no_grad():
            calls = self._planned_calls(captures, arrived)
            dummy = self._form(captures, calls, self.formed, inputs)
            if len(self.formed) == len(self.matched):
                return self.distance(dummy, self.rows)
            columns = self._difference(captures, calls, dummy, inputs)[0]
            sums = GradientSums.from_columns(columns, self.target_sums, self.settings.size)
            return self.settings.on_sums(sums).to(ops.result_dtype([inputs]))

    def _differentiate(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None, *, graph: bool = True
    ) -> tuple[list[Capture], list[Tensor]]:
        """Captures of the layers that reach the loss, and the gradients of their outputs."""
        output, captures = self.network.run(inputs, sharpness)
        known = labels.softmax(-1) if self.problem.joint else labels
        total = losses(self.problem.loss_fn, output, known).sum()
        edges = [capture.edge for capture in captures]
        arrived = torch.autograd.grad(total, edges, create_graph=graph, allow_unused=True)
        kept = [(c, b) for c, b in zip(captures, arrived, strict=True) if b is not None]
        return [c for c, _ in kept], [b for _, b in kept]

    def dummy_gradients(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> list[Tensor | None]:
        """Every parameter's dummy gradient ``[R, *shape]``, formed, in its rule's layout."""
        with torch.enable_grad():
            captures, arrived = self._differentiate(*self.problem.leaves(inputs, labels), sharpness)
        with torch.no_grad():
            found = self._form(captures, self._calls(captures, arrived), self.matched, inputs)
        full: list[Tensor | None] = [None] * len(self.targets)
        for index, gradient in zip(self.matched, found, strict=True):
            full[index] = gradient.clone()
        return full

    def _calls(self, captures: list[Capture], arrived: list[Tensor]) -> list[LayerCall]:
        """What the rules work on: a and b ``[R, rows, ...]`` without their graph."""
        calls = []
        for position, (capture, b) in enumerate(zip(captures, arrived, strict=True)):
            call = capture.rule.call(
                capture.module,
                capture.a.detach().unflatten(0, (self.assignment.rows, -1)),
                b.detach().unflatten(0, (self.assignment.rows, -1)),
                wants_a=capture.a.requires_grad,
                wants_b=b.requires_grad,
            )
            call.scratch = self.scratch.setdefault(position, {})
            calls.append(call)
        return calls

    def _planned_calls(self, captures: list[Capture], arrived: list[Tensor]) -> list[LayerCall]:
        calls = self._calls(captures, arrived)
        if self.choices is None:
            self._plan(captures, calls)
        return calls

    def _form(
        self, captures: list[Capture], calls: list[LayerCall], wanted: list[int], inputs: Tensor
    ) -> list[Tensor]:
        """Dummy gradients of the parameters at `wanted`; those of several uses add up."""
        found: dict[int, Tensor] = {}
        chosen = set(wanted)
        for capture, call in zip(captures, calls, strict=True):
            names = [local for local, index in capture.parameters.items() if index in chosen]
            for local, gradient in call.gradients(names).items() if names else ():
                index = capture.parameters[local]
                found[index] = found[index] + gradient if index in found else gradient
        return [
            found[i] if i in found else inputs.new_zeros(inputs.shape[0], *self.targets[i].shape[1:])
            for i in wanted
        ]

    def _match(
        self, captures: list[Capture], calls: list[LayerCall], inputs: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor | None, Tensor | None]]]:
        """D ``[R]``, and for each call the derivatives toward its a and b."""
        dummy = self._form(captures, calls, self.formed, inputs)
        if len(self.formed) == len(self.matched):
            value, slopes = self.distance.distance_and_gradient(dummy, self.rows, self._places(dummy))
            by_rows: dict[int, RowProducts] = {}
            coefficients = None
        else:
            value, slopes, by_rows, coefficients = self._mixed(captures, calls, dummy, inputs)
        weights = dict(zip(self.formed, slopes, strict=True))
        flows = []
        split = self._split(captures, calls, by_rows, coefficients)
        for position, (capture, call) in enumerate(zip(captures, calls, strict=True)):
            mine = {local: weights[i] for local, i in capture.parameters.items() if i in weights}
            toward = call.products(mine) if mine else (None, None)
            for rows in split.get(position, ()):
                toward = tuple(_add(old, new) for old, new in zip(toward, rows, strict=True))
            flows.append(toward)
        return value, flows

    def _places(self, dummy: list[Tensor]) -> list[Tensor]:
        """Where V is written to, the same memory at every evaluation."""
        places = self.scratch.setdefault(-1, {})
        if not places:
            places.update((str(i), torch.empty_like(g)) for i, g in enumerate(dummy))
        return list(places.values())

    def _mixed(
        self, captures: list[Capture], calls: list[LayerCall], dummy: list[Tensor], inputs: Tensor
    ) -> tuple[Tensor, list[Tensor], dict[int, RowProducts], Tensor]:
        """D, V of what is formed, the row products of what is not, and the coefficients ``[R, L, 5]``."""
        settings = self.settings
        difference, by_rows = self._difference(captures, calls, dummy, inputs)
        value, coefficients = value_and_coefficients(
            settings.on_sums, difference, self.target_sums, settings.size
        )
        slopes = []
        if dummy:
            slopes = ops.apply(settings.backend, dummy, self.rows, self.formed_layers, True, coefficients)
        return value.to(ops.result_dtype([inputs])), slopes, by_rows, coefficients

    def _difference(
        self, captures: list[Capture], calls: list[LayerCall], dummy: list[Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[int, RowProducts]]:
        """The six sums of every layer, ``[R, L, 6]``, and the row products of what is not formed."""
        settings = self.settings
        if dummy:
            difference = ops.difference_sums(settings.backend, dummy, self.rows, self.formed_layers, True)
        else:
            shape = (inputs.shape[0], settings.found.layers, 6)
            difference = torch.zeros(shape, dtype=torch.float64, device=inputs.device)
        by_rows = {}
        for index, uses in self._uses(captures, calls).items():
            rows = [call.rows(local) for _, call, local in uses]
            a, b = (torch.cat(side, 1) if len(side) > 1 else side[0] for side in zip(*rows, strict=True))
            sums, by_rows[index] = self._matrix(index).sums(a, b, self.assignment)
            difference[:, self.layer_of[index]] += sums
        for index in self.matched:
            if self._matrix(index) is None or index in by_rows:
                continue
            # Not formed, and no call reached it.
            difference[:, self.layer_of[index]] += self._matrix(index).sums_of_zero(self.assignment)
        return difference, by_rows

    def _uses(
        self, captures: list[Capture], calls: list[LayerCall]
    ) -> dict[int, list[tuple[int, LayerCall, str]]]:
        """For each matrix that is not formed its calls, with their positions and the local name."""
        uses: dict[int, list[tuple[int, LayerCall, str]]] = {}
        for position, (capture, call) in enumerate(zip(captures, calls, strict=True)):
            for local, index in capture.parameters.items():
                if self._matrix(index) is not None:
                    uses.setdefault(index, []).append((position, call, local))
        return uses

    def _split(
        self,
        captures: list[Capture],
        calls: list[LayerCall],
        by_rows: dict[int, RowProducts],
        coefficients: Tensor | None,
    ) -> dict[int, list[tuple[Tensor | None, Tensor | None]]]:
        """The row products' derivatives, by call."""
        found: dict[int, list[tuple[Tensor | None, Tensor | None]]] = {}
        if not by_rows:
            return found
        for index, uses in self._uses(captures, calls).items():
            wants_a = any(call.wants_a for _, call, _ in uses)
            wants_b = any(call.wants_b for _, call, _ in uses)
            toward = by_rows[index].products(
                coefficients[:, self.layer_of[index]],
                # None of the distances that are built in depends on Σ d.
                constant=self.settings.kind.native is None,
                wants_a=wants_a,
                wants_b=wants_b,
            )
            sizes = [call.rows(local)[0].shape[1] for _, call, local in uses]
            parts = [[None] * len(sizes) if side is None else side.split(sizes, 1) for side in toward]
            for (position, call, _), to_a, to_b in zip(uses, *parts, strict=True):
                mine = (to_a if call.wants_a else None, to_b if call.wants_b else None)
                mine = tuple(None if t is None else t.to(call.b.dtype) for t in mine)
                found.setdefault(position, []).append(call.from_rows(*mine))
        return found

    def _pull_back(
        self,
        captures: list[Capture],
        arrived: list[Tensor],
        flows: list[tuple[Tensor | None, Tensor | None]],
        leaves: list[Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """dD/d inputs, and toward the label logits with joint labels."""
        roots = [
            (root, flow)
            for capture, b, toward in zip(captures, arrived, flows, strict=True)
            for root, flow in zip((capture.a, b), toward, strict=True)
            if flow is not None and root.requires_grad
        ]
        wanted = leaves if self.problem.joint else leaves[:1]
        pulled: tuple[Tensor | None, ...] = (None,)
        if roots:
            outputs = [root for root, _ in roots]
            shaped = [flow.reshape(root.shape) for root, flow in roots]
            pulled = torch.autograd.grad(outputs, wanted, shaped, allow_unused=True)
        if pulled[0] is None:
            raise ValueError("the model's gradient does not depend on its input: nothing to recover from")
        if not self.problem.joint:
            return pulled[0], None
        return pulled[0], torch.zeros_like(leaves[1]) if pulled[1] is None else pulled[1]

    def _plan(self, captures: list[Capture], calls: list[LayerCall]) -> None:
        """Choose the ways from the first evaluation's shapes."""
        matrices: dict[str, Matrix] = {}
        if self.settings.backend != "reference" and not needs_elements(self.settings):
            rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for capture, call in zip(captures, calls, strict=True):
                for local in capture.rule.matrices_of(capture.module) & set(capture.parameters):
                    rows.setdefault(capture.parameters[local], []).append(call.rows(local))
            for index, parts in rows.items():
                a, b = (torch.cat(side, 1) for side in zip(*parts, strict=True))
                outputs = self.targets[index].shape[1]
                target = self.targets[index].reshape(self.problem.victims, outputs, -1)
                matrices[self.problem.names[index]] = Matrix(a, b, target)
        chosen = choose_ways(
            matrices,
            self.recoveries or self.assignment.rows,
            self.assignment,
            forced=self.forced,
            calibrate=self.calibrate,
        )
        self.choices = {self.problem.names.index(name): choice for name, choice in chosen.items()}
        if any(choice.matrix is not None for choice in self.choices.values()):
            present = [self.targets[i] for i in self.matched]
            self._victims_sums = ops.target_sums(self.settings.backend, present, self.settings.found, True)
        self._lay_out()

    @property
    def formed_share(self) -> float:
        """Share of the matched parameters' elements whose dummy gradient is formed, once ways are chosen."""
        sizes = {i: self.targets[i][0].numel() for i in self.matched}
        return sum(sizes[i] for i in self.formed) / max(sum(sizes.values()), 1)

    def describe(self) -> list[dict[str, str]]:
        """For every parameter of every layer: ``layer``, ``parameter``, ``rule``, ``way`` and ``why``."""
        rows = []
        for name, _, rule, own in self.network.covered:
            for local, index in own.items():
                choice = (self.choices or {}).get(index)
                way, why = ("materialised", "no matrix") if choice is None else (choice.way, choice.why)
                rows.append({"layer": name, "parameter": local, "rule": rule.name, "way": way, "why": why})
        return rows


def _add(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
