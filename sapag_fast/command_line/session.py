"""What the commands share: the device, the user's model, the search's options, results that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sapag_fast import checks as check
from sapag_fast.command_line.model_file import load_model
from sapag_fast.files.tensors import load_weights
from sapag_fast.files.victims import ListedVictim
from sapag_fast.reports.report import Report
from sapag_fast.runtime.streams import tell
from sapag_fast.search.options import SearchOptions
from sapag_fast.victim.cautions import Caution
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.losses import BinaryCrossEntropy, CrossEntropy, find_loss
from sapag_fast.victim.normalised import as_tuple
from sapag_fast.victim.searchable import unwrapped

__all__ = [
    "built_model",
    "check_classes",
    "check_pictures",
    "chosen_device",
    "keep_results",
    "loss_of",
    "say_cautions",
    "say_other_normalisation",
    "search_options_of",
]

_LOCAL = "local_"
"""How the names of options about the client's training begin."""


def chosen_device(name: str | None) -> torch.device:
    """Take the named device, or the GPU where there is one.

    Raises
    ------
    ValueError
        For one that is unknown or not there.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return check.check_device(usual if name is None else name)


def built_model(reference: str, weights: Path | None, seed: int, device: torch.device) -> nn.Module:
    """Build the user's model on the device.

    Seeded, so that one that draws its own weights draws the same ones every time.
    """
    torch.manual_seed(seed)
    model = unwrapped(load_model(reference))
    check.check_model(model, device)
    if weights is not None:
        load_weights(model, weights)
    return model.to(device)


def search_options_of(options: Mapping[str, Any]) -> SearchOptions:
    """Take those of a command's options that are the search's."""
    names = {field.name for field in fields(SearchOptions) if not field.name.startswith(_LOCAL)}
    own = {name: value for name, value in options.items() if name in names}
    return SearchOptions(**own, local_training=_local_training(options))


def _local_training(options: Mapping[str, Any]) -> LocalTraining | None:
    """How the client trained, where an option says it.

    Raises
    ------
    ValueError
        For options that do not fit, under their names.
    """
    given = {
        name.removeprefix(_LOCAL): value
        for name, value in options.items()
        if name.startswith(_LOCAL) and value is not None
    }
    if not given:
        return None
    rates = given.pop("lr", None)
    if rates is None:
        name = next(iter(given)).replace("_", "-")
        raise ValueError(f"--local-lr: expected the client's learning rate with --local-{name}, found none")
    try:
        return LocalTraining(rate=rates if len(rates) > 1 else rates[0], **given)
    except ValueError as error:
        name, _, words = str(error).partition(" ")
        name = name.replace("rate", "lr").replace("_", "-")
        raise ValueError(f"--local-{name} {words}") from None


def loss_of(options: Mapping[str, Any]) -> Loss:
    """Make the loss that a command's options name.

    Raises
    ------
    ValueError
        For a setting that belongs to another loss.
    """
    loss = options["loss"]
    settings = {"cross-entropy": ("label_smoothing", "class_weights"), "bce": ("pos_weight",), "mse": ()}
    for owner, names in settings.items():
        for name in names:
            if owner != loss and options[name] is not None:
                raise ValueError(f"--{name.replace('_', '-')}: expected --loss {owner}, found --loss {loss}")
    if loss == "cross-entropy":
        return CrossEntropy(options["label_smoothing"] or 0.0, options["class_weights"])
    return find_loss(loss) if loss == "mse" else BinaryCrossEntropy(options["pos_weight"])


def check_classes(loss: Loss, labels: object) -> None:
    """Refuse other numbers than classes as the labels of cross-entropy; words, and None, are no numbers.

    Raises
    ------
    ValueError
        Naming the option.
    """
    numbers = labels if isinstance(labels, tuple) and isinstance(loss, CrossEntropy) else ()
    if any(isinstance(number, float) or number < 0 for number in numbers):
        raise ValueError("--labels: expected classes, such as 3,7, for --loss cross-entropy, found others")


def check_pictures(search: SearchOptions, *, truth: bool) -> None:
    """Refuse to score, and warn of showing, what bounds place beyond the pictures' range.

    Raises
    ------
    ValueError
        For bounds beyond 0 and 1 where there is a truth to compare with.
    """
    bounds = search.bounds or ()
    ends = [end for bound in bounds for end in (bound if isinstance(bound, Sequence) else (bound,))]
    if all(0.0 <= end <= 1.0 for end in ends):
        return
    words = "pictures and scores are of values in 0..1; to a network fed with others, give --mean and --std"
    if truth:
        raise ValueError(f"--bounds: {words}, or leave out --truth")
    tell(f"warning: --bounds: {words}")


def say_cautions(name: str, cautions: Iterable[Caution], said: set[Caution]) -> None:
    """Show what is of all victims once, and the rest with the victim's name."""
    for caution in cautions:
        if caution not in said:
            tell(f"warning: {f'{name}: ' if caution.victims else ''}{caution.message}")
        if not caution.victims:
            said.add(caution)


def say_other_normalisation(search: SearchOptions, victims: Iterable[ListedVictim]) -> None:
    """Warn where gradient files say another mean and std than the options."""
    given = (as_tuple(search.mean), as_tuple(search.std))
    other = {(victim.mean, victim.std) for victim in victims if victim.mean is not None} - {given}
    if search.mean is not None and other:
        mean, std = (",".join(map(str, numbers or ())) for numbers in min(other))
        tell(f"warning: --mean, --std: taken in place of what gradient files say, such as {mean} and {std}")


def keep_results(
    report: Report,
    work: Callable[[], None],
    show: Callable[[], None],
    summary: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Run what adds to the report, and finish that whatever happens.

    Finished victims stay, and ``results.json`` says how it ended.

    Parameters
    ----------
    report : Report
    work : callable
        Adds to the report.
    show : callable
        Shows what was found, also after Ctrl-C.
    summary : callable
        Further entries of ``results.json``.
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
