"""A run's state on disk, from which it goes on after whatever ended it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sapag_fast.files.output import sweep
from sapag_fast.files.regular import shown
from sapag_fast.files.tensors import read_tensors, write_tensors

__all__ = ["Checkpoint", "OtherRunError"]


class OtherRunError(ValueError):
    """A checkpoint belongs to another run."""


class Checkpoint:
    """One .safetensors file, replaced whole now and then, and removed once the run has ended.

    Parameters
    ----------
    path : str or Path
        The file; its folder must exist.
    belongs_to : str
        `fingerprint` of the run.
    every : float
        Seconds between two writes.

    Raises
    ------
    ValueError
        When the name does not end in .safetensors, the folder does not exist or the path is not in UTF-8.
    """

    def __init__(self, path: str | Path, belongs_to: str, *, every: float = 30.0) -> None:
        self.path = Path(path)
        if self.path.suffix != ".safetensors":
            raise ValueError(f"checkpoint {path}: expected a name ending in .safetensors")
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint {shown(path)}: folder {shown(self.path.parent)} does not exist")
        if str(self.path).encode("utf-8", "replace").decode() != str(self.path):
            # safetensors writes such files, and cannot open them.
            raise ValueError(f"checkpoint {shown(path)}: expected a path in UTF-8")
        sweep(self.path.parent, {self.path.name})
        self.belongs_to = belongs_to
        self.every = every
        self._written = time.monotonic()

    def read(self) -> dict[str, Tensor] | None:
        """Read the state, or None where there is no file, or a damaged one: then a warning says so.

        Raises
        ------
        OtherRunError
            Where it is another run's.
        OSError, ValueError
            Where it is no file, or may not be read.
        """
        if not self.path.exists():
            return None
        try:
            state, metadata = read_tensors(self.path, "checkpoint")
        except ValueError as error:
            if not self.path.is_file():
                raise
            with self.path.open("rb"):  # raises where the file itself may be whole
                warnings.warn(f"{error}; the run begins anew", stacklevel=2)
            return None
        if metadata.get("belongs_to") != self.belongs_to:
            raise OtherRunError(
                f"checkpoint {self.path}: belongs to a run with other arguments, another model or other "
                "gradients; remove it to begin anew"
            )
        return state

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= self.every

    def write(self, state: Mapping[str, Tensor]) -> None:
        """Replace the file."""
        write_tensors(self.path, state, {"belongs_to": self.belongs_to})
        self._written = time.monotonic()

    def remove(self) -> None:
        """The run has ended."""
        self.path.unlink(missing_ok=True)
