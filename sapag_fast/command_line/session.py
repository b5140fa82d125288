"""What the commands share: the device, the user's model, the search's options, results that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sapag_fast import checks as check
from sapag_fast.command_line.model_file import load_model
from sapag_fast.files.tensors import load_weights
from sapag_fast.reports.report import Report
from sapag_fast.search.options import SearchOptions

__all__ = ["built_model", "chosen_device", "keep_results", "search_options_of"]


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
    model = load_model(reference)
    check.check_model(model, device)
    if weights is not None:
        load_weights(model, weights)
    return model.to(device)


def search_options_of(options: Mapping[str, Any]) -> SearchOptions:
    """Take those of a command's options that are the search's."""
    names = {field.name for field in fields(SearchOptions)}
    return SearchOptions(**{name: value for name, value in options.items() if name in names})


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
