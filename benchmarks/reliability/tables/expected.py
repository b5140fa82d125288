"""What a table's distance has to be: D and V of all recoveries, with the error that is granted to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.reliability.tables.draw import Table
from benchmarks.reliability.tables.facts import Facts, Real
from benchmarks.reliability.tables.truth import DEFINITIONS, LEAST, Definition, Settings, degenerate


@dataclass
class Expected:
    """Of one kind. Errors are those of sums and exponent; the arithmetic's own depends on the type."""

    value: np.ndarray
    value_error: np.ndarray
    slopes: list[np.ndarray]
    """A layer: ``[R, n]``."""
    terms: list[np.ndarray]
    relatives: list[np.ndarray]
    floors: list[np.ndarray]
    """Beside the errors: the rounding of u' - u, where D and V are formed from it."""
    value_floor: np.ndarray
    lost: list[np.ndarray]
    broken: np.ndarray
    close: np.ndarray
    """``[R]``: a layer is so near a bound that it may carry weight or not."""


class TableFacts:
    """Both lists of a table as layers of long doubles; each kind is worked out from them."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.dummy = [rows(t, table.batched) for t in table.dummy if t is not None]
        self.recoveries = len(self.dummy[0])
        self.target = [
            np.broadcast_to(rows(t, table.batched), mine.shape)
            for t, mine in zip((t for t in table.target if t is not None), self.dummy, strict=True)
        ]
        parts = [~np.isfinite(a - g).all(1) for a, g in zip(self.dummy, self.target, strict=True)]
        self.broken = np.array(parts).any(0)
        self._layers: dict[tuple[bool, bool], list[Facts]] = {}

    def layer_of(self, merged: bool) -> Sequence[int]:
        return [0] * len(self.table.layer_of) if merged else self.table.layer_of

    def layers(self, merged: bool, variance: np.ndarray | None = None) -> list[Facts]:
        key = (merged, variance is not None)
        if key not in self._layers:
            count = 1 if merged else self.table.layers
            dummy = joined(self.dummy, self.layer_of(merged), count)
            target = joined(self.target, self.layer_of(merged), count)
            finite = ~self.broken[:, None]
            self._layers[key] = [
                Facts(np.where(finite, a, 0), np.where(finite, g, 0), self.broken)
                for a, g in zip(dummy, target, strict=True)
            ]
            if variance is not None:
                for at, facts in enumerate(self._layers[key]):
                    facts.given_variance = np.broadcast_to(variance[..., at], self.recoveries)
        return self._layers[key]

    def options(self, kind: str) -> dict[str, object]:
        """Those of the table's options that this kind knows."""
        definition, drawn = DEFINITIONS[kind], self.table.options
        known = {
            "layer_weights": definition.weighted,
            "variance": definition.takes_variance,
            "bandwidth": definition.bandwidth is not None,
            "l1_weight": definition.absolute,
        }
        return {name: value for name, value in drawn.items() if known[name]}

    def expected(self, kind: str) -> Expected:
        definition, options = DEFINITIONS[kind], self.options(kind)
        variance = options.get("variance")
        layers = self.layers(definition.merged, None if variance is None else real(variance))
        dead, close = degenerate(layers, definition.needs)
        weights = self._weights(definition, options, len(layers))
        bandwidth = options.get("bandwidth", definition.bandwidth)
        settings = Settings(float(bandwidth or 1.0), float(options.get("l1_weight", 0.01)))  # type: ignore[arg-type]
        with np.errstate(all="ignore"):
            return self._summed(definition, layers, settings, weights, dead, close)

    def _weights(self, definition: Definition, options: dict[str, object], layers: int) -> np.ndarray:
        given = options.get("layer_weights")
        if given is not None:
            return np.broadcast_to(real(given), (self.recoveries, layers))
        own = definition.own_weights
        return np.broadcast_to(own(layers) if own else np.ones(layers, Real), (self.recoveries, layers))

    def _summed(
        self,
        definition: Definition,
        layers: list[Facts],
        settings: Settings,
        weights: np.ndarray,
        dead: np.ndarray,
        close: np.ndarray,
    ) -> Expected:
        zero = np.zeros(self.recoveries, Real)
        found = Expected(zero, zero, [], [], [], [], zero, [], self.broken, close.any(1))
        for at, facts in enumerate(layers):
            share = definition.formula(facts, settings)
            alive = ~dead[:, at]
            weight = np.where(alive, 1 if definition.absolute else weights[:, at], 0)
            value, slope, terms = share.value, share.slope, share.terms
            error = share.value_error
            if definition.absolute:
                extra = Real(settings.l1_weight) * weights[:, at]
                value = value + extra * facts.absolute
                slope = slope + extra[:, None] * facts.sign
                terms = terms + extra[:, None] * np.abs(facts.sign)
                error = error + Real(1e-13) * extra * facts.absolute
            found.value = found.value + np.where(alive, weight * value, 0)
            found.value_error = found.value_error + np.where(alive, weight * error, 0)
            column = weight[:, None]
            found.slopes.append(np.where(alive[:, None], column * slope, 0))
            found.terms.append(np.where(alive[:, None], column * terms, 0))
            found.relatives.append(share.relative)
            found.floors.append(column * share.floor)
            # V is a sum of both gradients, each times a number in double precision.
            found.lost.append(column * share.lost + LEAST * (np.abs(facts.dummy) + np.abs(facts.target)))
            found.value_floor = found.value_floor + np.where(alive, weight * share.value_floor, 0)
        return found


def real(tensor: object) -> np.ndarray:
    assert isinstance(tensor, Tensor)
    return tensor.double().numpy().astype(Real)


def rows(tensor: Tensor, batched: bool) -> np.ndarray:
    """``[R, n]`` in long double."""
    values = tensor.detach().double().numpy().astype(Real)
    return values.reshape(len(values), -1) if batched and values.size else values.reshape(
        tensor.shape[0] if batched else 1, tensor[0].numel() if batched else tensor.numel()
    )  # fmt: skip


def joined(parts: Sequence[np.ndarray], layer_of: Sequence[int], layers: int) -> list[np.ndarray]:
    """One array a layer, of its tensors in their order."""
    members: list[list[np.ndarray]] = [[] for _ in range(layers)]
    for part, layer in zip(parts, layer_of, strict=True):
        members[layer].append(part)
    empty = parts[0][:, :0]
    return [m[0] if len(m) == 1 else np.concatenate(m, 1) if m else empty for m in members]
