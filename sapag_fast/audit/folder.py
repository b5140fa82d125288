"""What an audit keeps on disk, so that the same command goes on after whatever ended it.

audit.json               everything that decides bits: settings, model, victims, threads, waves
results/NAME.safetensors a finished victim; written once, whole, and the same bytes by every run
checkpoint.safetensors   the wave under way
sessions.json            time and memory of every run of the command
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sapag_fast.audit.manifest import Manifest
from sapag_fast.audit.result import Result
from sapag_fast.files.output import check_output, finite_json, replacing
from sapag_fast.files.tensors import opened_safetensors, read_tensors, write_tensors

__all__ = ["AuditFolder", "file_name"]

MANIFEST, CHECKPOINT, RESULTS, SESSIONS = "audit.json", "checkpoint.safetensors", "results", "sessions.json"
SUMMARIES = ("summary.json", "summary.csv", "summary.html")
_LOCK = ".audit.lock"
_DETAILS = "sapag_fast"
"""All of a result is in one metadata entry: safetensors writes several in an order that varies."""
_NOTE_EVERY = 5.0  # seconds between two notes of the time spent


def file_name(name: str) -> str:
    """A name of its own for the victim's file, whatever the victim is called: no separators, not too long."""
    plain = quote(name, safe=" +=@,")
    if plain.startswith("."):
        plain = f"%2E{plain[1:]}"  # no hidden file, and no parent folder
    if len(plain) > 150 or not plain:
        plain = f"{plain[:100]}%{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return plain


class AuditFolder:
    """The output folder of one audit, locked while in use.

    Parameters
    ----------
    folder : Path
        Absent, empty, or an earlier audit's.
    overwrite : bool
        Begin anew.

    Attributes
    ----------
    fresh : bool
        Whether this session began the audit.
    checkpoint : Path

    Raises
    ------
    ValueError
        Where the folder is something else's, cannot be written to, or another audit is at work in it.
    """

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.checkpoint = folder / CHECKPOINT
        self._manifest: Manifest | None = None
        self.fresh = False
        self._lock: Any = None
        self._began = time.monotonic()
        self._sessions: list[dict[str, Any]] = []
        check_output(folder, overwrite=True)
        others = [path for path in folder.iterdir() if path.name[:6] != ".audit"] if folder.is_dir() else []
        if others and not overwrite and not (folder / MANIFEST).is_file():
            raise ValueError(
                f"output folder {folder}: holds files that are no audit's; name another one or pass "
                "--overwrite"
            )

    @property
    def manifest(self) -> Manifest:
        """Of the audit that is open."""
        if self._manifest is None:
            raise RuntimeError("the folder is not open")
        return self._manifest

    def open(self, manifest: Manifest) -> None:
        """Begin, or go on with what is there: then its threads, waves and so on count.

        Raises
        ------
        ValueError
            When the audit that is there differs; the message says in what.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"output folder {self.folder}: another audit is at work in it") from None
        if self.overwrite:
            self._clear()
        if (self.folder / MANIFEST).exists():
            there = self._read_manifest()
            if differences := there.differences(manifest):
                raise ValueError(
                    f"output folder {self.folder}: holds another audit: {'; '.join(differences)}; give the "
                    "same arguments to go on, name another folder, or pass --overwrite to begin anew"
                )
            self._manifest = there
            self._sessions = self._read_json(SESSIONS) if (self.folder / SESSIONS).exists() else []
        else:
            self._keep(manifest)
            self.fresh = True
        (self.folder / RESULTS).mkdir(exist_ok=True)
        for leftover in (*self.folder.glob(".*.part"), *(self.folder / RESULTS).glob(".*.part")):
            leftover.unlink()  # of a write that was killed
        self._sessions.append({"seconds": 0.0, "peak_memory": 0})
        self._write_json(SESSIONS, self._sessions)

    def close(self) -> None:
        """Let another process work here."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Forget an audit that could not begin, and the folder if there is nothing else in it."""
        self._clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _clear(self) -> None:
        shutil.rmtree(self.folder / RESULTS, ignore_errors=True)
        for name in (CHECKPOINT, SESSIONS, *SUMMARIES, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)

    def skip(self, faults: Mapping[str, str]) -> None:
        """Leave out these victims, by name, for these reasons."""
        if not faults.items() <= self.skipped.items():
            self._keep(self.manifest.with_skipped(faults))

    @property
    def skipped(self) -> Mapping[str, str]:
        """Reasons by name."""
        return self.manifest.skipped

    def pin_wave(self, number: int, gradients: Mapping[str, str]) -> None:
        """Keep which victims a wave consists of (see `Manifest.with_wave`)."""
        self._keep(self.manifest.with_wave(number, gradients))

    def at_once(self, group: str) -> int | None:
        """Searches at once, if the group has found it out."""
        return self.manifest.at_once.get(group)

    def pin_at_once(self, group: str, count: int) -> None:
        """Keep how many searches of the group run at once."""
        if self.at_once(group) != count:
            self._keep(self.manifest.with_at_once(group, count))

    def result_path(self, name: str) -> Path:
        """Where the victim's result is, or will be."""
        return self.folder / RESULTS / f"{file_name(name)}.safetensors"

    def has(self, name: str) -> bool:
        """Whether the victim's result is there, whole."""
        path = self.result_path(name)
        try:
            with opened_safetensors(path, "result") as opened:
                return json.loads(opened.metadata()[_DETAILS])["name"] == name
        except (ValueError, KeyError, TypeError):
            return False

    def write(self, name: str, result: Result) -> None:
        """Write the victim's result, unless it is there."""
        if self.has(name):
            return
        details = json.dumps(finite_json({"name": name, **result.details}), sort_keys=True, allow_nan=False)
        tensors = {"inputs": result.inputs, "labels": result.labels, "history": result.history}
        write_tensors(self.result_path(name), tensors, {_DETAILS: details})

    def read(self, name: str) -> Result | None:
        """The victim's result, or None where it is not there."""
        if not self.has(name):
            return None
        tensors, metadata = read_tensors(self.result_path(name), "result")
        return Result(**tensors, details=json.loads(metadata[_DETAILS]))

    def note_time(self, peak_memory: int, *, now: bool = False) -> None:
        """Keep how long this session has taken, every few seconds."""
        session, seconds = self._sessions[-1], time.monotonic() - self._began
        if now or seconds - session["seconds"] >= _NOTE_EVERY:
            session |= {"seconds": round(seconds, 3), "peak_memory": peak_memory}
            self._write_json(SESSIONS, self._sessions)

    @property
    def seconds(self) -> float:
        """Wall time of all sessions."""
        return sum(session["seconds"] for session in self._sessions)

    @property
    def peak_memory(self) -> int:
        """Bytes, of the session that took most."""
        return max(session["peak_memory"] for session in self._sessions)

    @property
    def sessions(self) -> int:
        """How often the command ran."""
        return len(self._sessions)

    def _keep(self, manifest: Manifest) -> None:
        """Write the manifest, unless nothing has changed."""
        if manifest is not self._manifest:
            self._manifest = manifest
            self._write_json(MANIFEST, manifest.to_json())

    def _read_manifest(self) -> Manifest:
        content = self._read_json(MANIFEST)
        try:
            return Manifest.from_json(content)
        except ValueError as error:
            raise ValueError(f"file {self.folder / MANIFEST}: damaged: {error}") from None

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"file {self.folder / name}: damaged: {error}") from None

    def _write_json(self, name: str, content: object) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
