"""The part of the suite on tables of gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import torch

import sapag_fast as sf
from benchmarks.reliability.part import Outcome, generator
from benchmarks.reliability.sources import DISTANCES
from benchmarks.reliability.tables.backends import MANNERS, SHARES, Answer, ask, wrong_form
from benchmarks.reliability.tables.compare import HALF_UNIT, wrong_slopes, wrong_value
from benchmarks.reliability.tables.draw import Table, draw
from benchmarks.reliability.tables.eager import eager
from benchmarks.reliability.tables.expected import Expected, TableFacts
from benchmarks.reliability.tables.facts import Real
from benchmarks.reliability.tables.truth import DEFINITIONS, degenerate
from sapag_fast.distances.sums import GradientSums

OWN = "reliability-own"


def own_distance(sums: GradientSums) -> torch.Tensor:
    """The suite's own kind, as a user writes one."""
    share = sums.inner.abs() / (1 + sums.target_square)
    return (torch.log1p(sums.square) + share).sum(-1)


class Tables:
    """Random tables, every kind on the reference and the CPU kernels, each asked in a way drawn anew, against
    definitions in long double that share nothing with the package."""

    title = "Tables of gradients"

    def __init__(
        self, name: str = "tables", backends: Sequence[str] = ("cpu", "reference"), amount: int = 100_000,
        *, block: int = 2000, small: bool = False, environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.backends, self.amount = name, backends, amount
        self.block, self.small, self.patience = block, small, 120.0
        self.environment = MappingProxyType({"OMP_NUM_THREADS": "1"} | (environment or {}))
        self.sources = DISTANCES

    def draw(self, seed: int, number: int) -> tuple[Table, np.random.Generator]:
        rng = generator(self.name, seed, number)
        return draw(rng, small=self.small), rng

    def show(self, seed: int, number: int) -> str:
        table, _ = self.draw(seed, number)
        return table.words

    def check(self, seed: int, number: int) -> Outcome:
        sf.register_distance(OWN, own_distance, replace=True)
        table, rng = self.draw(seed, number)
        before = [t.clone() for t in (*table.dummy, *table.target) if t is not None]
        facts = TableFacts(table)
        outcome = Outcome()
        for kind in DEFINITIONS if not self.small else rng.choice([*DEFINITIONS], 3, replace=False):
            self._check_kind(facts, str(kind), rng, outcome)
        for backend in self.backends:
            with noted(outcome, f"gradient_variance, {backend}"):
                self._check_variance(facts, backend, outcome)
        after = [t for t in (*table.dummy, *table.target) if t is not None]
        if not all(same_bits(a, b) for a, b in zip(before, after, strict=True)):
            outcome.faults.append("a gradient that was given was written to")
        outcome.counts["tables"] += 1
        return outcome

    def _check_kind(self, facts: TableFacts, kind: str, rng: np.random.Generator, outcome: Outcome) -> None:
        expected, options = facts.expected(kind), facts.options(kind)
        for backend in self.backends:
            manner = str(rng.choice(MANNERS, p=SHARES))
            here = f"{kind}, {backend}, {manner}"
            outcome.counts[backend] += 1
            with noted(outcome, here):
                answer = ask(facts.table, kind, options | {"backend": backend}, manner, rng)
                if problem := wrong_answer(facts, kind, expected, answer, by_formula=backend == "reference"):
                    outcome.faults.append(f"{here}: {problem}")
        if rng.random() < 0.1 and "cpu" in self.backends:
            with noted(outcome, f"{kind}, cpu, same bits"):
                self._check_same_bits(facts, kind, options, rng, outcome)
        if rng.random() < 0.1:
            with noted(outcome, f"{kind}, degenerate"):
                self._check_degenerate(facts, kind, options, outcome)

    def _check_same_bits(
        self, facts: TableFacts, kind: str, options: dict, rng: np.random.Generator, outcome: Outcome
    ) -> None:
        first = ask(facts.table, kind, options | {"backend": "cpu"}, "plain", rng)
        for manner in ("kept", "another target before", "out"):
            again = ask(facts.table, kind, options | {"backend": "cpu"}, manner, rng)
            pairs = zip(
                [first.value, *(first.slopes or [])], [again.value, *(again.slopes or [])], strict=True
            )
            outcome.counts["same bits"] += 1
            if not all(same_bits(a, b) for a, b in pairs):
                outcome.faults.append(f"{kind}, cpu: other bits when asked as {manner!r}")

    def _check_degenerate(self, facts: TableFacts, kind: str, options: dict, outcome: Outcome) -> None:
        table, definition = facts.table, DEFINITIONS[kind]
        distance = sf.GradientDistance(kind, batched=table.batched, **table.layering_of(kind), **options)
        found = distance.degenerate(table.target).reshape(-1, 1 if definition.merged else table.layers)
        variance = options.get("variance")
        layers = facts.layers(definition.merged, None if variance is None else variance.numpy())
        dead, close = degenerate(layers, definition.needs)
        judged = ~close & ~facts.broken[:, None]
        if (np.broadcast_to(found.numpy(), dead.shape) != dead)[judged].any() and kind != OWN:
            outcome.faults.append(f"{kind}: degenerate is {found.tolist()}, expected {dead.tolist()}")
        outcome.counts["degenerate layers"] += 1

    def _check_variance(self, facts: TableFacts, backend: str, outcome: Outcome) -> None:
        table, layers = facts.table, facts.layers(False)
        dtype = torch.float64 if _dtype(table) == torch.float64 else torch.float32
        info = torch.finfo(dtype)
        found = sf.gradient_variance(table.target, batched=table.batched, backend=backend, **table.layering)
        outcome.counts["variances"] += 1
        if found.dtype != dtype:
            outcome.faults.append(f"gradient_variance, {backend}: {found.dtype}, expected {dtype}")
        values = found.double().reshape(-1, len(layers)).numpy()
        got = np.broadcast_to(values, (facts.recoveries, len(layers)))
        for at, layer in enumerate(layers):
            exact = layer.deviation / max(layer.n, 1)
            slack = exact * (2 * HALF_UNIT[dtype] + 1e-13 + layer.deviation_error) + info.tiny
            slack = slack + layer.target_square * Real(1e-31)  # a constant's mean is rounded
            good = np.abs(got[:, at] - exact) <= slack
            good |= (exact > info.max) & (got[:, at] > 0.99 * info.max)
            if not ((np.isnan(got[:, at]) if layer.n == 0 else good) | facts.broken).all():
                outcome.faults.append(
                    f"gradient_variance, {backend}: layer {at}: {got[:, at].tolist()}, "
                    f"exactly {exact.astype(float).tolist()}"
                )


@contextmanager
def noted(outcome: Outcome, here: str) -> Iterator[None]:
    """An exception is a fault, and the case goes on."""
    try:
        yield
    except Exception as error:
        outcome.faults.append(f"{here}: {type(error).__name__}: {error}")


def wrong_answer(
    facts: TableFacts, kind: str, expected: Expected, answer: Answer, *, by_formula: bool
) -> str | None:
    """What is wrong with an answer, if anything."""
    if problem := wrong_form(facts.table, answer):
        return problem
    if problem := wrong_value(answer.value, expected, lambda r: eager(facts, kind, r), by_formula):
        return problem
    if answer.slopes is None:
        return None
    layer_of = facts.layer_of(DEFINITIONS[kind].merged)
    return wrong_slopes(
        answer.slopes,
        expected,
        layer_of,
        facts.table.batched,
        lambda r: eager(facts, kind, r),
        answer.factor,
        by_formula,
    )


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal number by number; nan equals nan."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _dtype(table: Table) -> torch.dtype:
    return next(t.dtype for t in table.dummy if t is not None)
