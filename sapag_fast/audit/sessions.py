"""Time and memory of every run of an audit's command; nothing depends on them."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from sapag_fast.files.fault import fault_of
from sapag_fast.files.output import replacing
from sapag_fast.files.regular import regular_file

__all__ = ["Sessions"]

_NOTE_EVERY = 5.0  # seconds between two notes of the time spent


class Sessions:
    """``sessions.json``, one entry a run, the last of them this one's.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    lost : str or None
        Why nothing is known of earlier runs, where the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: str | None = None
        self._began = time.monotonic()
        self._entries: list[dict[str, Any]] = []
        try:
            self._entries = self._read() if path.exists() or path.is_symlink() else []
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.lost = fault_of(error)
        self._entries.append({"seconds": 0.0, "peak_memory": 0})
        self._write()

    def note_time(self, peak_memory: int, *, now: bool = False) -> None:
        """Keep how long this run has taken, every few seconds."""
        entry, seconds = self._entries[-1], time.monotonic() - self._began
        if now or seconds - entry["seconds"] >= _NOTE_EVERY:
            entry |= {"seconds": round(seconds, 3), "peak_memory": peak_memory}
            self._write()

    @property
    def seconds(self) -> float:
        """Wall time of all runs."""
        return sum(entry["seconds"] for entry in self._entries)

    @property
    def peak_memory(self) -> int:
        """Bytes, of the run that took most."""
        return max(entry["peak_memory"] for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _read(self) -> list[dict[str, Any]]:
        entries = [
            {"seconds": float(entry["seconds"]), "peak_memory": int(entry["peak_memory"])}
            for entry in json.loads(regular_file(self.path, "sessions").read_text(encoding="utf-8"))
        ]
        if not all(math.isfinite(entry["seconds"]) for entry in entries):
            raise ValueError("seconds: expected finite numbers")
        return entries

    def _write(self) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self._entries, indent=1) + "\n", encoding="utf-8")
