"""From a list of gradient tensors to layers: which tensors form one segment.

A *layer* is one or more tensors (usually a weight and its bias) whose sums are taken together; a
*segment* is one layer of one recovery.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from sapag_fast import checks as check

Gradients = Iterable[Tensor | None]

MOST_LAYERS = 2**20
"""Layer numbers stay below: there are sums for every number up to the highest."""


@dataclass(frozen=True)
class Layering:
    """Which layer every tensor of a list belongs to.

    Attributes
    ----------
    kept : tuple of int
        Positions of the tensors that are present; pairs of None are left out.
    layer_of : tuple of int
        The layer of each kept tensor.
    layers : int
        How many layers there are.
    """

    kept: tuple[int, ...]
    layer_of: tuple[int, ...]
    layers: int

    def merged(self) -> "Layering":
        """All tensors in a single layer: what the distances over the whole gradient work on."""
        return Layering(self.kept, (0,) * len(self.layer_of), 1)


@lru_cache(maxsize=1024)
def layering(
    shapes: tuple[tuple[int, ...] | None, ...], merge_bias: bool, layers: tuple[int, ...] | None
) -> Layering:
    """Group tensors into layers by their shapes.

    Parameters
    ----------
    shapes : tuple of (tuple of int or None)
        Without the recoveries' dimension; None where a tensor is missing.
    merge_bias : bool
        A vector that follows a tensor whose first dimension it shares joins that tensor's layer, one vector
        for each layer; a None between them keeps them apart.
    layers : tuple of int or None
        A layer number for each tensor, in place of that rule.

    Raises
    ------
    ValueError
        If ``layers`` has the wrong length or holds a number that is no layer's.
    """
    kept = tuple(i for i, shape in enumerate(shapes) if shape is not None)
    if layers is not None:
        if len(layers) != len(shapes):
            raise ValueError(
                f"layers: expected one layer number for each of {len(shapes)} tensors, found {len(layers)}"
            )
        if any(not 0 <= layer < MOST_LAYERS for layer in layers):
            found = min(layers) if min(layers) < 0 else max(layers)
            raise ValueError(f"layers: expected numbers in 0..{MOST_LAYERS - 1}, found {found}")
        return Layering(kept, tuple(layers[i] for i in kept), max([0, *(layers[i] + 1 for i in kept)]))

    layer_of: list[int] = []
    count = 0
    opener: tuple[int, ...] | None = None
    for shape in shapes:
        if shape is None:
            opener = None
            continue
        if merge_bias and opener and len(shape) == 1 and shape[0] == opener[0]:
            layer_of.append(count - 1)
            opener = None
            continue
        layer_of.append(count)
        count += 1
        opener = shape
    return Layering(kept, tuple(layer_of), count)


def module_layers(model: nn.Module) -> tuple[int, ...]:
    """The layer of every trainable parameter, in the order of ``model.parameters()``.

    A parameter shares its layer with the others of the same submodule: exact where the rule on shapes must
    guess.
    """
    owners = [name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad]
    number = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    return tuple(number[owner] for owner in owners)


LAYER_RULES = ("modules", "shapes", "separate")


def model_layers(model: nn.Module, layers: str | Sequence[int]) -> tuple[int, ...]:
    """The layer of every trainable parameter of a model, by a rule's name or as given.

    Parameters
    ----------
    model : nn.Module
        Whose parameters with ``requires_grad`` count.
    layers : str or sequence of int
        ``modules`` (a submodule's own parameters form a layer), ``shapes`` (the rule of `layering`),
        ``separate`` (one layer each), or a number for each parameter.

    Raises
    ------
    ValueError
        For another name, or numbers that do not fit the model.
    """
    shapes = tuple(tuple(p.shape) for p in model.parameters() if p.requires_grad)
    if not isinstance(layers, str):
        return layering(shapes, True, check.check_integers("layers", layers)).layer_of
    check.check_choice("layers", layers, LAYER_RULES, other="a number for each tensor")
    return (
        module_layers(model) if layers == "modules" else layering(shapes, layers == "shapes", None).layer_of
    )


def shapes_of(gradients: Sequence[Tensor | None], batched: bool) -> tuple[tuple[int, ...] | None, ...]:
    """Shapes of the tensors without the recoveries' dimension."""
    lead = 1 if batched else 0
    return tuple(None if t is None else tuple(t.shape[lead:]) for t in gradients)


def rows_of(tensor: Tensor, batched: bool) -> Tensor:
    """``[R, n]``, the elements of each recovery; R = 1 when not batched."""
    return tensor.reshape(tensor.shape[0] if batched else 1, math.prod(tensor.shape[1 if batched else 0 :]))


def layer_sizes(gradients: Sequence[Tensor], layering: Layering, batched: bool) -> Tensor:
    """Elements in each layer of one recovery, float64 ``[L]``, on the gradients' device."""
    sizes = [0] * layering.layers
    for tensor, layer in zip(gradients, layering.layer_of, strict=True):
        sizes[layer] += math.prod(tensor.shape[1:] if batched else tensor.shape)
    return torch.tensor(sizes, dtype=torch.float64, device=gradients[0].device)
