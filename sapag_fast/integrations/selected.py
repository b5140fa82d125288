"""The distance of some of a network's gradients: what forms a layer follows from all of them.

Tools compare the ten largest gradients, or leave some out. In what is left a bias may follow another layer's
weight, or its own in another order: by shapes alone it would join a layer that is not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind
from sapag_fast.distances.layering import layering
from sapag_fast.integrations.kept import check_options, kept

__all__ = ["SelectedDistance", "kept_selected", "layers_of", "present"]

_SELECTIONS = 64

Entries = Sequence[Tensor | None]


def present(dummy: Entries, target: Entries) -> list[int]:
    """Positions of the pairs of which neither is None."""
    pairs = zip(dummy, target, strict=True)
    return [i for i, (mine, given) in enumerate(pairs) if mine is not None and given is not None]


def layers_of(
    dummy: Entries,
    target: Entries,
    chosen: Sequence[int],
    merge_bias: bool = True,
    layers: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """A layer number for each chosen position, in the order of the whole network's layers.

    Parameters
    ----------
    dummy, target : sequence of Tensor or None
        All gradients of the network: a shape is known where either has a tensor.
    chosen : sequence of int
        Positions of those that are compared, in any order.
    merge_bias, layers
        As of `GradientDistance`, for all gradients.
    """
    either = [mine if given is None else given for mine, given in zip(dummy, target, strict=True)]
    shapes = tuple(None if tensor is None else tuple(tensor.shape) for tensor in either)
    return _layers_of(shapes, tuple(chosen), merge_bias, layers)


@lru_cache(maxsize=1024)
def _layers_of(
    shapes: tuple, chosen: tuple[int, ...], merge_bias: bool, layers: tuple[int, ...] | None
) -> tuple[int, ...]:
    whole = layering(shapes, merge_bias, layers)
    layer = dict(zip(whole.kept, whole.layer_of, strict=True))
    number = {own: n for n, own in enumerate(sorted({layer[i] for i in chosen}))}
    return tuple(number[layer[i]] for i in chosen)


def kept_selected(kind: str | Kind, dummy: Entries, target: Entries, chosen: Sequence[int]) -> Tensor:
    """The kept distance of the gradients at these positions, the same in whatever order they are given."""
    distance, chosen = kept(kind), sorted(chosen)
    if not (distance.kind.merged or chosen == list(range(len(target)))):
        distance = kept(kind, layers=layers_of(dummy, target, chosen))
    return distance([dummy[i] for i in chosen], [target[i] for i in chosen])


class SelectedDistance:
    """A `GradientDistance` of chosen gradients of a network.

    Parameters
    ----------
    kind : str or Kind
        Of the distance.
    **options
        Of `GradientDistance`. ``layers`` has a number for each gradient of the network, chosen or not;
        ``layer_weights`` and ``variance`` have one for each layer of which a gradient is chosen.
    """

    def __init__(self, kind: str | Kind, **options: Any) -> None:
        check_options(options)
        self.distance = GradientDistance(kind, **options)
        self._selections: dict[tuple[int, ...], GradientDistance] = {}

    def __call__(self, dummy: Entries, target: Entries, chosen: Sequence[int]) -> Tensor:
        """The distance of the gradients at these positions, the same in whatever order they are given."""
        chosen = sorted(chosen)
        distance = self._of(dummy, target, chosen)
        return distance([dummy[i] for i in chosen], [target[i] for i in chosen])

    def _of(self, dummy: Entries, target: Entries, chosen: list[int]) -> GradientDistance:
        """The distance with these gradients' layers."""
        plain = self.distance
        if chosen == list(range(len(target))) or plain.kind.merged:
            return plain
        layers = layers_of(dummy, target, chosen, plain.merge_bias, plain.layers)
        if layers not in self._selections:
            if len(self._selections) >= _SELECTIONS:
                self._selections.clear()
            self._selections[layers] = plain.copy(layers=layers)
        return self._selections[layers]
