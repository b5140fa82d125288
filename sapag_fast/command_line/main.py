"""``sapag-fast``: the command line's options, errors and exit statuses.

What a command does has a file of its own, imported inside the command, so that a mistyped option is answered
before torch is loaded.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sapag_fast.command_line.local_options import local_options
from sapag_fast.command_line.option_types import (
    COUNT,
    SHAPE,
    DecimalsType,
    FiniteRange,
    NumbersType,
    ShapesType,
    SizeType,
)
from sapag_fast.command_line.options import (
    loss_options,
    model_options,
    normalisation_options,
    output_option,
    recipe_options,
    refused_updates,
    run_options,
    search_options,
    shared_options,
    text_options,
    truth_option,
)
from sapag_fast.runtime.streams import tell

__all__ = ["main"]

USER_ERROR, SOME_SKIPPED, INTERRUPTED = 2, 3, 130


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Answer what the package refuses with one message on stderr and status 2, Ctrl-C with status 130."""

    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (ValueError, TypeError, OSError) as error:
            if os.environ.get("SAPAG_FAST_TRACEBACK") == "1":
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            tell(message)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:
            tell("interrupted")
            sys.exit(INTERRUPTED)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sapag_fast")
def main() -> None:
    """Recover data from shared gradients (SAPAG), on any model, many attempts at a time.

    Errors exit with status 2, Ctrl-C with 130. SAPAG_FAST_TRACEBACK=1 shows where an error came from.
    Results are written before anything is shown, and the status tells of them alone: a closed pipe or a full
    device behind the screen changes neither.
    """


@main.command()
@output_option(default="sapag-demo", show_default=True)
@run_options
@click.option("--quick", is_flag=True, help="One weight initialisation instead of four.")
@user_errors
def demo(**options: Any) -> None:
    """Recover digits, faces and photographs from a small network's gradients, beside DLG as published."""
    from sapag_fast.command_line.demo.demo import run

    run(**options)


@main.command()
@model_options
@shared_options
@search_options
@click.option(
    "--labels",
    type=DecimalsType("infer", "joint"),
    default="infer",
    show_default=True,
    help="infer | joint | 3,7; of bce and mse all targets of an image, then of the next.",
)
@local_options
@truth_option("all batches in the order of the gradients")
@text_options
@run_options
@output_option(required=True)
@user_errors
def recover(**options: Any) -> None:
    """Recover the inputs behind gradient files.

    Writes a PNG of every image, a grid, the exact tensors and results.json into the output folder. With
    --text the inputs are sentences, and their tokens are written instead of pictures.
    """
    from sapag_fast.command_line.text import with_text

    if with_text(options):
        from sapag_fast.command_line.text_recover import run
    else:
        from sapag_fast.command_line.recover import run
    from sapag_fast.command_line.updates import SharedFiles

    names = ("gradients", "before", "after", "lr", "weights")
    run(shared=SharedFiles(*(options.pop(name) for name in names)), **options)


@main.command()
@model_options
@click.option(
    "--gradients",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of gradient files (.safetensors, .pt, .npz), or one .safetensors of many (see capture).",
)
@refused_updates
@search_options
@click.option(
    "--labels",
    type=click.Choice(["infer", "joint", "known"]),
    default="infer",
    show_default=True,
    help="Where labels come from; known: the gradient files say them.",
)
@click.option(
    "--stop-distance", type=FiniteRange(0), help="A victim is done once a restart comes this close."
)
@click.option("--at-once", type=COUNT, help="Searches at once.  [default: what memory bears]")
@click.option("--max-memory", type=SizeType(), help="Such as 4GB.  [default: what is free]")
@local_options
@truth_option("by name where names fit, else in order")
@text_options
@run_options
@output_option(required=True)
@user_errors
def audit(**options: Any) -> None:
    """Recover the inputs behind many gradients, and sum up what they give away.

    Every result is kept as soon as it is there. After Ctrl-C, a crash or a kill, the same command goes on
    where it was, and ends with the same bits. Writes results/NAME.safetensors, summary.html, .json and .csv.
    With --text the inputs are sentences.

    Exits with status 0 if all victims were searched, 3 if some were skipped (the
    summary says which and why), 130 after Ctrl-C, 2 for arguments that do not fit.
    """
    from sapag_fast.command_line.text import with_text

    if with_text(options):
        from sapag_fast.command_line.text_audit import run
    else:
        from sapag_fast.command_line.audit import run
    if not run(**options):
        sys.exit(SOME_SKIPPED)


@main.command()
@model_options
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Image file(s), or a folder of them: one batch, unless --batch-size is given.",
)
@click.option("--batch-size", type=COUNT, help="Make many victims, each of so many images, in order.")
@click.option("--input-shape", type=SHAPE, required=True, help="Shape of one input; images are fitted to it.")
@click.option(
    "--labels",
    type=DecimalsType(),
    help="One class an image, such as 3,7; of bce and mse all targets of an image, then of the next.  "
    "[default: 0,1,2,...]",
)
@loss_options
@click.option(
    "--defence",
    "defences",
    multiple=True,
    metavar="NAME:VALUE",
    help="What the client does to its gradient before it shares it: noise:SCALE, relative-noise:SCALE, "
    "clip:NORM, prune:FRACTION, sign, quantise:BITS, withhold:INDEX,... Repeat it for several, in order.",
)
@normalisation_options("none")
@click.option("--with-labels", is_flag=True, help="Write the labels into the gradient file too.")
@click.option(
    "--gradient",
    type=click.Path(path_type=Path),
    required=True,
    help="The .safetensors file to write; with --batch-size also a folder, for a file a victim.",
)
@click.option(
    "--save-weights", type=click.Path(path_type=Path), help="Write the model's weights, .safetensors, too."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist already.")
@run_options
@user_errors
def capture(**options: Any) -> None:
    """Make a gradient file: what a client that trains MODEL on these images would share.

    With --batch-size, one of many clients, for audit.
    """
    from sapag_fast.command_line.capture import run

    run(**options)


@main.command()
@model_options
@click.option("--input-shape", type=SHAPE, required=True, help="Shape of one input.")
@click.option("--batch-size", type=COUNT, default=1, show_default=True, help="Inputs behind a gradient.")
@click.option(
    "--recoveries",
    type=NumbersType(),
    default="1,8,64",
    show_default=True,
    help="How many at once, one profile each.",
)
@click.option("--evaluations", type=COUNT, default=100, show_default=True, help="Steps to time for each.")
@click.option(
    "--seconds",
    type=FiniteRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="About how long to time each, and as long again to warm up.",
)
@recipe_options("recipe", "distance", "optimizer", "steps", "basis")
@loss_options
@click.option("--trace", is_flag=True, help="Write a Chrome or Perfetto trace, trace.json, too.")
@run_options
@output_option()
@user_errors
def profile(**options: Any) -> None:
    """Tell where the time of an attack on MODEL goes, by stage and by layer, and what bounds it.

    The attack is what recover would run, on the gradient of a random input. Shows tables; with --output also
    writes profile.json and profile.png.
    """
    from sapag_fast.command_line.profile import run

    run(**options)


@main.command()
@click.argument("source", type=click.Choice(["digits", "faces", "photographs"]))
@click.option("--count", type=COUNT, default=4, show_default=True, help="How many.")
@click.option("--size", type=click.IntRange(1, 4096), default=32, show_default=True, help="Side in pixels.")
@output_option(required=True)
@user_errors
def images(**options: Any) -> None:
    """Write some of the demo's images as PNG files, to try capture and recover on."""
    from sapag_fast.command_line.images import run

    run(**options)


@main.command()
@click.option(
    "--plan",
    "shapes",
    type=ShapesType(),
    metavar="SHAPES",
    help="Gradient shapes such as 12x1x5x5,12,10x588,10.",
)
@click.option("--recoveries", type=COUNT, default=1, show_default=True, help="R.")
@click.option("--dtype", default="float32", show_default=True, help="Type of the gradients.")
@click.option("--arch", type=int, default=90, show_default=True, help="80, 90 or 100: A100, H100, B200.")
@user_errors
def kernels(shapes: tuple[tuple[int, ...], ...] | None, recoveries: int, dtype: str, arch: int) -> None:
    """Tell which kernels this machine has; with --plan, which launches a call would take on a GPU.

    The plan is a dry run of the CUDA planner and needs no GPU.
    """
    from sapag_fast.command_line.kernels import backends, plan

    if shapes is None:
        click.echo(backends())
        return
    click.echo(plan(shapes, recoveries, dtype, arch), nl=False)
