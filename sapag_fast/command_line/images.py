"""What ``sapag-fast images`` does, given its options."""

from __future__ import annotations

from pathlib import Path

from sapag_fast import data
from sapag_fast.files.output import check_output
from sapag_fast.reports.pictures import save_picture, to_picture
from sapag_fast.runtime.streams import say

__all__ = ["run"]


def run(*, source: str, count: int, size: int, output: Path, overwrite: bool) -> None:
    """Write some of the demo's images as PNG files."""
    pictures, labels = data.SOURCES[source](count, size)
    check_output(output, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    for position, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        save_picture(output / f"{source}-{position:03d}-label{label}.png", to_picture(picture))
    say(f"{output}: {len(pictures)} images")
