"""Gradient files: one tensor for each parameter of a model, of one victim or of many."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast.files.tensors import compare, read_tensors

__all__ = ["STACKED", "WITHHELD", "batch_name", "gradient_in_order", "read_gradient"]


WITHHELD = "withheld"
"""The metadata entry, a JSON list, with the parameters whose gradients were not shared."""


def read_gradient(model: nn.Module, path: str | Path) -> tuple[list[Tensor | None], dict[str, str]]:
    """The gradient, in the order of the model's parameters that are trained, and the file's metadata.

    None stands for what the metadata lists as withheld. Raises ValueError when another gradient is missing,
    or one is superfluous, of another shape, not floating point or not finite.
    """
    tensors, metadata = read_tensors(path, "gradient")
    return gradient_in_order(model, tensors, path, withheld=_withheld(metadata, path)), metadata


def _withheld(metadata: Mapping[str, str], path: str | Path) -> list[str]:
    try:
        names = json.loads(metadata.get(WITHHELD, "[]"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"gradient file {path}: its {WITHHELD} is not a JSON list of names")
    return names


def gradient_in_order(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: str | Path,
    *,
    finite: bool = True,
    withheld: Collection[str] = (),
) -> list[Tensor | None]:
    """The tensors of a gradient file in the order of the model's parameters that are trained.

    None stands for those that are `withheld`. Raises ValueError as `read_gradient` does; ``finite=False``
    leaves out the look at the values.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    expected = {name: shapes[name] for name in trained if name not in withheld}
    positions = {str(position) for position in range(len(tensors))}
    if set(tensors) == positions and not positions <= set(expected):  # a list, in the order of the parameters
        if len(tensors) != len(expected):
            count = f"{len(tensors)} gradients, the model has {len(expected)} parameters"
            raise ValueError(f"gradient file {path}: holds {count}")
        tensors = {name: tensors[str(position)] for position, name in enumerate(expected)}
    compare("gradient", path, expected, tensors)
    for name in expected:
        if not tensors[name].is_floating_point():
            raise ValueError(f"gradient file {path}: {name} is {tensors[name].dtype}, not floating point")
        if finite and not torch.isfinite(tensors[name]).all():
            raise ValueError(f"gradient file {path}: {name} is not finite")
    return [tensors[name] if name in expected else None for name in trained]


STACKED = "victims"
"""The metadata entry by which a file with many victims is known."""


_LONGEST_NAME = 100


def batch_name(images: Sequence[Path]) -> str:
    """What a batch of these image files is called."""
    name = "+".join(image.stem for image in images)
    return name if len(name) <= _LONGEST_NAME else f"{images[0].stem}+{len(images) - 1} more"
