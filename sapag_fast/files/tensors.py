"""Tensors on disk, read without running code from the file and written whole or not at all.

A gradient file holds one tensor per parameter name, in safetensors with a few words of metadata, or as a
dictionary or list of tensors in torch's own format (never unpickled: see `torch_pickle`) or NumPy's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sapag_fast.files.numpy_file import read_numpy_file
from sapag_fast.files.output import WriteError, replacing
from sapag_fast.files.parameter_names import all_by_position, state_names
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.files.torch_file import read_torch_file
from sapag_fast.files.torch_pickle import RefusedError

TORCH_SUFFIXES = frozenset({".pt", ".pth", ".bin"})
NUMPY_SUFFIX = ".npz"
SUFFIXES = TORCH_SUFFIXES | {".safetensors", NUMPY_SUFFIX}
"""Endings of files of tensors that are read."""


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write a safetensors file at once or not at all; `durable` as in `replacing`.

    Raises
    ------
    WriteError
        When it cannot be written; the message names the file.
    """
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        with replacing(path, durable=durable) as temporary:
            save_file(whole, temporary, dict(metadata or {}))
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"file {path}: cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from None


def read_tensors(path: str | Path, kind: str = "tensor") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by name, on the CPU, and the metadata of a .safetensors, .pt/.pth/.bin or .npz file.

    A list of tensors gets its positions as names. ``kind`` names the file in messages.

    Raises
    ------
    ValueError
        Naming the file and what is wrong with it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        suffixes = ", ".join(sorted(SUFFIXES - {".safetensors"}))
        raise ValueError(f"{kind} file {shown(path)}: expected .safetensors, {suffixes}")
    if suffix == ".safetensors":
        with opened_safetensors(path, kind) as opened:
            names = list(opened.keys())
            # Cloned into memory of torch's own alignment: matrix products on tensors that lie as the file
            # has them can differ in their last bits, and a run would not go on as it would have.
            tensors = {name: opened.get_tensor(name).clone() for name in names}
            return tensors, dict(opened.metadata() or {})
    regular_file(path, f"{kind} file")
    with _damage_named(path, kind):
        content = read_numpy_file(path) if suffix == NUMPY_SUFFIX else read_torch_file(path)
    return _named(content, kind, path), {}


@contextmanager
def opened_safetensors(path: str | Path, kind: str) -> Iterator[Any]:
    """Open a .safetensors file, from which tensors, or rows of them, are read one by one.

    ``kind`` names the file in messages.

    Raises
    ------
    ValueError
        Naming the file and what is wrong with it.
    """
    regular_file(path, f"{kind} file")
    with _damage_named(path, kind), safe_open(path, framework="pt") as opened:
        yield opened


@contextmanager
def _damage_named(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a hostile or damaged file makes its readers raise into one error that names the file."""
    try:
        yield
    except RefusedError as error:
        raise ValueError(
            f"{kind} file {shown(path)}: damaged, or holds {error}; only dense tensors are read"
        ) from None
    except Exception as error:
        raise ValueError(f"{kind} file {shown(path)}: damaged: {_first_line(error)}") from None


def load_weights(model: nn.Module, path: str | Path, *, whole: bool = True) -> list[str]:
    """Load a weight file into the model: by name, with any wrapper's prefix, or a list in order.

    Parameters
    ----------
    model : nn.Module
    path : str or Path
    whole : bool
        Whether all of the model's state must be there, or its trainable parameters alone.

    Returns
    -------
    list of str
        What the model keeps of its own.

    Raises
    ------
    ValueError
        Naming what is missing, superfluous, of another shape or kind of number, or not finite.
    """
    tensors, metadata = read_tensors(path, "weight")
    if {"sapag_fast", "batch_size"} <= set(metadata):
        raise ValueError(f"weight file {path}: expected weights, found a captured gradient")
    expected = model.state_dict()
    tensors = _in_state(model, tensors)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    kept = [name for name in expected if not (whole or name in tensors or name in trained)]
    shapes = {name: tensor.shape for name, tensor in expected.items() if name not in kept}
    compare("weight", path, shapes, tensors)
    for name, tensor in tensors.items():
        _check_numbers(f"weight file {shown(path)}: {name}", tensor, expected[name])
    model.load_state_dict(tensors, strict=not kept)
    return kept


def _in_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a file, by name or of a list in order, as the model's ``state_dict()`` does."""
    entries = as_list(tensors)
    if entries is not None and not set(tensors) <= set(model.state_dict()):
        return all_by_position(model, entries, "list of weights")
    return state_names(model, tensors)


def as_list(tensors: Mapping[str, Tensor]) -> list[Tensor] | None:
    """The tensors of a file that holds a list; None where they have names of their own."""
    positions = [str(position) for position in range(len(tensors))]
    return [tensors[position] for position in positions] if tensors.keys() == set(positions) else None


def _check_numbers(name: str, given: Tensor, own: Tensor) -> None:
    """Raise ValueError unless `given` keeps its numbers in the type of `own`, and they are finite."""
    kinds = [_kind(given.dtype), _kind(own.dtype)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name}: expected {kinds[1]} numbers as the model's, found {given.dtype}")
    if own.is_floating_point() and not torch.isfinite(given.to(own.dtype)).all():
        raise ValueError(f"{name}: expected numbers that are finite as {own.dtype}, found others")
    if not own.is_floating_point() and not torch.equal(given.to(own.dtype).to(given.dtype), given):
        raise ValueError(f"{name}: expected numbers that {own.dtype} holds, found others")


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point or dtype.is_complex:
        return "complex" if dtype.is_complex else "floating-point"
    return "truth" if dtype == torch.bool else "whole"


def compare(
    kind: str, path: str | Path, expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]
) -> None:
    """Raise ValueError unless the file's tensors have the model's names and shapes."""
    missing = [name for name in expected if name not in tensors]
    superfluous = [name for name in tensors if name not in expected]
    faults = [f"no {kind} for {_some(missing)}"] if missing else []
    faults += [f"{_some(superfluous)} unknown to the model"] if superfluous else []
    faults += [
        f"{name} is {_times(tensors[name].shape)}, the model's {_times(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if faults:
        if len(tensors) != len(expected):
            faults.insert(0, f"{len(tensors)} tensors for {len(expected)} in the model")
        raise ValueError(f"{kind} file {shown(path)} does not fit the model: {'; '.join(faults[:5])}")


def _named(content: object, kind: str, path: Path) -> dict[str, Tensor]:
    if isinstance(content, list | tuple):
        content = {str(position): tensor for position, tensor in enumerate(content)}
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ValueError(f"{kind} file {shown(path)}: expected a dictionary or a list of tensors")
    return dict(content)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _times(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _first_line(error: Exception) -> str:
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else kind
