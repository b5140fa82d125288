"""An audit: all victims of one model, wave by wave, each result kept as soon as it is there.

Victims with the same input shape and batch size form a group; a group goes in waves, each one call of
`recover`. Whatever decides the bits of a result (which victims make up a wave and in what order, how many
searches run at once, the number of threads) is kept in the folder's manifest before the first result is
written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.groups import AuditOptions, Group, grouped
from sapag_fast.audit.interrupt import deferred_interrupt
from sapag_fast.audit.manifest import Manifest, ManifestVictim
from sapag_fast.audit.progress import AuditProgress
from sapag_fast.audit.result import Result
from sapag_fast.audit.summary import write_summary
from sapag_fast.audit.truth import Truth
from sapag_fast.audit.wave import Wave, WaveSearch
from sapag_fast.files.fingerprint import model_fingerprint, structure
from sapag_fast.files.output import versions
from sapag_fast.files.victims import ListedVictim
from sapag_fast.recovery.certificate import families
from sapag_fast.reports.finished import Finished
from sapag_fast.runtime.memory import free_bytes, highest_resident
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import shown, tell
from sapag_fast.search.capacity import kept_bytes

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
        self.groups, self.faults = grouped(model, self.victims, options.search, device)

    def run(self) -> int:
        """Search all victims and write the summary, also of a part, where Ctrl-C ends it.

        Returns
        -------
        int
            How many victims were skipped.
        """
        try:
            self.folder.open(self._manifest())
            torch.set_num_threads(self.folder.manifest.threads)
            self._warn_of_other_weights()
            self.finished = {victim.name for victim in self.victims if self.folder.has(victim.name)}
            self._skip(self.faults)
            try:
                with deferred_interrupt() as stop, self._progress() as progress:
                    for wave in self._waves():
                        self._search(wave, progress, stop)
            except (KeyboardInterrupt, SystemExit):
                self._summarise("interrupted")
                raise
            except (ValueError, TypeError):
                if self.folder.fresh and not self.finished:
                    self.folder.remove()  # the next try will have other arguments
                raise
            self._summarise("finished")
            return len(self.folder.skipped)
        finally:
            self.folder.close()

    def _manifest(self) -> Manifest:
        given = {key: self.given[key] for key in ("input_shape", "batch_size")}
        return Manifest(
            settings=self.options.settings() | given,
            model={"weights": model_fingerprint(self.model), "modules": structure(self.model)},
            victims=[
                ManifestVictim(victim.name, victim.path.name, victim.row, victim.size)
                for victim in self.victims
            ],
            # The thresholds decide when restarts stop.
            versions=versions(self.device) | {"certificates": _thresholds()},
            threads=torch.get_num_threads(),
            wave=self._wave_size(),
        )

    def _wave_size(self) -> int:
        memory = self.options.search.max_memory or free_bytes(self.device)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        searches = [self.options.search.restarts * self._kept_bytes(group) for group in self.groups]
        each = sum(p.nbytes for p in parameters) + max(searches, default=0)
        return max(1, min(_LARGEST_WAVE, int(memory / _SHARE / each)))

    def _kept_bytes(self, group: Group) -> int:
        """What each of the group's searches keeps."""
        shape = (group.victims[0].batch_size, *group.victims[0].input_shape)
        dtype = next(p.dtype for p in self.model.parameters() if p.requires_grad)
        joint = self.options.labels == "joint"
        return kept_bytes(shape, group.recipe, dtype, joint_classes=(group.classes or 0) if joint else 0)

    def _waves(self) -> Iterator[Wave]:
        number, size = 0, self.folder.manifest.wave
        for group in self.groups:
            for at in range(0, len(group.victims), size):
                yield Wave(number, group, group.victims[at : at + size])
                number += 1

    def _search(self, wave: Wave, progress: AuditProgress, stop: Callable[[], bool]) -> None:
        """Search the members that can be read, if one of them has no result yet."""
        known = self.finished | self.folder.skipped.keys()
        if all(victim.name in known for victim in wave.victims):
            self.folder.checkpoint.unlink(missing_ok=True)  # its last result came just before a kill
            return
        search = WaveSearch(self.model, self.folder, self.options, self.device)
        read = search.read(wave)
        self._skip(read.faults)
        self.folder.pin_wave(wave.number, read.sha256)
        searches = len(read.victims) * self.options.search.restarts

        def finished(name: str, result: Result) -> None:
            self.finished.add(name)
            progress.finished(self._success(name, result), result.details["distance"])

        def check(evaluations: int, _: Tensor) -> None:
            progress.searched(searches * evaluations / wave.group.recipe.steps)
            self.folder.note_time(self._peak_memory())
            if stop():
                raise KeyboardInterrupt

        later = self.by_name.keys() - self.finished - self.folder.skipped.keys() - read.sha256.keys()
        progress.begin_wave(searches, len(later) * self.options.search.restarts)
        # A result that was lost after it had been written is not handed out again by the wave's checkpoint:
        # then the wave is searched once more from the start.
        while not self.finished.issuperset(read.sha256):
            search.search(wave, read, finished, check)
            if stop():
                raise KeyboardInterrupt

    def _success(self, name: str, result: Result) -> bool | None:
        return None if self.truth is None else self.scored(name, result).success

    def scored(self, name: str, result: Result) -> Finished:
        """Score the result against the truth, where that is known."""
        victim = self.by_name[name]
        return result.finished(name, None if self.truth is None else self.truth.of(victim), victim.labels)

    def _progress(self) -> AuditProgress:
        return AuditProgress(
            self.screen,
            victims=len(self.victims),
            known=((self._success(name, kept), kept.details["distance"]) for name, kept in self._kept()),
            skipped=lambda: len(self.folder.skipped),
        )

    def _kept(self) -> Iterator[tuple[str, Result]]:
        for victim in self.victims:
            if victim.name in self.finished and (result := self.folder.read(victim.name)):
                yield victim.name, result

    def _summarise(self, status: str) -> None:
        self.folder.note_time(self._peak_memory(), now=True)
        write_summary(
            self.folder,
            [victim.name for victim in self.victims],
            ((self.scored(name, result), result.history) for name, result in self._kept()),
            status=status,
            settings=self.given | {"device": str(self.device)},
            recipes={group.name: asdict(group.recipe) for group in self.groups},
        )

    def _skip(self, faults: Mapping[str, str]) -> None:
        """Say and keep which victims are left out."""
        for name, reason in faults.items():
            if name not in self.folder.skipped:
                tell(f"skipped {shown(name)}: {shown(reason)}")
        self.folder.skip(faults)

    def _warn_of_other_weights(self) -> None:
        recorded = {victim.weights for victim in self.victims if victim.weights}
        if recorded - {model_fingerprint(self.model)}:
            tell("warning: gradients were captured with other weights than the model has now")

    def _peak_memory(self) -> int:
        cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if cuda else highest_resident()


def _thresholds() -> str:
    """Twelve digits that tell the certificates' measured families from others."""
    # A field as manifests know it: an audit that was begun goes on whatever it is called in the code.
    lines = (repr(family).replace("piecewise_linear=", "kinked=") for family in families())
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:12]
