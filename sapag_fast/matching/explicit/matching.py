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
from sapag_fast.distances.evaluation import BoundDistance, value_alone, value_and_gradient
from sapag_fast.distances.formulas import value_and_coefficients
from sapag_fast.distances.layering import Layering
from sapag_fast.distances.sums import GradientSums
from sapag_fast.matching.base import FIRST_BACKWARD, FORWARD, REST, SECOND_BACKWARD, SUMS, StageHook
from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.evaluation import Evaluation, Flow
from sapag_fast.matching.explicit.ghost import RowProducts
from sapag_fast.matching.explicit.loss import losses
from sapag_fast.matching.explicit.network import Capture, Network
from sapag_fast.matching.explicit.plan import (
    Matrix,
    Way,
    choose_ways,
    matrices_in,
    needs_elements,
    same_way,
)
from sapag_fast.matching.explicit.row_matching import RowMatching
from sapag_fast.matching.explicit.rules import NotCovered
from sapag_fast.matching.explicit.watch import LayerWatch
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
    recoveries : int, optional
        R for which the cost model chooses; None: that of the first evaluation.
    isolated : bool
        Whether a row's products may follow from nothing but that row (see `Assignment`).

    Attributes
    ----------
    mode : str
    stages : callable or None
        As of `Matching`.
    ways : dict of int to Way, or None
        How each matrix is matched, by the parameter's position; None before the first evaluation.

    Raises
    ------
    NotCovered
        Where explicit mode does not apply; the message names the module.
    """

    mode = "explicit"

    def __init__(
        self,
        problem: Problem,
        *,
        ways: str | Mapping[str, str] | None = None,
        recoveries: int | None = None,
        isolated: bool = False,
    ) -> None:
        if problem.training is not None:
            raise NotCovered(
                f"{problem.training.words}: after the first, every recovery has weights of its own"
            )
        self.problem = problem
        self.network = Network(problem)
        self.stages: StageHook | None = None
        self.forced = same_way(ways) if isinstance(ways, str) else dict(ways or {})
        self.recoveries, self.isolated = recoveries, isolated
        self.rules = self.network.rules()
        targets = [None if t is None else self._laid_out(i, t) for i, t in enumerate(problem.targets)]
        self.targets = {index: target for index, target in enumerate(targets) if target is not None}
        distance = rebuilt(problem.distance, batched=True)
        self.bound = distance.bound_to(targets)
        self.size = self.bound.sizes(list(self.targets.values()))
        # What is formed comes without the None entries that the numbers of layers count.
        self.distance = distance.copy(layers=self.bound.layering.layer_of)
        self.ways: dict[int, Way] | None = None
        self.by_rows: RowMatching | None = None
        self.retarget(problem.rows())

    def _laid_out(self, index: int, target: Tensor) -> Tensor:
        """A target in the order of elements that the parameter's rule uses."""
        if index not in self.rules:
            return target
        rule, local = self.rules[index]
        return rule.layout(local, target)

    @property
    def watch(self) -> LayerWatch | None:
        """Who is told of each layer's own work; None: nobody, at no cost."""
        return self.network.watch

    @watch.setter
    def watch(self, watch: LayerWatch | None) -> None:
        self.network.watch = watch

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """Say which victim each row of the next evaluations belongs to, as `Matching` does: any R."""
        device = next(iter(self.targets.values())).device
        victims = victims.to(device) if isinstance(victims, Tensor) else victims
        self.widths = widths
        self.assignment = Assignment(victims, self.problem.victims, isolated=self.isolated)
        self.scratch: dict[int, dict[str, Tensor]] = {}
        self._pick_targets()

    def _pick_targets(self) -> None:
        """Targets of what is formed, and all targets' sums, for the present rows."""
        not_formed = {} if self.by_rows is None else self.by_rows.matrices
        self.formed = {index: target for index, target in self.targets.items() if index not in not_formed}
        if self.ways is None:
            return
        self.rows = [self.assignment.pick(target) for target in self.formed.values()]
        if self.by_rows is not None:
            self.target_sums = self.assignment.pick(self._sums_of_victims)
            self.bound_to_rows = self._widened(self.bound, self.target_sums)
        else:
            bound = self.distance.bound_to(self.rows)
            sums = None if self.widths is None else bound.target_sums(self.rows)
            self.bound_to_rows = self._widened(bound, sums)
            self.sums_of_rows = sums if bound.backend != "reference" else None

    def _widened(self, bound: BoundDistance, sums: Tensor | None) -> BoundDistance:
        return bound if self.widths is None or sums is None else bound.widened(self.widths, sums, self.size)

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` says, for the rows last retargeted."""
        if inputs.shape[0] != self.assignment.rows:
            raise ValueError(
                f"inputs: expected {self.assignment.rows} recoveries as last retargeted, found "
                f"{inputs.shape[0]}"
            )
        leaves = self.problem.leaves(inputs, labels)
        captures, arrived = self._differentiate(leaves[0], leaves[1], sharpness)
        with torch.no_grad():
            evaluation = self._evaluation(captures, arrived, inputs)
            value, flows = self._match(evaluation)
        if self.stages is not None:
            self.stages(SECOND_BACKWARD)
        toward = evaluation.pull_back(flows, leaves if self.problem.joint else leaves[:1])
        if self.stages is not None:
            self.stages(REST)
        if toward[0] is None:
            raise ValueError("model: its gradient does not depend on its input: nothing to recover from")
        if not self.problem.joint:
            return value, toward[0], None
        return value, toward[0], torch.zeros_like(leaves[1]) if toward[1] is None else toward[1]

    def value(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """D ``[R]`` alone, at less than half the cost: no graph of the gradients is kept."""
        leaves = self.problem.leaves(inputs, labels)
        captures, arrived = self._differentiate(leaves[0], leaves[1], None, graph=False)
        with torch.no_grad():
            evaluation = self._evaluation(captures, arrived, inputs)
            dummy = evaluation.formed(self.formed)
            if self.by_rows is None:
                value, _ = value_alone(self.bound_to_rows, dummy, self.rows, self.sums_of_rows)
            else:
                columns, _ = self._difference(self.by_rows, evaluation, dummy)
                sums = GradientSums.from_columns(columns, self.target_sums, self.size)
                value = self.bound_to_rows.on_sums(sums).to(ops.result_dtype([inputs]))
        if self.stages is not None:
            self.stages(REST)
        return value

    def dummy_gradients(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> list[Tensor | None]:
        """Every parameter's dummy gradient ``[R, *shape]``, formed, in its rule's layout."""
        leaves = self.problem.leaves(inputs, labels)
        captures, arrived = self._differentiate(leaves[0], leaves[1], sharpness)
        with torch.no_grad():
            formed = Evaluation(captures, arrived, inputs, self.scratch, self.watch).formed(self.targets)
        gradients: list[Tensor | None] = [None] * len(self.problem.targets)
        for index, gradient in zip(self.targets, formed, strict=True):
            gradients[index] = gradient.clone()
        return gradients

    def _differentiate(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None, *, graph: bool = True
    ) -> tuple[list[Capture], list[Tensor]]:
        """Captures of the layers that reach the loss, and the gradients of their outputs."""
        if self.stages is not None:
            self.stages(FORWARD)
        with torch.enable_grad():
            output, captures = self.network.run(inputs, sharpness)
            targets = self.problem.as_targets(labels)
            filled = self.isolated and output.device.type == "cpu"
            each = losses(self.problem.loss_fn, output, targets, filled=filled)
            if self.stages is not None:
                self.stages(FIRST_BACKWARD)
            edges = [capture.edge for capture in captures]
            arrived = torch.autograd.grad(each.sum(), edges, create_graph=graph, allow_unused=True)
        kept = [(c, b) for c, b in zip(captures, arrived, strict=True) if b is not None]
        return [c for c, _ in kept], [b for _, b in kept]

    def _evaluation(self, captures: list[Capture], arrived: list[Tensor], inputs: Tensor) -> Evaluation:
        if self.stages is not None:
            self.stages(SUMS)
        evaluation = Evaluation(captures, arrived, inputs, self.scratch, self.watch)
        if self.ways is None:
            self._plan(evaluation)
        return evaluation

    def _match(self, evaluation: Evaluation) -> tuple[Tensor, list[Flow]]:
        """D ``[R]``, and for each call the derivatives toward its a and b."""
        dummy = evaluation.formed(self.formed)
        if self.by_rows is None:
            # Rows and outputs are its own: whether they lie apart, or have changed, needs no look.
            value, slopes, sums = value_and_gradient(
                self.bound_to_rows, dummy, self.rows, self.sums_of_rows, self._reused(dummy)
            )
            self.sums_of_rows = self.sums_of_rows if sums is None else sums
            flows_by_rows: dict[int, list[Flow]] = {}
        else:
            value, slopes, flows_by_rows = self._match_by_rows(self.by_rows, evaluation, dummy)
        weights = {i: slope for i, slope in zip(self.formed, slopes, strict=True) if slope is not None}
        return value, evaluation.flows(weights, flows_by_rows)

    def _reused(self, dummy: list[Tensor]) -> list[Tensor]:
        """Where V is written to, the same memory at every evaluation."""
        memory = self.scratch.setdefault(-1, {})
        if not memory:
            memory.update((str(i), torch.empty_like(g)) for i, g in enumerate(dummy))
        return list(memory.values())

    def _match_by_rows(
        self, by_rows: RowMatching, evaluation: Evaluation, dummy: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], dict[int, list[Flow]]]:
        """D, V of what is formed, and the derivatives that come from what is not."""
        difference, products = self._difference(by_rows, evaluation, dummy)
        value, coefficients = value_and_coefficients(
            self.bound_to_rows.on_sums, difference, self.target_sums, self.size
        )
        slopes = []
        if dummy:
            slopes = ops.apply(self.bound.backend, dummy, self.rows, self.formed_layers, True, coefficients)
        # None of the distances that are built in depends on Σ d.
        constant = self.bound.kind.native is None
        flows = by_rows.flows(evaluation, products, coefficients, constant=constant)
        return value.to(ops.result_dtype([evaluation.inputs])), slopes, flows

    def _difference(
        self, by_rows: RowMatching, evaluation: Evaluation, dummy: list[Tensor]
    ) -> tuple[Tensor, dict[int, RowProducts]]:
        """The six sums of every layer, ``[R, L, 6]``, and the row products of what is not formed."""
        if dummy:
            difference = ops.difference_sums(self.bound.backend, dummy, self.rows, self.formed_layers, True)
        else:
            inputs = evaluation.inputs
            shape = (inputs.shape[0], self.bound.layering.layers, 6)
            difference = torch.zeros(shape, dtype=torch.float64, device=inputs.device)
        return difference, by_rows.add_sums(evaluation, self.assignment, difference)

    def _plan(self, evaluation: Evaluation) -> None:
        """Choose the ways from the first evaluation's shapes."""
        matrices: dict[str, Matrix] = {}
        if self.bound.backend != "reference" and not needs_elements(self.bound, self.size):
            able = matrices_in(evaluation, self.targets)
            matrices = {self.problem.names[index]: matrix for index, matrix in able.items()}
        recoveries = self.recoveries or self.assignment.rows
        chosen = choose_ways(matrices, recoveries, self.assignment, forced=self.forced)
        self.ways = {self.problem.names.index(name): way for name, way in chosen.items()}
        not_formed = {i: way.matrix for i, way in self.ways.items() if way.matrix is not None}
        if not_formed:
            layering = self.bound.layering
            layer_of = dict(zip(self.targets, layering.layer_of, strict=True))
            self.by_rows = RowMatching(not_formed, layer_of, self.network.owners())
            formed = tuple(layer for index, layer in layer_of.items() if index not in not_formed)
            self.formed_layers = Layering(tuple(range(len(formed))), formed, layering.layers)
            everything = list(self.targets.values())
            self._sums_of_victims = ops.target_sums(self.bound.backend, everything, layering, True)
        self._pick_targets()

    @property
    def unlike(self) -> list[list[int]]:
        """Victims whose targets ask for ways of their own, those with the same ones together."""
        matrices: dict[int, list[int]] = {}
        for index, way in (self.ways or {}).items():
            for victim in way.unlike:
                matrices.setdefault(victim, []).append(index)
        alike: dict[tuple[int, ...], list[int]] = {}
        for victim in sorted(matrices):
            alike.setdefault(tuple(matrices[victim]), []).append(victim)
        return list(alike.values())

    @property
    def formed_share(self) -> float:
        """Share of the matched parameters' elements whose dummy gradient is formed, once ways are chosen."""
        sizes = {index: target[0].numel() for index, target in self.targets.items()}
        return sum(sizes[index] for index in self.formed) / max(sum(sizes.values()), 1)

    def describe(self) -> list[dict[str, str]]:
        """For every parameter of every layer: ``layer``, ``parameter``, ``rule``, ``way`` and ``why``."""
        formed = Way("materialised", None, "no matrix")
        rows = []
        for layer in self.network.covered:
            for local, index in layer.own.items():
                way = (self.ways or {}).get(index, formed)
                row = {"layer": layer.name, "parameter": local, "rule": layer.rule.name}
                rows.append({**row, "way": way.name, "why": way.why})
        return rows
