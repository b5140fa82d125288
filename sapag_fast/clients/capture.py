"""``sapag-fast capture``: what clients that train a model on some images would share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import data
from sapag_fast._version import __version__
from sapag_fast.clients.named_defences import named_defences
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.gradient_file import STACKED, WITHHELD, batch_name
from sapag_fast.files.output import check_output
from sapag_fast.files.tensors import write_tensors

__all__ = ["LOSS", "capture"]

LOSS = "cross_entropy"


def capture(
    model: nn.Module,
    device: torch.device,
    *,
    images: tuple[Path, ...],
    input_shape: tuple[int, ...],
    labels: tuple[int, ...] | None,
    batch_size: int | None,
    with_labels: bool,
    gradient: Path,
    save_weights: Path | None,
    overwrite: bool,
    defences: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Write the gradient of all images together, or with `batch_size` of every so many: a file of many where
    the name ends in .safetensors, else a folder with a file a victim.

    Each gradient passes the `defences` (see `named_defences`) in their order; the metadata names them, and
    the entries that were withheld.

    Raises
    ------
    ValueError
        For images, labels and paths that do not fit. Nothing is written then, except that a folder keeps the
        victims before the one at fault.
    """
    folder = batch_size is not None and not gradient.suffix
    defended = named_defences(defences, seed)
    if batch_size is not None and any(text.startswith("withhold") for text in defences):
        raise ValueError("--defence withhold: an audit takes whole gradients; leave out --batch-size")
    for path in filter(None, (None if folder else gradient, save_weights)):
        check_new_file(path, overwrite)
    if folder:
        check_output(gradient, overwrite)
    files = data.image_files(images)
    size = batch_size or len(files)
    classes = torch.tensor(labels or range(len(files)), device=device)
    if len(classes) != len(files):
        raise ValueError(f"{len(classes)} labels for {len(files)} images")
    if len(files) % size:
        raise ValueError(f"--batch-size {size}: {len(files)} images do not fill whole batches")
    batches = [files[at : at + size] for at in range(0, len(files), size)]
    names = [batch_name(batch) for batch in batches]
    if len(set(names)) < len(names):
        raise ValueError("images: several have one name, and victims are named after their images")

    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def captured() -> Iterator[dict[str, Tensor]]:
        for batch, own in zip(batches, classes.split(size), strict=True):
            inputs = data.read_images(batch, input_shape).to(device)
            shared = zip(trained, defended(shared_gradient(model, inputs, own)), strict=True)
            yield {name: tensor for name, tensor in shared if tensor is not None}

    metadata = {
        "batch_size": str(size),
        "input_shape": "x".join(map(str, input_shape)),
        "loss": LOSS,
        "sapag_fast": __version__,
        "weights_sha256": model_fingerprint(model),
    }
    known = [own.tolist() for own in classes.split(size)]
    single = [{"labels": ",".join(map(str, own))} if with_labels else {} for own in known]
    gradients = captured()
    first = next(gradients)  # a model that rejects the images has nothing written
    if defences:
        metadata["defences"] = json.dumps(list(defences))
        if withheld := [name for name in trained if name not in first]:
            metadata[WITHHELD] = json.dumps(withheld)
    if not folder:
        gradients = iter(list(gradients))
    if save_weights:
        write_tensors(save_weights, model.state_dict(), {"sapag_fast": __version__})
    if batch_size is None:
        write_tensors(gradient, first, metadata | single[0])
    elif folder:
        gradient.mkdir(parents=True, exist_ok=True)
        for name, own, tensors in zip(names, single, (first, *gradients), strict=True):
            write_tensors(gradient / f"{name}.safetensors", tensors, metadata | own)
    else:
        rows = [first, *gradients]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in first}
        many = {STACKED: json.dumps(names)} | ({"labels": json.dumps(known)} if with_labels else {})
        write_tensors(gradient, stacked, metadata | many)
    victims = f", {len(names)} victims" if batch_size else ""
    click.echo(f"{gradient}: {len(first)} gradients of {size} image(s){victims}")


def shared_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Cross entropy's gradient for every parameter that is trained, in order. Raises ValueError where model
    and inputs do not fit.
    """
    shape = "x".join(map(str, inputs.shape[1:]))
    try:
        logits = model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"input shape {shape}: the model rejects it: {error}") from None
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(inputs):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model gives {found} for {len(inputs)} images; expected logits [batch, classes]"
        )
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"label {int(labels.max())}: the model has {logits.shape[1]} classes")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(F.cross_entropy(logits, labels), parameters, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True))


def check_new_file(path: Path, overwrite: bool) -> None:
    """Raise ValueError unless ``path`` is a .safetensors file that can be written now."""
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}: expected a name ending in .safetensors")
    if path.exists() and not overwrite:
        raise ValueError(f"file {path}: exists already; name another one or pass --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"file {path}: folder {path.parent} does not exist")
