"""What ``sapag-fast profile`` does, given its options."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from sapag_fast.command_line.commands import built_model, chosen_device
from sapag_fast.files.output import check_output
from sapag_fast.profiler import profile_attack

__all__ = ["profile"]

_WIDTH = 140  # where the output is no terminal


def profile(
    *,
    model_reference: str,
    weights: Path | None,
    input_shape: tuple[int, ...],
    output: Path | None,
    overwrite: bool,
    seed: int,
    device: str | None,
    trace: bool,
    **options: Any,
) -> None:
    """Profile, show, and write profile.json, profile.png and, if wanted, trace.json."""
    place = chosen_device(device)
    model = built_model(model_reference, weights, seed, place)
    if output is not None:
        check_output(output, overwrite)
    elif trace:
        raise ValueError("--trace writes a file: give --output")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "trace.json" if trace else None
        found = profile_attack(model, input_shape, seed=seed, trace=file, **options)
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        console.print(found.table())
        if output is None:
            return
        # Not before: what fails leaves no folder behind.
        output.mkdir(parents=True, exist_ok=True)
        if file is not None:
            shutil.move(file, output / file.name)
    found.to_json(output / "profile.json")
    found.plot(output / "profile.png")
    names = "profile.json and profile.png" + (" and trace.json" if trace else "")
    console.print(f"{names} are in {output}.", markup=False)
