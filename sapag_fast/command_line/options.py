"""Options that several commands of ``sapag-fast`` share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sapag_fast.command_line.option_types import (
    COUNT,
    SEED,
    SHAPE,
    SOME,
    BoundsType,
    DecimalsType,
    FiniteRange,
    NumbersType,
    ScaleType,
    StatisticType,
)

NO_DEFAULT = "from the recipe"
Command = Callable[..., None]


def output_option(**options: Any) -> Callable[[Command], Command]:
    """Add --output, required or with the given default, and --overwrite."""

    def decorate(command: Command) -> Command:
        overwrite = click.option(
            "--overwrite", is_flag=True, help="Replace what an earlier run of the command wrote there."
        )
        path = click.Path(path_type=Path)
        output = click.option("--output", type=path, help="Folder to write to.", **options)
        return output(overwrite(command))

    return decorate


def run_options(command: Command) -> Command:
    """Add --device and --seed."""
    return _with_options(
        command,
        click.option("--device", help="Such as cpu or cuda:0.  [default: cuda if there is one, else cpu]"),
        click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of everything random."),
    )


def model_options(command: Command) -> Command:
    """Add --model and --weights."""
    return _with_options(
        command,
        click.option(
            "--model",
            "model_reference",
            required=True,
            metavar="FILE.py:FUNCTION",
            help="Your Python file (executed; no other input is) and its function that returns the model.",
        ),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="The model's weights, .safetensors, .pt (tensors only) or .npz.",
        ),
    )


def shared_options(command: Command) -> Command:
    """Add --gradient, and --before, --after and --lr in its place."""
    path = click.Path(path_type=Path)
    kinds = ".safetensors, .pt (tensors only) or .npz"
    return _with_options(
        command,
        click.option(
            "--gradient",
            "gradients",
            type=path,
            multiple=True,
            help=f"Gradient file, {kinds}. Repeat it for several victims of one model.",
        ),
        click.option(
            "--before",
            type=path,
            help=f"In place of --gradient and --weights: the parameters that clients began with, {kinds}.",
        ),
        click.option(
            "--after",
            type=path,
            multiple=True,
            help="With --before: the parameters that a client sent back. Repeat it for several victims.",
        ),
        click.option(
            "--lr", type=FiniteRange(0, min_open=True), help="With --before: the clients' learning rate."
        ),
    )


def _refuse_update(_: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None:
        raise click.UsageError(
            f"{param.opts[0]}: audits take gradients, a file each; recover takes parameters before and "
            "after, and sapag_fast.update_from makes gradients of them that files can hold"
        )


def refused_updates(command: Command) -> Command:
    """Answer --before, --after and --lr, which recover has, with what to do instead."""
    refused = {"hidden": True, "expose_value": False, "callback": _refuse_update}
    return _with_options(
        command, *(click.option(name, **refused) for name in ("--before", "--after", "--lr"))
    )


def normalisation_options(default: str) -> Callable[[Command], Command]:
    """Add --mean and --std."""
    each = "one number, or one for each channel"
    return lambda command: _with_options(
        command,
        click.option(
            "--mean",
            type=StatisticType(),
            help=f"The client's network sees (x - mean) / std of pictures x in [0, 1]; {each}.  "
            f"[default: {default}]",
        ),
        click.option("--std", type=StatisticType(), help=f"Goes with --mean; {each}."),
    )


def truth_option(order: str) -> Callable[[Command], Command]:
    """Add --truth; `order` says which image is whose."""
    return click.option(
        "--truth",
        type=click.Path(path_type=Path),
        multiple=True,
        help=f"True image(s) or a folder of them, to score the result; {order}.",
    )


def loss_options(command: Command) -> Command:
    """Add --loss and what belongs to it."""
    return _with_options(
        command,
        click.option(
            "--loss",
            type=click.Choice(["cross-entropy", "bce", "mse"]),
            default="cross-entropy",
            show_default=True,
            help="What the client minimised; bce: with logits, one output or many labels.",
        ),
        click.option(
            "--label-smoothing",
            type=FiniteRange(0, 1, max_open=True),
            help="Of cross-entropy.  [default: none]",
        ),
        click.option(
            "--class-weights",
            type=DecimalsType(),
            help="Of cross-entropy, one for each class, such as 1,2,0.5.  [default: none]",
        ),
        click.option(
            "--pos-weight",
            type=DecimalsType(),
            help="Of bce, one for each output.  [default: none]",
        ),
    )


_RECIPE = {
    "recipe": click.option(
        "--recipe",
        default="auto",
        show_default=True,
        help="Set of defaults for what follows: auto looks at the network; smooth, relu and more.",
    ),
    "distance": click.option("--distance", help=f"Kind of gradient distance.  [default: {NO_DEFAULT}]"),
    "layers": click.option(
        "--layers",
        default="modules",
        show_default=True,
        help="Which gradients form a layer: modules | shapes | separate.",
    ),
    "optimizer": click.option("--optimizer", help=f"Such as lbfgs or adam.  [default: {NO_DEFAULT}]"),
    "steps": click.option(
        "--steps", type=COUNT, help=f"Evaluations a restart, at most.  [default: {NO_DEFAULT}]"
    ),
    "patience": click.option(
        "--patience",
        type=SOME,
        help="Evaluations without coming lower after which a restart ends; 0: all steps are taken.  "
        f"[default: {NO_DEFAULT}]",
    ),
    "basis": click.option(
        "--basis", help=f"Coordinates of the search, pixel or dct.  [default: {NO_DEFAULT}]"
    ),
    "tv": click.option(
        "--tv", type=FiniteRange(0), help=f"Weight of total variation.  [default: {NO_DEFAULT}]"
    ),
    "box": click.option(
        "--box", type=FiniteRange(0), help=f"Weight of leaving the bounds.  [default: {NO_DEFAULT}]"
    ),
    "scale": click.option(
        "--scale",
        type=ScaleType(),
        help="What distances are multiplied with beside these weights; auto: by each victim's distance at "
        f"noise.  [default: {NO_DEFAULT}]",
    ),
}
"""The recipe, and what overrides it, in the order of the help."""


def recipe_options(*names: str) -> Callable[[Command], Command]:
    """Add those of the recipe's options that are named; all, if none is."""
    return lambda command: _with_options(command, *(_RECIPE[name] for name in names or _RECIPE))


def search_options(command: Command) -> Command:
    """Add what recover and audit share of what is searched, and how."""
    return _with_options(
        command,
        click.option(
            "--input-shape", type=SHAPE, help="Shape of one input.  [default: from the gradient file]"
        ),
        click.option(
            "--batch-size",
            type=COUNT,
            help="Inputs behind the gradient.  [default: from the file, or 1]",
        ),
        click.option(
            "--averaged-batches",
            type=COUNT,
            help="Mini-batches whose gradients the client averaged; searched as one batch, with a warning.  "
            "[default: from the file, or 1]",
        ),
        loss_options,
        click.option(
            "--restarts",
            type=COUNT,
            default=4,
            show_default=True,
            help="Starts; the closest one wins.",
        ),
        click.option(
            "--stop-certified/--all-restarts",
            default=True,
            show_default=True,
            help="Once a start is certified, its victim's others stop.",
        ),
        click.option(
            "--exact",
            type=click.Choice(["auto", "off"]),
            default="auto",
            show_default=True,
            help="auto: victims whose inputs follow from the gradient by arithmetic are not searched.",
        ),
        recipe_options(),
        click.option(
            "--bounds",
            type=BoundsType(),
            default="0:1",
            show_default=True,
            help="Range of the inputs' values, low:high, each one number or one for each channel; or none.",
        ),
        normalisation_options("from the gradient file, or none"),
    )


def text_options(command: Command) -> Command:
    """Add --text and what goes with it alone."""
    return _with_options(
        command,
        click.option("--text", is_flag=True, help="The data are sentences, one behind each gradient."),
        click.option(
            "--tokenizer",
            type=click.Path(path_type=Path),
            help="With --text: the tokenizer's JSON file, to show and read sentences as text.",
        ),
        click.option(
            "--length",
            type=NumbersType(),
            help="With --text: tokens of the sentence, or of each.  [default: from the gradient]",
        ),
        click.option(
            "--tokens",
            type=click.Choice(["bag", "any"]),
            help="With --text: candidates; bag: those with a row in the word embedding's gradient.  "
            "[default: bag]",
        ),
        click.option(
            "--candidates",
            type=COUNT,
            help=f"With --text: sentences that the discrete search may score.  [default: {NO_DEFAULT}]",
        ),
        click.option(
            "--start",
            type=click.Choice(["random", "positions", "span"]),
            help="With --text: which attack's sentence is tried first.  [default: random]",
        ),
        click.option(
            "--embedding",
            help="With --text: name of the word embedding in the model.  [default: the model tells]",
        ),
    )


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Decorate the command with options that its help shows in this order."""
    return functools.reduce(lambda inner, option: option(inner), reversed(options), command)
