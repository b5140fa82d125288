"""What ``sapag-fast profile`` does, given its options."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from sapag_fast.checks import check_separate
from sapag_fast.command_line.session import built_model, chosen_device, loss_of, search_options_of
from sapag_fast.files.output import check_output
from sapag_fast.profiler import profile_attack
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say

__all__ = ["run"]

_WIDTH = 140  # where the output is no terminal


def run(
    *,
    model_reference: str,
    weights: Path | None,
    input_shape: tuple[int, ...],
    output: Path | None,
    overwrite: bool,
    device: str | None,
    trace: bool,
    **options: Any,
) -> None:
    """Profile, write profile.json, profile.png and, if wanted, trace.json, and show."""
    check_separate({"--output": output}, {"--weights": [weights] if weights else []})
    where, search, loss = chosen_device(device), search_options_of(options), loss_of(options)
    model = built_model(model_reference, weights, search.seed, where)
    if output is not None:
        check_output(output, overwrite)
    elif trace:
        raise ValueError("--trace writes a file: give --output")
    measured = {name: options[name] for name in ("batch_size", "recoveries", "evaluations", "seconds")}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "trace.json" if trace else None
        profile = profile_attack(model, input_shape, loss_fn=loss, trace=file, options=search, **measured)
        if output is not None:
            # Not before: what fails leaves no folder behind.
            output.mkdir(parents=True, exist_ok=True)
            if file is not None:
                shutil.move(file, output / file.name)
            profile.to_json(output / "profile.json")
            profile.plot(output / "profile.png")
    screen = Screen()
    if not screen.is_terminal:
        screen = Screen(width=_WIDTH)
    screen.print(profile.table())
    if output is not None:
        names = "profile.json and profile.png" + (" and trace.json" if trace else "")
        say(f"{names} are in {output}.")
