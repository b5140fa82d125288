"""``sapag-fast``: the command line's options, errors and exit statuses. What the commands do is in
`commands`.

That module is imported inside each command, so that a mistyped option is answered before torch is loaded.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

USER_ERROR, INTERRUPTED = 2, 130
NO_DEFAULT = "from the recipe"


class ShapeType(click.ParamType):
    name = "CxHxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            shape = tuple(int(part) for part in value.lower().split("x"))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            self.fail(f"{value!r} is not a shape like 3x32x32", param, ctx)
        return shape


SHAPE = ShapeType()


class NumbersType(click.ParamType):
    """Whole numbers separated by commas, or one of the given words."""

    name = "list"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[int, ...]:
        if not isinstance(value, str) or value in self.words:
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = (-1,)
        if min(numbers) < 0:
            self.fail(f"{value!r} is not {', '.join((*self.words, 'labels like 3,7'))}", param, ctx)
        return numbers


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """One message on stderr and status 2 for what the package refuses; status 130 for Ctrl-C."""

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (ValueError, TypeError, OSError) as error:
            if os.environ.get("SAPAG_FAST_TRACEBACK") == "1":
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"sapag-fast: {message}", err=True)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:
            click.echo("sapag-fast: interrupted", err=True)
            sys.exit(INTERRUPTED)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sapag_fast")
def main() -> None:
    """Recover data from shared gradients (SAPAG), on any model, many attempts at a time.

    Errors exit with status 2, Ctrl-C with 130. SAPAG_FAST_TRACEBACK=1 shows where an error came from.
    """


def output_option(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--output, required or with the given default, and --overwrite."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        overwrite = click.option(
            "--overwrite", is_flag=True, help="Write there even if it holds files already."
        )
        path = click.Path(path_type=Path)
        output = click.option("--output", type=path, help="Folder to write to.", **options)
        return output(overwrite(command))

    return decorate


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--seed", type=int, default=0, show_default=True, help="Seed of everything random."
    )(command)
    return click.option("--device", help="Such as cpu or cuda:0.  [default: cuda if there is one, else cpu]")(
        command
    )


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="The model's weights, .safetensors or .pt (tensors only).",
    )(command)
    return click.option(
        "--model",
        "model_reference",
        required=True,
        metavar="FILE.py:FUNCTION",
        help="Your Python file (executed; no other input is) and its function that returns the model.",
    )(command)


@main.command()
@output_option(default="sapag-demo", show_default=True)
@run_options
@click.option("--quick", is_flag=True, help="One weight initialisation instead of four.")
@user_errors
def demo(**options: Any) -> None:
    """Recover digits, faces and photographs from a small network's gradients, beside DLG as published."""
    from sapag_fast import commands

    commands.demo(**options)


@main.command()
@model_options
@click.option(
    "--gradient",
    "gradients",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Gradient file, .safetensors or .pt (tensors only). Repeat it for several victims of one model.",
)
@click.option("--input-shape", type=SHAPE, help="Shape of one input.  [default: from the gradient file]")
@click.option(
    "--batch-size", type=click.IntRange(1), help="Inputs behind the gradient.  [default: from the file, or 1]"
)
@click.option(
    "--labels",
    type=NumbersType("infer", "joint"),
    default="infer",
    show_default=True,
    help="infer | joint | 3,7",
)
@click.option(
    "--restarts", type=click.IntRange(1), default=4, show_default=True, help="Starts; the closest one wins."
)
@click.option("--recipe", default="auto", show_default=True, help="Set of defaults for what follows.")
@click.option("--distance", help=f"Kind of gradient distance.  [default: {NO_DEFAULT}]")
@click.option(
    "--layers",
    default="modules",
    show_default=True,
    help="Which gradients form a layer: modules | shapes | separate.",
)
@click.option("--optimizer", help=f"Such as lbfgs or adam.  [default: {NO_DEFAULT}]")
@click.option("--steps", type=click.IntRange(1), help=f"Evaluations a restart.  [default: {NO_DEFAULT}]")
@click.option("--basis", help=f"Coordinates of the search, pixel or dct.  [default: {NO_DEFAULT}]")
@click.option("--tv", type=click.FloatRange(0), help=f"Weight of total variation.  [default: {NO_DEFAULT}]")
@click.option("--box", type=click.FloatRange(0), help=f"Weight of leaving [0, 1].  [default: {NO_DEFAULT}]")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    multiple=True,
    help="True image(s) or a folder of them, to score the result; all batches in the order of the gradients.",
)
@run_options
@output_option(required=True)
@user_errors
def recover(**options: Any) -> None:
    """Recover the inputs behind gradient files.

    Writes a PNG of every image, a grid, the exact tensors and results.json into the output folder.
    """
    from sapag_fast import commands

    commands.recover(**options)


@main.command()
@model_options
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Image file(s), or a folder of them: one batch.",
)
@click.option("--input-shape", type=SHAPE, required=True, help="Shape of one input; images are fitted to it.")
@click.option("--labels", type=NumbersType(), help="One class an image, such as 3,7.  [default: 0,1,2,...]")
@click.option("--with-labels", is_flag=True, help="Write the labels into the gradient file too.")
@click.option(
    "--gradient", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write."
)
@click.option(
    "--save-weights", type=click.Path(path_type=Path), help="Write the model's weights, .safetensors, too."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist already.")
@run_options
@user_errors
def capture(**options: Any) -> None:
    """Make a gradient file: what a client that trains MODEL on these images would share (cross entropy)."""
    from sapag_fast import commands

    commands.capture(**options)


@main.command()
@click.argument("source", type=click.Choice(["digits", "faces", "photographs"]))
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="How many.")
@click.option("--size", type=click.IntRange(1), default=32, show_default=True, help="Side in pixels.")
@output_option(required=True)
@user_errors
def images(**options: Any) -> None:
    """Write some of the demo's images as PNG files, to try capture and recover on."""
    from sapag_fast import commands

    commands.images(**options)


@main.command()
@click.option("--plan", "shapes", metavar="SHAPES", help="Gradient shapes such as 12x1x5x5,12,10x588,10.")
@click.option("--recoveries", type=click.IntRange(1), default=1, show_default=True, help="R.")
@click.option("--dtype", default="float32", show_default=True, help="Type of the gradients.")
@click.option("--arch", type=int, default=90, show_default=True, help="80, 90 or 100: A100, H100, B200.")
@user_errors
def kernels(shapes: str | None, recoveries: int, dtype: str, arch: int) -> None:
    """Tell which kernels this machine has; with --plan, which launches a call would take on a GPU.

    The plan is a dry run of the CUDA planner and needs no GPU.
    """
    from sapag_fast import kernel_report

    if shapes is None:
        click.echo(kernel_report.backends())
        return
    parsed = [SHAPE.convert(shape, None, None) for shape in shapes.split(",")]
    click.echo(kernel_report.plan(parsed, recoveries, dtype, arch), nl=False)
