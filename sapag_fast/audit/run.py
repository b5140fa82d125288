"""An audit: all victims of one model, wave by wave, each result kept as soon as it is there.

Victims with the same input shape and batch size form a group; a group goes in waves, each one call of
`recover`. Whatever decides the bits of a result (which victims make up a wave and in what order, how many
searches run at once, the number of threads) is kept in the folder's manifest before the first result is
written.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.audit.folder import AuditFolder, Result, printable
from sapag_fast.audit.groups import AuditOptions, Group, as_problem, grouped
from sapag_fast.audit.progress import AuditProgress
from sapag_fast.audit.summary import write_summary
from sapag_fast.audit.victims import Listed, Truth
from sapag_fast.files.fingerprint import fingerprint, model_fingerprint, structure
from sapag_fast.files.output import versions
from sapag_fast.recovery.certificate import families
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.report import Finished
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.memory import free_bytes, highest_resident
from sapag_fast.victim.labels import infer_labels

with needs("audit", "audits"):
    import click
    from rich.console import Console

__all__ = ["Audit"]

_LARGEST_WAVE = 4096
_SHARE = 4  # a wave's targets take at most one part in so many of the memory


class Audit:
    """One run of the command over the victims that have no result yet.

    Parameters
    ----------
    model : nn.Module
        On `device`.
    victims : sequence of Listed
    truth : Truth or None
    folder : AuditFolder
    options : AuditOptions
    given : mapping
        The options as the user gave them, for the manifest.
    device : torch.device
    console : Console

    Raises
    ------
    ValueError
        For options that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        victims: Sequence[Listed],
        truth: Truth | None,
        folder: AuditFolder,
        options: AuditOptions,
        given: Mapping[str, Any],
        device: torch.device,
        console: Console,
    ) -> None:
        self.model, self.victims, self.truth = model, list(victims), truth
        self.folder, self.options, self.given = folder, options, dict(given)
        self.device, self.console = device, console
        self.by_name = {victim.name: victim for victim in self.victims}
        self.finished: set[str] = set()
        self.groups, self.faults = grouped(model, self.victims, options, device)

    def run(self) -> int:
        """Search all victims and write the summary, also of a part, where Ctrl-C ends it. Returns how many
        victims were skipped.
        """
        chosen = {"threads": torch.get_num_threads(), "wave": self._wave_size()}
        try:
            self.folder.open(self._pinned(), chosen)
            torch.set_num_threads(self.folder.manifest["threads"])
            self._warn_of_other_weights()
            self.finished = {victim.name for victim in self.victims if self.folder.has(victim.name)}
            self._skip(self.faults)
            try:
                with _deferred_interrupt() as stop, self._progress() as progress:
                    for number, group, members in self._waves():
                        self._wave(number, group, members, progress, stop)
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

    def _pinned(self) -> dict[str, Any]:
        options = {key: value for key, value in asdict(self.options).items() if key != "max_memory"}
        return {
            "settings": options | {key: self.given[key] for key in ("input_shape", "batch_size")},
            "model": {"weights": model_fingerprint(self.model), "modules": structure(self.model)},
            "victims": [
                {"name": victim.name, "file": victim.path.name, "row": victim.row, "bytes": victim.size}
                for victim in self.victims
            ],
            # The thresholds decide when restarts stop.
            "versions": versions(self.device) | {"certificates": fingerprint(families(), ())[:12]},
        }

    def _wave_size(self) -> int:
        memory = self.options.max_memory or free_bytes(self.device)
        each = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
        return max(1, min(_LARGEST_WAVE, int(memory / _SHARE / each)))

    def _waves(self) -> Iterator[tuple[int, Group, tuple[Listed, ...]]]:
        number, size = 0, self.folder.manifest["wave"]
        for group in self.groups:
            for at in range(0, len(group.victims), size):
                yield number, group, group.victims[at : at + size]
                number += 1

    def _wave(
        self,
        number: int,
        group: Group,
        members: Sequence[Listed],
        progress: AuditProgress,
        stop: Callable[[], bool],
    ) -> None:
        """Search the members that can be read, if one of them has no result yet."""
        known = self.finished | self.folder.skipped.keys()
        if all(victim.name in known for victim in members):
            self.folder.checkpoint.unlink(missing_ok=True)  # its last result came just before a kill
            return
        read, targets, shas = self._read(group, members)
        self.folder.pin_wave(number, shas)
        names = [victim.name for victim in read]

        def finished(position: int, found: Recovery) -> None:
            self.folder.pin_at_once(group.name, found.at_once)
            name = names[position]
            result = self._result(group, found, shas[name])
            self.folder.write(name, result)
            self.finished.add(name)
            progress.finished(self._success(name, result), result.details["distance"])

        def check(evaluations: int, _: Tensor) -> None:
            progress.searched(len(names) * self.options.restarts * evaluations / group.recipe.steps)
            self.folder.note_time(self._peak_memory())
            if stop():
                raise KeyboardInterrupt

        later = self.by_name.keys() - self.finished - self.folder.skipped.keys() - shas.keys()
        progress.begin_wave(len(names) * self.options.restarts, len(later) * self.options.restarts)
        # A result that was lost after it had been written is not handed out again by the wave's checkpoint:
        # then the wave is searched once more from the start.
        while not self.finished.issuperset(names):
            found = recover(
                self.model,
                targets,
                group.victims[0].input_shape,
                batched=True,
                batch_size=group.victims[0].batch_size,
                labels=self._labels(read),
                restarts=self.options.restarts,
                stop_certified=self.options.stop_certified,
                recipe=group.recipe,
                layers=self.options.layers,
                seed=self.options.seed,
                max_memory=self.options.max_memory,
                at_once=self.options.at_once or self.folder.at_once(group.name),
                checkpoint=self.folder.checkpoint,
                on_finished=finished,
                progress=check,
            )
            if stop() or "interrupted" in found.status:
                raise KeyboardInterrupt

    def _read(
        self, group: Group, members: Sequence[Listed]
    ) -> tuple[list[Listed], list[Tensor], dict[str, str]]:
        """The members that can be read, their gradients ``[V, *parameter shape]`` and the SHA-256 of each."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        rows = [torch.empty(len(members), *p.shape, dtype=p.dtype, device=self.device) for p in parameters]
        read: list[Listed] = []
        shas: dict[str, str] = {}
        faults: dict[str, str] = {}
        for victim in members:
            row = len(read)
            try:
                gradient = victim.gradient(self.model)
                for place, tensor in zip(rows, gradient, strict=True):
                    place[row] = tensor
                    if not torch.isfinite(place[row]).all():
                        raise ValueError(f"its gradient is not finite as {place.dtype}")
                self._check_labels(group, victim, [place[row : row + 1] for place in rows])
            except ValueError as error:
                faults[victim.name] = str(error)
                continue
            read.append(victim)
            shas[victim.name] = fingerprint((), gradient)
        self._skip(faults)
        return read, [place[: len(read)] for place in rows], shas

    def _check_labels(self, group: Group, victim: Listed, target: list[Tensor]) -> None:
        """Raise ValueError where one victim would end the search of all for its labels."""
        if self.options.labels == "infer":
            # The look at the signs needs no noise images, which serve batches.
            infer_labels(as_problem(self.model, target), batch_size=1, noise=target[0], classes=group.classes)
        elif self.options.labels == "known":
            if victim.labels is None:
                raise ValueError("its gradient file does not give the labels")
            if len(victim.labels) != victim.batch_size:
                raise ValueError(f"{len(victim.labels)} labels for {victim.batch_size} images")
            if group.classes is not None and max(victim.labels) >= group.classes:
                raise ValueError(f"label {max(victim.labels)}: the model has {group.classes} classes")

    def _labels(self, victims: Sequence[Listed]) -> str | Tensor:
        if self.options.labels != "known":
            return self.options.labels
        return torch.tensor([victim.labels for victim in victims], device=self.device)

    def _result(self, group: Group, found: Recovery, sha: str) -> Result:
        """The one victim of `found`, as it is kept."""
        history = found.history[:, 0].cpu()
        seen = int((~history.isnan()).nonzero().max()) + 1 if not history.isnan().all() else 0
        details = {
            "certificate": asdict(found.certificate[0]),
            "distance": float(found.distance[0]),
            "evaluations": int(found.evaluations[0]),
            "gradient_sha256": sha,
            "mode": found.mode,
            "recipe": asdict(group.recipe),
            "restarts": self.options.restarts,
            "seed": self.options.seed,
            "status": found.status[0],
            "winner": int(found.winner[0]),
        }
        return Result(found.inputs[0].cpu(), found.labels[0].cpu(), history[:seen], details)

    def _success(self, name: str, result: Result) -> bool | None:
        return None if self.truth is None else self.scored(name, result).success

    def scored(self, name: str, result: Result) -> Finished:
        """The result beside the truth, where that is known."""
        victim, details = self.by_name[name], result.details
        distance = details["distance"]
        return Finished(
            name=name,
            group=name,
            method="recovered",
            inputs=result.inputs,
            labels=result.labels,
            distance=float("inf") if distance is None else distance,
            evaluations=details["evaluations"],
            seconds=0.0,
            status=details["status"],
            certificate=details["certificate"],
            truth=None if self.truth is None else self.truth.of(victim),
            true_labels=None if victim.labels is None else torch.tensor(victim.labels),
        )

    def _progress(self) -> AuditProgress:
        return AuditProgress(
            self.console,
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
            truth=self.truth is not None,
            settings=self.given | {"device": str(self.device)},
            recipes={group.name: asdict(group.recipe) for group in self.groups},
        )

    def _skip(self, faults: Mapping[str, str]) -> None:
        """Say and keep which victims are left out."""
        for name, reason in faults.items():
            if name not in self.folder.skipped:
                click.echo(f"sapag-fast: skipped {printable(name)}: {printable(reason)}", err=True)
        self.folder.skip(faults)

    def _warn_of_other_weights(self) -> None:
        recorded = {victim.weights for victim in self.victims if victim.weights}
        if recorded - {model_fingerprint(self.model)}:
            click.echo(
                "sapag-fast: warning: gradients were captured with other weights than the model has now",
                err=True,
            )

    def _peak_memory(self) -> int:
        cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if cuda else highest_resident()


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C takes effect where the search looks, between two steps, so that no state is kept half changed;
    a second one ends the process at once, and the last checkpoint counts.
    """
    asked = []

    def handler(*_: object) -> None:
        if asked:
            raise SystemExit(130)
        asked.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
