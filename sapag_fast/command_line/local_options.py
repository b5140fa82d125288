"""Options of ``sapag-fast`` that say how a client trained before it shared."""

from __future__ import annotations

import functools

import click

from sapag_fast.command_line.option_types import COUNT, DecimalsType, FiniteRange
from sapag_fast.command_line.options import Command

__all__ = ["local_options"]

_OPTIONS = (
    click.option(
        "--local-steps", type=COUNT, help="Steps that the client took before it shared.  [default: 1]"
    ),
    click.option("--local-epochs", type=COUNT, help="Passes over all its inputs, in place of --local-steps."),
    click.option(
        "--local-lr",
        type=DecimalsType(),
        help="Its learning rate, or one for each step or epoch, such as 0.1,0.05; the shared update is "
        "(before - after) / the first.",
    ),
    click.option(
        "--local-batch-size", type=COUNT, help="Inputs of the client's mini-batches.  [default: all]"
    ),
    click.option("--local-optimizer", help="sgd; others cannot be searched through.  [default: sgd]"),
    click.option("--local-momentum", type=FiniteRange(0, 1, max_open=True), help="Of sgd.  [default: 0]"),
    click.option("--local-dampening", type=FiniteRange(0, 1), help="Of sgd.  [default: 0]"),
    click.option("--local-nesterov", is_flag=True, default=None, help="Of sgd: Nesterov's momentum."),
    click.option("--local-weight-decay", type=FiniteRange(0), help="Of sgd.  [default: 0]"),
    click.option(
        "--local-order",
        type=click.Choice(["unknown", "given"]),
        help="given: labels, and the inputs, are in the order of the mini-batches in every epoch.  "
        "[default: unknown, with a warning]",
    ),
)


def local_options(command: Command) -> Command:
    """Add them, in the order of the help."""
    return functools.reduce(lambda inner, option: option(inner), reversed(_OPTIONS), command)
