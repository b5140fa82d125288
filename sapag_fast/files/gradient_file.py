"""Gradient files: one tensor for each trained parameter of a model, of one victim or of many.

Many victims of one model come as a folder of gradient files, or as one stacked safetensors file in which
every tensor has a leading dimension V. The metadata, words in safetensors, says what is public: the shape of
an input, the size of the batch, the client's defences, perhaps the labels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast._version import __version__
from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.files.parameter_names import by_position, near_weights, of_trained
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.files.tensors import (
    SUFFIXES,
    as_list,
    compare,
    opened_safetensors,
    read_tensors,
    write_tensors,
)

__all__ = [
    "LOSS",
    "STACKED",
    "WITHHELD",
    "GradientMetadata",
    "batch_name",
    "gradient_in_order",
    "json_list",
    "read_gradient",
    "read_metadata",
    "write_folder",
    "write_gradient",
    "write_stacked",
]

LOSS = "cross_entropy"
"""The loss whose gradient a captured file holds."""

STACKED = "victims"
"""The metadata entry, a JSON list of names, by which a file with many victims is known."""

CHECKSUM = "gradient_sha256"
"""The metadata entry with `gradient_checksum`; of many victims a JSON list."""

WITHHELD = "withheld"
"""The metadata entry, a JSON list, with the parameters whose gradients were not shared."""

_LONGEST_NAME = 100
_MOST_DIMENSIONS = 16  # of an input
_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class GradientMetadata:
    """What a gradient file says of itself.

    Attributes
    ----------
    input_shape : tuple of int or None
        Of one input; None where the file does not say it.
    batch_size : int or None
        Inputs behind one gradient.
    labels : tuple of int or None
        Of the one victim of a file, where it says them.
    weights : str or None
        `model_fingerprint` of the model that the gradient was captured from.
    loss : str
    defences : tuple of str
        What the client did to its gradient, in order (see `named_defences`).
    withheld : tuple of str
        Parameters whose gradients were not shared.
    mean, std : tuple of float or None
        With which the client normalised its pictures, one number for each channel, or for all.
    averaged_batches : int
        Mini-batches whose gradients the client averaged.
    """

    input_shape: tuple[int, ...] | None = None
    batch_size: int | None = None
    labels: tuple[int, ...] | None = None
    weights: str | None = None
    loss: str = LOSS
    defences: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    averaged_batches: int = 1

    @classmethod
    def parsed(cls, entries: Mapping[str, str]) -> GradientMetadata:
        """Read the entries that tell a victim's shape, batch size, labels, model and normalisation.

        Raises
        ------
        ValueError
            For an entry that makes no sense.
        """
        return cls(
            input_shape=_numbers(entries, "input_shape", "3x32x32", least=1, most=_MOST_DIMENSIONS),
            batch_size=_one_number(entries, "batch_size"),
            labels=_numbers(entries, "labels", "3,7", least=0),
            weights=entries.get("weights_sha256"),
            mean=_statistic(entries, "mean", "std"),
            std=_statistic(entries, "std", "mean"),
            averaged_batches=_one_number(entries, "averaged_batches") or 1,
        )

    def entries(self) -> dict[str, str]:
        """Words by name, as a file holds them."""
        entries = {
            "batch_size": None if self.batch_size is None else str(self.batch_size),
            "input_shape": None if self.input_shape is None else "x".join(map(str, self.input_shape)),
            "loss": self.loss,
            "sapag_fast": __version__,
            "weights_sha256": self.weights,
            "defences": json.dumps(list(self.defences)) if self.defences else None,
            WITHHELD: json.dumps(list(self.withheld)) if self.withheld else None,
            "labels": None if self.labels is None else ",".join(map(str, self.labels)),
            "mean": None if self.mean is None else ",".join(map(repr, self.mean)),
            "std": None if self.std is None else ",".join(map(repr, self.std)),
            "averaged_batches": str(self.averaged_batches) if self.averaged_batches > 1 else None,
        }
        return {name: words for name, words in entries.items() if words is not None}


def read_metadata(path: Path) -> dict[str, str]:
    """Read a gradient file's metadata, and no tensor; torch's own format has none.

    Raises
    ------
    ValueError
        For what is no gradient file by its name, no file, or damaged.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"gradient file {shown(path)}: expected {', '.join(sorted(SUFFIXES))}")
    regular_file(path, "gradient file")
    if path.suffix.lower() != ".safetensors":
        return {}
    with opened_safetensors(path, "gradient") as opened:
        return dict(opened.metadata() or {})


def read_gradient(model: nn.Module, path: str | Path) -> tuple[list[Tensor | None], dict[str, str]]:
    """Read the gradient, in the order of the model's trained parameters, and the file's metadata.

    None stands for what the metadata lists as withheld.

    Raises
    ------
    ValueError
        When another gradient is missing, or one is superfluous (but a buffer's, or a frozen parameter's), of
        another shape, not floating point or not finite, when the numbers are a model's weights, and when they
        are not those that the file's checksum is of.
    """
    tensors, metadata = read_tensors(path, "gradient")
    if tensors and (_same(model.state_dict(), tensors) or _holds_weights(metadata)):
        raise ValueError(f"gradient file {shown(path)}: expected a gradient, found a model's weights")
    check_checksum(tensors, metadata.get(CHECKSUM), path)
    gradient = gradient_in_order(model, tensors, path, withheld=_withheld(metadata, path))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if near_weights(model, dict(zip(trained, gradient, strict=True))):
        raise ValueError(
            f"gradient file {shown(path)}: expected a gradient, found numbers close to the model's weights; "
            "recover takes parameters before and after as --before and --after"
        )
    return gradient, metadata


def gradient_in_order(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: str | Path,
    *,
    finite: bool = True,
    withheld: Collection[str] = (),
) -> list[Tensor | None]:
    """Put the tensors of a gradient file in the order of the model's trained parameters.

    None stands for those that are `withheld`; ``finite=False`` leaves out the look at the values.

    Raises
    ------
    ValueError
        As `read_gradient` does.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    expected = {name: shapes[name] for name in trained if name not in withheld}
    entries = as_list(tensors)
    if entries is not None and not set(tensors) <= set(expected):
        if withheld and len(entries) == len(expected):
            tensors = dict(zip(expected, entries, strict=True))
        else:
            tensors = by_position(model, entries, f"gradient file {shown(path)}")
    else:
        try:
            tensors = of_trained(model, tensors)
        except ValueError as error:
            raise ValueError(f"gradient file {shown(path)}: {error}") from None
    compare("gradient", path, expected, tensors)
    for name in expected:
        if tensors[name].dtype not in _FLOATING:
            raise ValueError(
                f"gradient file {shown(path)}: {name} is {tensors[name].dtype}, not floating point"
            )
        if finite and not torch.isfinite(tensors[name]).all():
            raise ValueError(f"gradient file {shown(path)}: {name} is not finite")
    return [tensors[name] if name in expected else None for name in trained]


def write_gradient(
    path: Path, gradient: Mapping[str, Tensor], metadata: GradientMetadata, *, durable: bool = True
) -> None:
    """Write one victim's gradient, by parameter, at once or not at all; `durable` as in `replacing`."""
    entries = metadata.entries() | {CHECKSUM: gradient_checksum(gradient)}
    write_tensors(path, gradient, entries, durable=durable)


def write_folder(folder: Path, victims: Iterable[tuple[str, Mapping[str, Tensor], GradientMetadata]]) -> None:
    """Write a file for each victim, given as name, gradient by parameter and metadata.

    The files are whole, but not `durable`: thousands of ``fsync`` would take minutes on some disks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, gradient, metadata in victims:
        write_gradient(folder / f"{name}.safetensors", gradient, metadata, durable=False)


def write_stacked(
    path: Path,
    names: Sequence[str],
    gradients: Sequence[Mapping[str, Tensor]],
    metadata: GradientMetadata,
    labels: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write V victims of one batch size into one file.

    Parameters
    ----------
    path : Path
    names : sequence of str
        V different names.
    gradients : sequence of mapping
        V gradients by parameter.
    metadata : GradientMetadata
        What the victims share.
    labels : sequence of sequence of int, optional
        ``[V][B]``.
    """
    stacked = {name: torch.stack([gradient[name] for gradient in gradients]) for name in gradients[0]}
    checksums = [gradient_checksum(gradient) for gradient in gradients]
    own = {STACKED: json.dumps(list(names)), CHECKSUM: json.dumps(checksums)}
    if labels is not None:
        own["labels"] = json.dumps([list(batch) for batch in labels])
    write_tensors(path, stacked, metadata.entries() | own)


def gradient_checksum(gradient: Mapping[str, Tensor]) -> str:
    """SHA-256 of one victim's gradient, by parameter."""
    names = sorted(gradient)
    return fingerprint(names, [gradient[name] for name in names])


def check_checksum(gradient: Mapping[str, Tensor], expected: object, path: str | Path) -> None:
    """Raise ValueError unless the gradient is the one that `expected` was made of; None: nobody knows."""
    if expected is not None and gradient_checksum(gradient) != expected:
        raise ValueError(
            f"gradient file {shown(path)}: damaged: its numbers have another checksum than it says"
        )


def batch_name(images: Sequence[Path]) -> str:
    """Name a batch after its image files."""
    name = "+".join(image.stem for image in images)
    return name if len(name) <= _LONGEST_NAME else f"{images[0].stem}+{len(images) - 1} more"


def json_list(entries: Mapping[str, str], name: str, path: str | Path) -> list:
    """An entry of the metadata that is a JSON list; empty where there is none.

    Raises
    ------
    ValueError
        For anything else.
    """
    try:
        content = json.loads(entries.get(name, "[]"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, list):
        raise ValueError(f"gradient file {shown(path)}: its {name} are not a JSON list")
    return content


def _same(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> bool:
    """Whether all the tensors are the model's own, to the last bit."""
    alike = all(name in own and own[name].dtype == tensor.dtype for name, tensor in tensors.items())
    return alike and all(torch.equal(own[name].cpu(), tensor) for name, tensor in tensors.items())


def _holds_weights(metadata: Mapping[str, str]) -> bool:
    """Whether sapag_fast wrote the file, and not as a gradient."""
    return "sapag_fast" in metadata and "loss" not in metadata


def _withheld(metadata: Mapping[str, str], path: str | Path) -> list[str]:
    names = json_list(metadata, WITHHELD, path)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"gradient file {shown(path)}: its {WITHHELD} are not a JSON list of names")
    return names


def _one_number(entries: Mapping[str, str], name: str) -> int | None:
    """The whole number of an entry; None where there is none."""
    return next(iter(_numbers(entries, name, "1", least=1, most=1) or ()), None)


def _numbers(
    entries: Mapping[str, str], name: str, such_as: str, *, least: int, most: int | None = None
) -> tuple[int, ...] | None:
    """The whole numbers of an entry, `most` of them, which int64 holds; None where there is none."""
    text = entries.get(name, "")
    if not text:
        return None
    separator = "x" if name == "input_shape" else ","
    hint = "" if name == "labels" else f"; pass --{name.replace('_', '-')}"
    count = text.count(separator) + 1
    if most is not None and count > most:  # before they are taken apart: a file may hold millions
        expected = "one number" if most == 1 else f"at most {most} numbers"
        raise ValueError(f"its {name}: expected {expected}, found {count}{hint}")
    parts = text.split(separator)
    if all(_NUMBER.fullmatch(part) and int(part) >= least for part in parts):
        return tuple(map(int, parts))
    raise ValueError(
        f"its {name}: expected whole numbers such as {such_as}, found '{shown(text[:40])}'{hint}"
    )


def _statistic(entries: Mapping[str, str], name: str, other: str) -> tuple[float, ...] | None:
    """The finite numbers of an entry that comes with its `other`; None where there are none."""
    text = entries.get(name, "")
    if not text and not entries.get(other, ""):
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"its {name}: expected numbers such as 0.1307, found '{shown(text[:40])}'")
    return numbers
