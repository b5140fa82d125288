"""What clients that train a model on some images would share, captured in gradient files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast import data
from sapag_fast._version import __version__
from sapag_fast.checks import check_separate
from sapag_fast.clients.gradient import checked_loss, client_gradient
from sapag_fast.clients.named_defences import named_defences
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.gradient_file import (
    LOSS,
    GradientMetadata,
    batch_name,
    write_folder,
    write_gradient,
    write_stacked,
)
from sapag_fast.files.output import check_new_file, check_output
from sapag_fast.files.tensors import SUFFIXES, write_tensors
from sapag_fast.runtime.streams import tell
from sapag_fast.search.box import check_within
from sapag_fast.victim.losses import CrossEntropy, Loss
from sapag_fast.victim.normalised import PerChannel, as_tuple, check_statistics, normalised

__all__ = ["CaptureOptions", "capture"]


@dataclass(frozen=True)
class CaptureOptions:
    """Which gradients are captured, and where they are written.

    Attributes
    ----------
    images : sequence of Path
        Image files, or folders of them.
    input_shape : tuple of int
        Of one input; images are fitted to it.
    gradient : Path
        The .safetensors file to write; with `batch_size` also a folder, for a file a victim.
    loss : Loss
        What the client minimises.
    labels : sequence of float or None
        Of cross-entropy one class an image; None: 0, 1, 2 and so on. Of other losses all targets of an image,
        then of the next.
    batch_size : int or None
        Images behind each gradient; None: one gradient of all.
    with_labels : bool
        Write the labels, too: one whole number an image.
    save_weights : Path or None
        A .safetensors file for the model's weights.
    overwrite : bool
        Replace files that exist.
    defences : sequence of str
        What each gradient passes, in order (see `named_defences`).
    seed : int
        Of what the defences draw.
    mean, std : float, sequence of float or None
        The network sees (x - mean) / std of pictures x in [0, 1]; one number, or one for each channel.

    Raises
    ------
    TypeError, ValueError
        For a mean or std that does not fit, for labels that the loss needs, and for those that files do not
        hold.
    """

    images: Sequence[Path]
    input_shape: tuple[int, ...]
    gradient: Path
    loss: Loss = field(default_factory=CrossEntropy)
    labels: Sequence[float] | None = None
    batch_size: int | None = None
    with_labels: bool = False
    save_weights: Path | None = None
    overwrite: bool = False
    defences: Sequence[str] = ()
    seed: int = 0
    mean: PerChannel | None = None
    std: PerChannel | None = None

    def __post_init__(self) -> None:
        mean, std = check_statistics(self.mean, self.std)
        check_within(mean, (0.0, 1.0))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        if self.labels is None and not self.of_classes:
            raise ValueError(f"labels: expected the targets of {self.loss.words}, found none")

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes, one an image."""
        return isinstance(self.loss, CrossEntropy)

    @property
    def into_folder(self) -> bool:
        """Whether every victim has a file of its own."""
        return self.batch_size is not None and not self.gradient.suffix


@dataclass(frozen=True)
class _Batch:
    name: str
    files: Sequence[Path]
    labels: Tensor


def capture(model: nn.Module, device: torch.device, options: CaptureOptions) -> str:
    """Write the gradient of all images together, or with a batch size of every so many.

    The metadata names the defences, and the entries that were withheld.

    Returns
    -------
    str
        What was written, in words.

    Raises
    ------
    ValueError
        For images, labels and paths that do not fit. Nothing is written then, except that a folder keeps the
        victims before the one at fault.
    """
    defended = named_defences(options.defences, options.seed)
    if options.batch_size is not None and any(text.startswith("withhold") for text in options.defences):
        raise ValueError("--defence withhold: an audit takes whole gradients; leave out --batch-size")
    _check_paths(options)
    batches = _batches(options, device)
    victim = normalised(model, options.mean, options.std, options.input_shape, device)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    kind = next(model.parameters()).dtype

    def captured() -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            inputs = data.read_images(batch.files, options.input_shape).to(device, kind)
            gradient = client_gradient(victim, inputs, batch.labels, checked_loss(options.loss))
            shared = zip(trained, defended(gradient), strict=True)
            yield {name: tensor for name, tensor in shared if tensor is not None}

    weights, gradients = model_fingerprint(model), captured()
    first = next(gradients)  # a model that rejects the images has nothing written
    metadata = GradientMetadata(
        input_shape=options.input_shape,
        batch_size=len(batches[0].files),
        weights=weights,
        loss=LOSS if options.loss.plain else options.loss.words,
        defences=tuple(options.defences),
        withheld=tuple(name for name in trained if name not in first),
        mean=as_tuple(options.mean),
        std=as_tuple(options.std),
    )
    if not options.into_folder:
        gradients = iter(list(gradients))
    if options.save_weights:
        write_tensors(options.save_weights, model.state_dict(), {"sapag_fast": __version__})
    _write(options, batches, metadata, first, gradients)
    _tell_of_others(options, batches)
    victims = f"{len(batches)} victims of " if options.batch_size else ""
    return f"{options.gradient}: {victims}{metadata.batch_size} image(s), {len(first)} tensors each"


def _tell_of_others(options: CaptureOptions, batches: Sequence[_Batch]) -> None:
    """Say which gradient files were in the folder before: an audit of it takes them for victims, too."""
    if not options.into_folder:
        return
    own = {f"{batch.name}.safetensors" for batch in batches}
    files = sorted(path.name for path in options.gradient.iterdir() if path.suffix.lower() in SUFFIXES)
    if others := [name for name in files if name not in own]:
        some = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        held = f"{options.gradient}: holds gradient files of before, too"
        tell(f"warning: {held}, for an audit's victims: {some}")


def _check_paths(options: CaptureOptions) -> None:
    check_separate(
        {"gradient": options.gradient, "save_weights": options.save_weights}, {"images": options.images}
    )
    for path in filter(None, (None if options.into_folder else options.gradient, options.save_weights)):
        check_new_file(path, options.overwrite)
    if options.into_folder:
        check_output(options.gradient, options.overwrite)


def _batches(options: CaptureOptions, device: torch.device) -> list[_Batch]:
    files = data.image_files(options.images)
    size = options.batch_size or len(files)
    labels = _labels(options, len(files)).to(device)
    if len(files) % size:
        raise ValueError(f"--batch-size {size}: {len(files)} images do not fill whole batches")
    parts = [files[at : at + size] for at in range(0, len(files), size)]
    batches = [
        _Batch(batch_name(part), part, own) for part, own in zip(parts, labels.split(size), strict=True)
    ]
    if len({batch.name for batch in batches}) < len(batches):
        raise ValueError("images: several have one name, and victims are named after their images")
    return batches


def _labels(options: CaptureOptions, images: int) -> Tensor:
    """Classes ``[images]``, or targets ``[images, ...]``."""
    labels = torch.tensor(range(images) if options.labels is None else options.labels)
    if options.of_classes:
        if len(labels) != images:
            raise ValueError(f"labels: expected {images}, one for each image, found {len(labels)}")
        return labels
    if not len(labels) or len(labels) % images:
        raise ValueError(
            f"labels: expected as many targets for each of {images} images, found {len(labels)} in all"
        )
    if options.with_labels and (labels.is_floating_point() or len(labels) != images or labels.min() < 0):
        raise ValueError(
            "--with-labels: a gradient file holds one whole number an image, found other targets; leave it "
            "out, and give them to recover as --labels"
        )
    return labels.view(images, -1)


def _write(
    options: CaptureOptions,
    batches: Sequence[_Batch],
    metadata: GradientMetadata,
    first: dict[str, Tensor],
    others: Iterator[dict[str, Tensor]],
) -> None:
    """Write the first gradient and the others: one file, a folder, or one file of many."""
    labels = [batch.labels.flatten().tolist() for batch in batches]
    own = [replace(metadata, labels=tuple(known)) if options.with_labels else metadata for known in labels]
    names = [batch.name for batch in batches]
    if options.batch_size is None:
        write_gradient(options.gradient, first, own[0])
    elif options.into_folder:
        write_folder(options.gradient, zip(names, chain((first,), others), own, strict=True))
    else:
        known = labels if options.with_labels else None
        write_stacked(options.gradient, names, [first, *others], metadata, known)
