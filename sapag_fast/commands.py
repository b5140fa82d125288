"""What each command of ``sapag-fast`` does, given its options. Everything is read and checked before anything
is written.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import sapag_fast
from sapag_fast import data
from sapag_fast import demo as demonstration
from sapag_fast.files import load_weights, read_gradient, write_tensors
from sapag_fast.model_file import load_model
from sapag_fast.pictures import save_picture, to_picture
from sapag_fast.report import Finished, Report, check_output, recoveries_table

LOSS = "cross_entropy"


@dataclass(frozen=True)
class Victim:
    """One gradient to invert: ``gradient`` in the order of the model's parameters, truth [B, *input_shape] if
    known.
    """

    name: str
    gradient: list[Tensor]
    input_shape: tuple[int, ...]
    batch_size: int
    true_labels: Tensor | None
    truth: Tensor | None


def demo(*, output: Path, overwrite: bool, seed: int, device: str | None, quick: bool) -> None:
    console, place = Console(), chosen_device(device)
    report = Report(output, "demo", demonstration.settings(seed, quick), place, overwrite=overwrite)

    def work() -> None:
        demonstration.run(report, seed=seed, quick=quick, console=console)

    def show() -> None:
        console.print(demonstration.summary_table(report.finished))

    keep_results(report, work, show, lambda: {"summary": demonstration.summary(report.finished)})
    console.print(f"Images, grid.png and results.json are in {output}.")


def recover(
    *,
    model_reference: str,
    weights: Path | None,
    gradients: tuple[Path, ...],
    truth: tuple[Path, ...],
    device: str | None,
    output: Path,
    overwrite: bool,
    **options: Any,
) -> None:
    console, place = Console(), chosen_device(device)
    settings = {
        "model": model_reference,
        "weights": weights,
        "gradients": gradients,
        "truth": truth,
        **options,
    }
    report = Report(output, "recover", settings, place, overwrite=overwrite)
    model = built_model(model_reference, weights, options["seed"], place)
    victims = read_victims(
        model, gradients, truth, options.pop("input_shape"), options.pop("batch_size"), place
    )
    labels = options.pop("labels")
    if not isinstance(labels, str):
        labels = torch.tensor(labels, device=place)

    def work() -> None:
        for victim in victims:
            result = recovered(model, victim, labels, options)
            report.add(result)
            if result.status == "interrupted":  # recover() swallows Ctrl-C to hand back its best iterates
                raise KeyboardInterrupt

    keep_results(report, work, lambda: console.print(recoveries_table(report.finished)))
    console.print(f"Results are in {output}.")


def capture(
    *,
    model_reference: str,
    weights: Path | None,
    images: tuple[Path, ...],
    input_shape: tuple[int, ...],
    labels: tuple[int, ...] | None,
    with_labels: bool,
    gradient: Path,
    save_weights: Path | None,
    overwrite: bool,
    seed: int,
    device: str | None,
) -> None:
    place = chosen_device(device)
    for path in filter(None, (gradient, save_weights)):
        check_new_file(path, overwrite)
    model = built_model(model_reference, weights, seed, place)
    inputs = data.read_images(images, input_shape).to(place)
    classes = torch.tensor(labels or range(len(inputs)), device=place)
    if len(classes) != len(inputs):
        raise ValueError(f"{len(classes)} labels for {len(inputs)} images")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    tensors = dict(zip(names, shared_gradient(model, inputs, classes), strict=True))
    metadata = {
        "batch_size": str(len(inputs)),
        "input_shape": "x".join(map(str, input_shape)),
        "loss": LOSS,
        "sapag_fast": sapag_fast.__version__,
        "weights_sha256": fingerprint(model),
    }
    if with_labels:
        metadata["labels"] = ",".join(str(int(label)) for label in classes)
    if save_weights:
        write_tensors(save_weights, model.state_dict(), {"sapag_fast": sapag_fast.__version__})
    write_tensors(gradient, tensors, metadata)
    click.echo(f"{gradient}: {len(tensors)} gradients of {len(inputs)} image(s)")


def images(*, source: str, count: int, size: int, output: Path, overwrite: bool) -> None:
    pictures, labels = data.SOURCES[source](count, size)
    check_output(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    for position, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        save_picture(output / f"{source}-{position:03d}-label{label}.png", to_picture(picture))
    click.echo(f"{output}: {len(pictures)} images")


def keep_results(
    report: Report,
    work: Callable[[], None],
    show: Callable[[], None],
    summary: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Run ``work``, which adds to the report; whatever ends it, finished victims stay and results.json says
    how it ended.
    """
    try:
        work()
    except KeyboardInterrupt:
        report.finish("interrupted", **summary())
        show()
        raise
    except BaseException:
        if report.finished:
            report.finish("failed", **summary())
        raise
    report.finish("finished", **summary())
    show()


def chosen_device(name: str | None) -> torch.device:
    """The named device, or the GPU where there is one. Raises ValueError for one that is unknown or not
    there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r}: {str(error).strip().splitlines()[0]}") from None
    if device.type == "meta":
        raise ValueError(f"device {name!r}: holds no numbers")
    return device


def built_model(reference: str, weights: Path | None, seed: int, device: torch.device) -> nn.Module:
    """The user's model on the device; seeded, so that one that draws its own weights draws the same ones
    every time.
    """
    torch.manual_seed(seed)
    model = load_model(reference)
    if weights is not None:
        load_weights(model, weights)
    return model.to(device)


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


def read_victims(
    model: nn.Module,
    gradients: Sequence[Path],
    truth: Sequence[Path],
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    device: torch.device,
) -> list[Victim]:
    """Every gradient file, with what its metadata says where the options do not. Raises ValueError if
    something is missing.
    """
    names = [path.stem for path in gradients]
    if len(set(names)) < len(names):
        names = [f"{position:02d}-{name}" for position, name in enumerate(names)]
    victims = []
    for name, path in zip(names, gradients, strict=True):
        gradient, metadata = read_gradient(model, path)
        shape = input_shape or _shape_in(metadata)
        if shape is None:
            raise ValueError(f"gradient file {path}: does not say the input shape; pass --input-shape")
        recorded = metadata.get("weights_sha256")
        if recorded and recorded != fingerprint(model):
            click.echo(
                f"sapag-fast: warning: {path} was captured with other weights than the model has now",
                err=True,
            )
        size = batch_size or (
            int(metadata["batch_size"]) if metadata.get("batch_size", "").isdecimal() else 1
        )
        labels = metadata.get("labels", "").split(",")
        known = torch.tensor([int(label) for label in labels]) if all(map(str.isdecimal, labels)) else None
        victims.append(Victim(name, [g.to(device) for g in gradient], shape, size, known, None))
    return _with_truth(victims, truth) if truth else victims


def recovered(model: nn.Module, victim: Victim, labels: str | Tensor, options: Mapping[str, Any]) -> Finished:
    """Run sf.recover on one victim, with its progress bar."""
    began = time.perf_counter()
    result = sapag_fast.recover(
        model,
        victim.gradient,
        victim.input_shape,
        batch_size=victim.batch_size,
        labels=labels,
        progress=True,
        **options,
    )
    inputs = result.inputs[0].cpu()
    return Finished(
        name=victim.name,
        group=victim.name,
        method="recovered",
        inputs=inputs,
        labels=result.labels[0].cpu(),
        distance=float(result.distance[0]),
        evaluations=int(result.evaluations[0]),
        seconds=time.perf_counter() - began,
        status=result.status[0],
        truth=victim.truth,
        true_labels=victim.true_labels if victim.truth is not None else None,
        details={"mode": result.mode, "recipe": asdict(result.recipe)},
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_new_file(path: Path, overwrite: bool) -> None:
    """Raise ValueError unless ``path`` is a .safetensors file that can be written now."""
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}: expected a name ending in .safetensors")
    if path.exists() and not overwrite:
        raise ValueError(f"file {path}: exists already; name another one or pass --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"file {path}: folder {path.parent} does not exist")


def _with_truth(victims: list[Victim], paths: Sequence[Path]) -> list[Victim]:
    """Deal the true images out to the victims in order."""
    shapes = {victim.input_shape for victim in victims}
    if len(shapes) > 1:
        raise ValueError("--truth needs gradients of one input shape")
    images = data.read_images(paths, shapes.pop())
    sizes = [victim.batch_size for victim in victims]
    if len(images) != sum(sizes):
        raise ValueError(f"--truth gives {len(images)} images, the gradients stand for {sum(sizes)}")
    pairs = zip(victims, images.split(sizes), strict=True)
    return [replace(victim, truth=batch) for victim, batch in pairs]


def _shape_in(metadata: Mapping[str, str]) -> tuple[int, ...] | None:
    parts = metadata.get("input_shape", "").split("x")
    return tuple(map(int, parts)) if all(map(str.isdecimal, parts)) else None
