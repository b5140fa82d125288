"""What ``sapag-fast recover`` does, given its options."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast import data
from sapag_fast.checks import check_separate
from sapag_fast.command_line.session import (
    built_model,
    check_classes,
    check_pictures,
    chosen_device,
    keep_results,
    loss_of,
    say_cautions,
    say_other_normalisation,
    search_options_of,
)
from sapag_fast.command_line.updates import SharedFiles
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.victims import described, file_state
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.finished import Finished, scored
from sapag_fast.reports.metrics import SUCCESS_MEANS
from sapag_fast.reports.report import Report, recoveries_table
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say, shown, tell
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.options import SearchOptions
from sapag_fast.victim.cautions import Caution, silenced
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.losses import CrossEntropy

__all__ = ["run"]


@dataclass(frozen=True)
class Victim:
    """One gradient to invert.

    Attributes
    ----------
    name : str
    gradient : list of Tensor or None
        In the order of the model's trained parameters, None where withheld.
    input_shape : tuple of int
    batch_size : int
    search : SearchOptions
        With the file's normalisation, unless the options give one.
    labels : Tensor or None
        ``[B]``, the true ones, where the file gives them.
    truth : Tensor or None
        ``[B, *input_shape]``.
    cautions : tuple of Caution
        What is to be known of the gradient itself.
    """

    name: str
    gradient: list[Tensor | None]
    input_shape: tuple[int, ...]
    batch_size: int
    search: SearchOptions
    labels: Tensor | None
    truth: Tensor | None = None
    cautions: tuple[Caution, ...] = ()


def run(
    *,
    model_reference: str,
    shared: SharedFiles,
    truth: tuple[Path, ...],
    device: str | None,
    output: Path,
    overwrite: bool,
    **options: Any,
) -> None:
    """Recover each victim in turn; everything is read and checked before anything is written."""
    check_separate({"--output": output}, {**shared.inputs(), "--truth": truth})
    console, where = Screen(), chosen_device(device)
    settings = {
        "model": model_reference,
        **shared.settings(),
        "truth": truth,
        **options,
    }
    report = Report(output, "recover", settings, where, overwrite=overwrite)
    search, loss = search_options_of(options), loss_of(options)
    shared.check_rate(search.local_training)
    check_pictures(search, truth=bool(truth))
    labels = options["labels"]
    check_classes(loss, labels)
    model = built_model(model_reference, shared.weights, search.seed, where)
    shared.load_before(model)
    victims = read_victims(model, shared, options["input_shape"], options["batch_size"], search, where)
    if truth:
        victims = with_truth(victims, truth)
    if not isinstance(labels, str):
        labels = torch.tensor(labels, device=where)
    said: set[Caution] = set()

    def work() -> None:
        for victim in victims:
            recovery = add_recovery(report, model, victim, _labels_of(victim, labels, loss), loss)
            say_cautions(victim.name, (*victim.cautions, *recovery.warnings), said)

    means = {"success_means": SUCCESS_MEANS} if truth else {}
    keep_results(report, work, lambda: console.print(recoveries_table(report.finished)), lambda: means)
    say(f"Results are in {output}.")


def add_recovery(
    report: Report, model: nn.Module, victim: Victim, labels: str | Tensor, loss: Loss
) -> Recovery:
    """Search one victim, with a progress bar, and add what was found to the report, also after Ctrl-C."""
    began = time.perf_counter()

    def finished(recovery: Recovery) -> Finished:
        source, why = recovery.label_source[0], recovery.label_reason[0]
        if why:
            tell(f"labels of {shown(victim.name)} are {source}: {why}")
        return scored(
            replace(recovery, warnings=(*victim.cautions, *recovery.warnings)),
            0,
            victim.name,
            seconds=time.perf_counter() - began,
            truth=victim.truth,
            true_labels=victim.labels if victim.truth is not None else None,
            details={"mean": victim.search.mean, "std": victim.search.std},
        )

    try:
        with silenced():
            recovery = recover(
                model,
                victim.gradient,
                victim.input_shape,
                loss_fn=loss,
                batch_size=victim.batch_size,
                labels=labels,
                progress=True,
                options=victim.search,
            )
    except Interrupted as stop:
        report.add(finished(stop.recovery))
        raise
    report.add(finished(recovery))
    return recovery


def _labels_of(victim: Victim, labels: str | Tensor, loss: Loss) -> str | Tensor:
    """The labels in the form of the victim's batch.

    Raises
    ------
    ValueError
        Where targets do not fill the batch.
    """
    if isinstance(labels, str) or isinstance(loss, CrossEntropy):
        return labels
    if len(labels) % victim.batch_size:
        raise ValueError(
            f"labels: expected as many targets for each of {victim.batch_size} inputs, found {len(labels)} "
            "in all"
        )
    return labels.view(victim.batch_size, -1)


def read_victims(
    model: nn.Module,
    shared: SharedFiles,
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    search: SearchOptions,
    device: torch.device,
) -> list[Victim]:
    """Read every victim's gradient, with what its metadata says where the options do not.

    Raises
    ------
    ValueError
        If something is missing, or does not fit the model.
    """
    names = [path.stem for path in shared.victims]
    if len(set(names)) < len(names):
        names = [f"{position:02d}-{name}" for position, name in enumerate(names)]
    victims = []
    for name, path in zip(names, shared.victims, strict=True):
        state = file_state(path)
        gradient, metadata, cautions = shared.read(model, path)
        listed = described(name, path, state, metadata, input_shape, batch_size)
        if listed.fault:
            raise ValueError(f"gradient file {path}: {listed.fault}")
        if listed.weights and listed.weights != model_fingerprint(model):
            tell(f"warning: {path} was captured with other weights than the model has now")
        labels = None if listed.labels is None else torch.tensor(listed.labels)
        on_device = [None if g is None else g.to(device) for g in gradient]
        own = search
        if search.averaged_batches is None:
            own = replace(own, averaged_batches=listed.averaged_batches)
        say_other_normalisation(search, [listed])
        if search.mean is None and listed.mean is not None:
            try:
                own = replace(own, mean=listed.mean, std=listed.std)
            except ValueError as error:
                raise ValueError(f"gradient file {path}: its {error}") from None
        size = (listed.input_shape, listed.batch_size)
        victims.append(Victim(name, on_device, *size, own, labels, cautions=cautions))
    return victims


def with_truth(victims: Sequence[Victim], paths: Sequence[Path]) -> list[Victim]:
    """Deal the true images out to the victims in order.

    Raises
    ------
    ValueError
        Where their number or the victims' shapes do not fit.
    """
    shapes = {victim.input_shape for victim in victims}
    if len(shapes) > 1:
        found = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise ValueError(f"--truth: expected gradients of one input shape, found {found}")
    images = data.read_images(paths, shapes.pop())
    sizes = [victim.batch_size for victim in victims]
    if len(images) != sum(sizes):
        raise ValueError(f"--truth: expected {sum(sizes)} images, found {len(images)} images")
    return [replace(victim, truth=batch) for victim, batch in zip(victims, images.split(sizes), strict=True)]
