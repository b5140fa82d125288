"""What an audit keeps on disk, so that the same command goes on after whatever ended it.

audit.json               everything that decides bits: settings, model, victims, threads, waves
results/NAME.safetensors a finished victim; written once, whole, and the same bytes by every run
checkpoint.safetensors   the wave under way
sessions.json            time and memory of every run of the command
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sapag_fast.audit.lock import check_lock, is_lock, locked
from sapag_fast.audit.manifest import Manifest, some
from sapag_fast.audit.result import Result
from sapag_fast.audit.result_file import name_in, read_result, write_result
from sapag_fast.audit.sessions import Sessions
from sapag_fast.files.fault import fault_of
from sapag_fast.files.output import check_output, leftovers, replacing, sweep
from sapag_fast.files.regular import regular_file
from sapag_fast.files.tensors import opened_safetensors

__all__ = ["AuditFolder", "file_name"]

MANIFEST, CHECKPOINT, RESULTS, SESSIONS = "audit.json", "checkpoint.safetensors", "results", "sessions.json"
SUMMARIES = ("summary.json", "summary.csv", "summary.html")
_LOCK = ".audit.lock"


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
        Begin anew: what the earlier audit wrote is removed, and nothing else.

    Attributes
    ----------
    fresh : bool
        Whether this session began the audit.
    checkpoint : Path
    notes : list of str
        What to tell the user: files of the audit that were lost, files of others that were kept.

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
        self.notes: list[str] = []
        self._lock: Any = None
        self._sessions: Sessions | None = None
        check_output(folder, overwrite=True)
        if (folder / RESULTS).is_symlink():
            raise ValueError(f"output folder {folder}: its {RESULTS} is a link; an audit's own is a folder")
        check_lock(folder / _LOCK)
        if not self.begun and (others := self._others()):
            names = some([path.name for path in others])
            raise ValueError(
                f"output folder {folder}: holds files that are no audit's ({names}); name another"
            )
        if self.begun:
            self._check_manifest()

    @property
    def begun(self) -> bool:
        """Whether there is an audit to go on with, or to write over."""
        return (self.folder / MANIFEST).is_file()

    @property
    def manifest(self) -> Manifest:
        """Of the audit that is open."""
        if self._manifest is None:
            raise RuntimeError("the folder is not open")
        return self._manifest

    @property
    def sessions(self) -> Sessions:
        """All runs of the audit that is open."""
        if self._sessions is None:
            raise RuntimeError("the folder is not open")
        return self._sessions

    def open(self, manifest: Manifest) -> None:
        """Begin, or go on with what is there: then its threads, waves and so on count.

        Raises
        ------
        ValueError
            When the audit that is there differs; the message says in what.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder / _LOCK)
        if self.begun and not self.overwrite:
            self._go_on(manifest)
        else:
            self._begin(manifest)
        self._sweep(manifest)
        (self.folder / RESULTS).mkdir(exist_ok=True)
        self._sessions = Sessions(self.folder / SESSIONS)
        if self._sessions.lost:
            lost = f"file {self._sessions.path}: damaged ({self._sessions.lost})"
            self.notes.append(f"{lost}: the time and memory of earlier sessions are lost")

    def close(self) -> None:
        """Let another process work here."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Forget an audit that could not begin, and the folder if there is nothing else in it."""
        self._clear({self.result_path(victim.name) for victim in self.manifest.victims})
        (self.folder / MANIFEST).unlink(missing_ok=True)
        (self.folder / _LOCK).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _go_on(self, manifest: Manifest) -> None:
        there = self._read_manifest()
        if differences := there.differences(manifest):
            raise ValueError(
                f"output folder {self.folder}: holds another audit: {'; '.join(differences)}; give the "
                "same arguments to go on, name another folder, or pass --overwrite to begin anew"
            )
        self._manifest = there
        self._keep(there.with_files(manifest, there.skipped.keys()))
        self._look_at_checkpoint()

    def _begin(self, manifest: Manifest) -> None:
        """Put this audit in the place of an earlier one, and tell what else is in its folder."""
        earlier = set(self._results())
        if self.begun:
            with contextlib.suppress(ValueError):  # a damaged manifest lists nothing
                there = self._read_manifest()
                earlier |= {self.result_path(victim.name) for victim in there.victims}
                self._sweep(there)
        paths = (self.result_path(victim.name) for victim in manifest.victims)
        if strange := [path for path in paths if path not in earlier and _is_there(path)]:
            raise ValueError(
                f"output folder {self.folder}: {some(strange)}: no audit's, but called as a result; move it "
                "away or name another folder"
            )
        self._clear(earlier)
        self._keep(manifest)  # in the place of the earlier one: the folder is an audit's at every moment
        self.fresh = True
        kept = [path for path in self.folder.iterdir() if path.name not in (_LOCK, RESULTS, MANIFEST)]
        kept += (self.folder / RESULTS).iterdir() if (self.folder / RESULTS).is_dir() else []
        if kept:
            shown = [path.relative_to(self.folder) for path in kept]
            self.notes.append(f"output folder {self.folder}: kept what no audit wrote: {some(shown)}")

    def _sweep(self, manifest: Manifest) -> None:
        """Remove what killed writes of an audit's files have left."""
        sweep(self.folder, {MANIFEST, CHECKPOINT, SESSIONS, *SUMMARIES})
        sweep(self.folder / RESULTS, {self.result_path(victim.name).name for victim in manifest.victims})

    def _others(self) -> list[Path]:
        """What no audit has left that was ended before it began."""
        own = set(leftovers(self.folder, {MANIFEST}))
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [path for path in found if path not in own and not (path.name == _LOCK and is_lock(path))]

    def _check_manifest(self) -> None:
        """Raise ValueError for a manifest that is damaged, unless it is an audit's to be written over."""
        try:
            self._read_manifest()
        except ValueError:
            if self.overwrite and (is_lock(self.folder / _LOCK) or any(self._results())):
                return
            raise

    def _clear(self, results: Collection[Path]) -> None:
        """Remove these results, and what else an audit writes but its manifest."""
        for path in results:
            if path.is_symlink() or path.is_file():
                path.unlink()
        if (self.folder / RESULTS).is_dir() and not any((self.folder / RESULTS).iterdir()):
            (self.folder / RESULTS).rmdir()
        for name in (CHECKPOINT, SESSIONS, *SUMMARIES):
            (self.folder / name).unlink(missing_ok=True)

    def _results(self) -> Iterator[Path]:
        """Files that are results by what is in them, whatever the manifest lists."""
        for path in (self.folder / RESULTS).glob("*.safetensors"):
            name = name_in(path)
            if name is not None and path == self.result_path(name):
                yield path

    def note_files(self, manifest: Manifest, names: Collection[str]) -> None:
        """Keep that these victims' files, as they are now, hold the gradients that were searched."""
        self._keep(self.manifest.with_files(manifest, names))

    def skip(self, faults: Mapping[str, str]) -> None:
        """Leave out these victims, by name, for these reasons."""
        self._keep(self.manifest.with_skipped(faults))

    @property
    def skipped(self) -> Mapping[str, str]:
        """Reasons by name."""
        return self.manifest.skipped

    def begin_wave(self, number: int | None, gradients: Mapping[str, str], faults: Mapping[str, str]) -> int:
        """Keep which victims a wave consists of (see `Manifest.with_wave`), and give its number."""
        number = self.manifest.next_wave if number is None else number
        self._keep(self.manifest.with_wave(number, gradients, faults))
        return number

    def part_wave(
        self, number: int, parts: Sequence[Mapping[str, str]], faults: Mapping[str, str]
    ) -> list[int]:
        """Have parts of a wave go on as waves of their own (see `Manifest.with_parts`), from their start."""
        manifest, numbers = self.manifest.with_parts(number, parts, faults)
        self._keep(manifest)
        self.checkpoint.unlink(missing_ok=True)
        return numbers

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

    def has(self, name: str, shape: Sequence[int] | None = None) -> bool:
        """Whether the victim's result is there, whole; `shape` as in `read_result`."""
        return self.read(name, shape) is not None

    def write(self, name: str, result: Result) -> None:
        """Write the victim's result, unless it is there."""
        if not self.has(name, result.inputs.shape):
            write_result(self.result_path(name), name, result)

    def read(self, name: str, shape: Sequence[int] | None = None) -> Result | None:
        """The victim's result, or None where it is not there, or damaged."""
        try:
            return read_result(self.result_path(name), name, shape)
        except ValueError:
            return None

    def damage(self, name: str, shape: Sequence[int] | None = None) -> str:
        """Tell what is wrong with the victim's result; empty where nothing is, or where it is not there."""
        path = self.result_path(name)
        try:
            if _is_there(path):
                read_result(path, name, shape)
        except ValueError as error:
            return fault_of(error)
        return ""

    def _keep(self, manifest: Manifest) -> None:
        """Write the manifest, unless nothing has changed."""
        if manifest is not self._manifest:
            self._manifest = manifest
            self._write_json(MANIFEST, manifest.to_json())

    def _read_manifest(self) -> Manifest:
        try:
            return Manifest.from_json(self._read_json(MANIFEST))
        except ValueError as error:
            raise ValueError(
                f"file {self.folder / MANIFEST}: damaged ({error}), so what this audit was begun with is "
                f"lost; what it found is still in {RESULTS}/; name another folder, or pass --overwrite to "
                "begin anew"
            ) from None

    def _look_at_checkpoint(self) -> None:
        """Remove a checkpoint that cannot be read: its wave begins anew, and ends with the same bits."""
        if not self.checkpoint.exists():
            return
        try:
            with opened_safetensors(self.checkpoint, "checkpoint") as opened:
                list(opened.keys())
        except ValueError as error:
            self.notes.append(f"{fault_of(error)}: the searches under way begin anew")
            self.checkpoint.unlink()

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads(regular_file(self.folder / name, "audit file").read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError) as error:
            raise ValueError(fault_of(error)) from None

    def _write_json(self, name: str, content: object) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
