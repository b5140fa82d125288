"""What each command of ``sapag-fast`` does, given its options. Everything is read and checked before anything
is written.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor, nn

from sapag_fast import data
from sapag_fast.audit.victims import Truth, Victim, list_victims, read_victims
from sapag_fast.clients import capture as capturing
from sapag_fast.command_line.demo import demo as demonstration
from sapag_fast.command_line.model_file import load_model
from sapag_fast.files.output import check_output
from sapag_fast.files.tensors import load_weights
from sapag_fast.recovery.recover import recover as search_inputs
from sapag_fast.reports.pictures import save_picture, to_picture
from sapag_fast.reports.report import Finished, Report, recoveries_table


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


def audit(
    *,
    model_reference: str,
    weights: Path | None,
    gradients: Path,
    truth: tuple[Path, ...],
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    device: str | None,
    output: Path,
    overwrite: bool,
    **options: Any,
) -> bool:
    """True if no victim was skipped."""
    from sapag_fast.audit.folder import AuditFolder
    from sapag_fast.audit.run import Audit, AuditOptions  # with statistics and templates, that no other needs

    place = chosen_device(device)
    folder = AuditFolder(output, overwrite=overwrite)
    model = built_model(model_reference, weights, options["seed"], place)
    victims = list_victims(gradients, model, input_shape, batch_size)
    known = Truth(truth, victims) if truth else None
    given = {
        "model": model_reference,
        "weights": weights,
        "gradients": gradients,
        "truth": truth,
        "input_shape": input_shape,
        "batch_size": batch_size,
        **options,
    }
    console = Console()
    skipped = Audit(model, victims, known, folder, AuditOptions(**options), given, place, console).run()
    console.print(f"Results, summary.html, summary.json and summary.csv are in {output}.", markup=False)
    if skipped:
        click.echo(f"sapag-fast: {skipped} victims were skipped; the summary says why", err=True)
    return not skipped


def capture(
    *, model_reference: str, weights: Path | None, seed: int, device: str | None, **options: Any
) -> None:
    place = chosen_device(device)
    capturing.capture(built_model(model_reference, weights, seed, place), place, seed=seed, **options)


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


def recovered(model: nn.Module, victim: Victim, labels: str | Tensor, options: Mapping[str, Any]) -> Finished:
    """Run sf.recover on one victim, with its progress bar."""
    began = time.perf_counter()
    result = search_inputs(
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
        certificate=asdict(result.certificate[0]),
        details={
            "winner": int(result.winner[0]),
            "mode": result.mode,
            "mode_reason": result.mode_reason,
            "recipe": asdict(result.recipe),
        },
    )
