"""An audit: all victims of one model, wave by wave, each result kept as soon as it is there.

Victims with the same input shape and batch size form a group; a group goes in waves, each one call of
`recover`. Whatever decides the bits of a result (which victims make up a wave and in what order, how many
searches run at once, the number of threads) is kept in the folder's manifest before the first result is
written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.groups import AuditOptions, Group, grouped
from sapag_fast.audit.interrupt import deferred_interrupt
from sapag_fast.audit.manifest import Manifest, ManifestVictim
from sapag_fast.audit.plan import planned
from sapag_fast.audit.progress import AuditProgress
from sapag_fast.audit.result import Result
from sapag_fast.audit.scoring import Scoring
from sapag_fast.audit.summary import write_summary
from sapag_fast.audit.truth import Truth
from sapag_fast.audit.wave import ReadWave, Wave, WaveSearch
from sapag_fast.audit.written import compare_written, finished_before
from sapag_fast.files.fault import fault_of, guarded
from sapag_fast.files.fingerprint import model_fingerprint, structure
from sapag_fast.files.output import WriteError, versions
from sapag_fast.files.victims import ListedVictim
from sapag_fast.recovery.certificate import families
from sapag_fast.runtime.memory import free_bytes, highest_resident
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import shown, tell
from sapag_fast.search.capacity import kept_bytes
from sapag_fast.search.checkpoint import OtherRunError
from sapag_fast.victim.cautions import Caution, united
from sapag_fast.victim.searchable import searchable

__all__ = ["Audit"]

_LARGEST_WAVE = 4096
_SHARE = 4  # a wave's targets and starts take at most one part in so many of the memory


class Audit:
    """One run of the command over the victims that have no result yet.

    Parameters
    ----------
    model : nn.Module
        On `device`.
    victims : sequence of ListedVictim
    truth : Truth or None
    folder : AuditFolder
    options : AuditOptions
    given : mapping
        The options as the user gave them, for the manifest.
    device : torch.device
    screen : Screen

    Raises
    ------
    ValueError
        For options that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        victims: Sequence[ListedVictim],
        truth: Truth | None,
        folder: AuditFolder,
        options: AuditOptions,
        given: Mapping[str, Any],
        device: torch.device,
        screen: Screen,
    ) -> None:
        self.model, self.victims, self.truth = model, list(victims), truth
        self.folder, self.options, self.given = folder, options, dict(given)
        self.device, self.screen = device, screen
        self.by_name = {victim.name: victim for victim in self.victims}
        self.finished: set[str] = set()
        self._refusals: dict[str, Exception] = {}
        self.searched = searchable(model).model
        self.groups, self.faults = grouped(model, self.victims, options, device)

    def run(self) -> int:
        """Search all victims and write the summary, also of a part, where Ctrl-C ends it.

        Returns
        -------
        int
            How many victims were skipped.
        """
        try:
            manifest = self._manifest()
            self.folder.open(manifest)
            for note in self.folder.notes:
                tell(shown(note))
            torch.set_num_threads(self.folder.manifest.threads)
            self._warn_of_other_weights()
            for caution in self._cautions():
                tell(f"warning: {shown(caution.message)}")
            self.finished = finished_before(self.folder, self.victims)
            compare_written(
                self.folder,
                manifest,
                self.model,
                [victim for victim in self.victims if victim.name in self.finished],
            )
            self._skip({name: fault for name, fault in self.faults.items() if name not in self.finished})
            self.scoring = Scoring(self.victims, self.truth)
            try:
                with deferred_interrupt() as stop, self._progress() as progress:
                    waves = planned(self.groups, self.folder.manifest, self.finished)
                    while waves:
                        waves[:1] = self._search(waves[0], waves[1:], progress, stop)
                self.folder.checkpoint.unlink(missing_ok=True)  # a kill may come between two waves
                self._check_refusals()
            except (KeyboardInterrupt, SystemExit):
                self._summarise("interrupted")
                raise
            except (ValueError, TypeError):
                if self.folder.fresh and not self.finished:
                    self.folder.remove()  # the next try will have other arguments
                raise
            self._summarise("finished")
            self._say_what_hit_all()
            return len(self.folder.skipped)
        finally:
            self.folder.close()

    def _manifest(self) -> Manifest:
        given = {key: self.given[key] for key in ("input_shape", "batch_size")}
        return Manifest(
            settings=self.options.settings() | given,
            model={"weights": model_fingerprint(self.model), "modules": structure(self.model)},
            victims=[ManifestVictim.of(victim) for victim in self.victims],
            # The thresholds decide when restarts stop.
            versions=versions(self.device) | {"certificates": _thresholds()},
            threads=torch.get_num_threads(),
            wave=self._wave_size(),
        )

    def _wave_size(self) -> int:
        memory = self.options.search.max_memory or free_bytes(self.device)
        parameters = [p for p in self.searched.parameters() if p.requires_grad]
        searches = [self.options.search.restarts * self._kept_bytes(group) for group in self.groups]
        each = sum(p.nbytes for p in parameters) + max(searches, default=0)
        return max(1, min(_LARGEST_WAVE, int(memory / _SHARE / each)))

    def _kept_bytes(self, group: Group) -> int:
        """What each of the group's searches keeps."""
        shape = (group.victims[0].batch_size, *group.victims[0].input_shape)
        dtype = next(p.dtype for p in self.searched.parameters() if p.requires_grad)
        searched = group.outputs if self.options.labels == "joint" else 0
        return kept_bytes(shape, group.recipe, dtype, joint_classes=searched)

    def _search(
        self, wave: Wave, later: Sequence[Wave], progress: AuditProgress, stop: Callable[[], bool]
    ) -> list[Wave]:
        """Search the members that can be read, and give the waves that are left of them."""
        search = WaveSearch(self.model, self.folder, self.options, self.device)
        read = search.read(wave)
        faults = {name: fault for name, fault in read.faults.items() if name not in self.finished}
        self._say_skipped(faults)
        begun = {} if wave.number is None else self.folder.manifest.waves[wave.number]
        if wave.number is not None and (lost := begun.keys() - read.sha256.keys()):
            left = [victim for victim in read.victims if victim.name not in self.finished]
            faults |= {name: self.folder.skipped[name] for name in lost & self.folder.skipped.keys()}
            return self._parted(replace(wave, victims=read.victims), read, [left], faults)
        wave = replace(wave, number=self.folder.begin_wave(wave.number, read.sha256, faults))
        searches = len(read.victims) * self.options.search.restarts

        def finished(name: str, result: Result) -> None:
            if name not in self.finished:  # a wave may hand it out twice
                self.finished.add(name)
                progress.finished(self.scoring.success(name, result), result.details["distance"])

        def check(evaluations: int, _: Tensor) -> None:
            progress.searched(searches * evaluations / wave.group.recipe.steps)
            self.folder.sessions.note_time(self._peak_memory())
            if stop():
                raise KeyboardInterrupt

        left = sum(victim.name not in self.finished for other in later for victim in other.victims)
        progress.begin_wave(searches, left * self.options.search.restarts)
        try:
            # A result that was lost after it had been written is not handed out again by the wave's
            # checkpoint: then the wave is searched once more from the start.
            while not self.finished.issuperset(read.sha256):
                try:
                    search.search(wave, read, finished, check)
                except OtherRunError:
                    self.folder.checkpoint.unlink()  # another wave's, of which a result was lost or just came
                if stop():
                    raise KeyboardInterrupt
        except (OSError, WriteError):
            raise  # the disk's or the screen's, no victim's
        except Exception as error:
            return self._set_apart(wave, read, error)
        return []

    def _set_apart(self, wave: Wave, read: ReadWave, error: Exception) -> list[Wave]:
        """Find the victim that ends its wave's search: halves go on, one alone is left out."""
        left = [victim for victim in read.victims if victim.name not in self.finished]
        if not left:
            raise error
        if len(read.victims) > 1:
            middle = len(left) // 2
            return self._parted(wave, read, [left[:middle], left[middle:]], {})
        faults: dict[str, str] = {}
        name = left[0].name
        with guarded(name, faults):
            raise error
        self._refusals[name] = error
        self._say_skipped(faults)
        return self._parted(wave, read, [], faults)

    def _parted(
        self,
        wave: Wave,
        read: ReadWave,
        parts: Sequence[Sequence[ListedVictim]],
        faults: Mapping[str, str],
    ) -> list[Wave]:
        assert wave.number is not None  # it has been begun
        parts = [part for part in parts if part]
        gradients = [{victim.name: read.sha256[victim.name] for victim in part} for part in parts]
        numbers = self.folder.part_wave(wave.number, gradients, faults)
        return [Wave(number, wave.group, part) for number, part in zip(numbers, parts, strict=True)]

    def _check_refusals(self) -> None:
        """Raise what the search refused of each victim, where it took none: then it is for the arguments."""
        refused = list(self._refusals.values())
        reasons = {fault_of(error) for error in refused}
        if not self.finished and len(reasons) == 1 and isinstance(refused[0], ValueError | TypeError):
            raise refused[0]

    def _progress(self) -> AuditProgress:
        return AuditProgress(
            self.screen,
            victims=len(self.victims),
            known=(
                (self.scoring.success(name, kept), kept.details["distance"]) for name, kept in self._kept()
            ),
            skipped=lambda: len(self.folder.skipped),
        )

    def _kept(self) -> Iterator[tuple[str, Result]]:
        for victim in self.victims:
            if victim.name in self.finished and (result := self.folder.read(victim.name)):
                yield victim.name, result

    def _summarise(self, status: str) -> None:
        self.folder.sessions.note_time(self._peak_memory(), now=True)
        write_summary(
            self.folder,
            [victim.name for victim in self.victims],
            ((self.scoring.finished(name, result), result.history) for name, result in self._kept()),
            status=status,
            unscored=None if self.truth is None else self.scoring.unscored,
            settings=self.given | {"device": str(self.device)} | self._truth_order(),
            recipes={group.name: asdict(group.recipe) for group in self.groups},
            cautions=self._cautions(),
        )

    def _cautions(self) -> tuple[Caution, ...]:
        return united(caution for group in self.groups for caution in group.cautions)

    def _truth_order(self) -> dict[str, str]:
        return {"truth_order": self.truth.order} if self.truth is not None and self.truth.order else {}

    def _skip(self, faults: Mapping[str, str]) -> None:
        """Say and keep which victims are left out."""
        self._say_skipped(faults)
        self.folder.skip(faults)

    def _say_skipped(self, faults: Mapping[str, str]) -> None:
        for name, reason in faults.items():
            if self.folder.skipped.get(name) != reason:
                tell(f"skipped {shown(name)}: {shown(reason)}")

    def _say_what_hit_all(self) -> None:
        """Say loudly where no victim was searched, or none scored: one file cannot be to blame."""
        for what, faults, count in (
            ("skipped", self.folder.skipped, len(self.victims)),
            ("left unscored", self.scoring.unscored, len(self.finished)),
        ):
            if count and len(faults) >= count:
                reason = shown(next(iter(faults.values())))
                tell(
                    f"every victim was {what}, the first one for: {reason} "
                    "(SAPAG_FAST_TRACEBACK=1 shows where an error of the program came from)"
                )

    def _warn_of_other_weights(self) -> None:
        recorded = {victim.weights for victim in self.victims if victim.weights}
        if recorded - {model_fingerprint(self.model)}:
            tell("warning: gradients were captured with other weights than the model has now")

    def _peak_memory(self) -> int:
        cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if cuda else highest_resident()


def _thresholds() -> str:
    """Twelve digits that tell the certificates' measured families from others."""
    lines = (f"{family!r}\n" for family in families())
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
