"""An audit of sentences: victim by victim, each result kept as soon as it is there.

The folder, its manifest and its results are an audit's of any data; a victim is a wave of its own, and one
whose search was ended begins anew, with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.manifest import Manifest, ManifestVictim
from sapag_fast.audit.progress import AuditProgress
from sapag_fast.audit.result import Result
from sapag_fast.audit.sentences_summary import write_sentences_summary
from sapag_fast.audit.truth import true_labels
from sapag_fast.audit.written import compare_written, finished_before
from sapag_fast.files.fault import fault_of, guarded
from sapag_fast.files.fingerprint import fingerprint, model_fingerprint, structure
from sapag_fast.files.output import WriteError, versions
from sapag_fast.files.victims import ListedVictim
from sapag_fast.reports.finished import RECOVERED, warnings_of
from sapag_fast.reports.sentences import FoundSentence
from sapag_fast.runtime.memory import highest_resident
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import shown, tell
from sapag_fast.text.options import TextOptions
from sapag_fast.text.recovery import TextRecovery
from sapag_fast.text.true_sentences import TrueSentence

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["SentenceAudit", "SentenceVictims"]


@dataclass(frozen=True)
class SentenceVictims:
    """Whose sentences are searched, V victims.

    Attributes
    ----------
    listed : sequence of ListedVictim
        V.
    lengths : sequence of int or None
        V; None: from the gradient.
    labels : str
        ``infer``, or ``known``: from the gradient files.
    truth : sequence of TrueSentence or None
        V, where they are given.
    """

    listed: Sequence[ListedVictim]
    lengths: Sequence[int | None]
    labels: str
    truth: Sequence[TrueSentence] | None


class SentenceAudit:
    """One run of the command over the victims that have no result yet.

    Parameters
    ----------
    model : nn.Module
        On its device.
    victims : SentenceVictims
        Whose sentences are searched.
    folder : AuditFolder
        Where results are kept.
    options : TextOptions
        How every victim is searched.
    given : mapping
        The options as the user gave them, for the summary.
    tokenizer : tokenizers.Tokenizer or None
        Makes text of tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        victims: SentenceVictims,
        folder: AuditFolder,
        options: TextOptions,
        given: Mapping[str, Any],
        tokenizer: Tokenizer | None,
    ) -> None:
        self.model, self.victims, self.folder = model, victims, folder
        self.options, self.given, self.tokenizer = options, dict(given), tokenizer
        self.device = next(model.parameters()).device
        self.finished: set[str] = set()
        self._said: set[str] = set()
        self._refusals: list[Exception] = []

    def run(self, screen: Screen) -> int:
        """Search all victims and write the summary, also of a part, where Ctrl-C ends it.

        Returns
        -------
        int
            How many victims were skipped.
        """
        listed = self.victims.listed
        try:
            manifest = self._manifest()
            self.folder.open(manifest)
            for note in self.folder.notes:
                tell(shown(note))
            torch.set_num_threads(self.folder.manifest.threads)
            if {v.weights for v in listed if v.weights} - {model_fingerprint(self.model)}:
                tell("warning: gradients were captured with other weights than the model has now")
            self.finished = finished_before(self.folder, listed)
            done = [victim for victim in listed if victim.name in self.finished]
            compare_written(self.folder, manifest, self.model, done)
            for entry in self._found():
                self._tell_warnings(entry)
            try:
                with self._progress(screen) as progress:
                    for position in range(len(listed)):
                        self._search(position, progress)
                self._check_refusals()
            except KeyboardInterrupt:
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
        return Manifest(
            settings={
                "text": True,
                **asdict(self.options),
                "labels": self.victims.labels,
                "length": list(self.victims.lengths),
            },
            model={"weights": model_fingerprint(self.model), "modules": structure(self.model)},
            victims=[ManifestVictim.of(victim) for victim in self.victims.listed],
            versions=versions(self.device),
            threads=torch.get_num_threads(),
            wave=1,
        )

    def _progress(self, screen: Screen) -> AuditProgress:
        return AuditProgress(
            screen,
            victims=len(self.victims.listed),
            known=(self._outcome(entry) for entry in self._found()),
            skipped=lambda: len(self.folder.skipped),
        )

    def _outcome(self, entry: FoundSentence) -> tuple[bool | None, float]:
        return (entry.success if entry.text_scores else None), entry.distance

    def _search(self, position: int, progress: AuditProgress) -> None:
        """Search one victim, unless it has a result; what is wrong with it costs it alone."""
        victim, faults = self.victims.listed[position], {}
        if victim.name in self.finished:
            return
        left = sum(v.name not in self.finished for v in self.victims.listed[position + 1 :])
        progress.begin_wave(1, left)
        gradient, label = [], None
        with guarded(victim.name, faults):
            if victim.fault is not None:
                raise ValueError(victim.fault)
            gradient = victim.gradient(self.model)
            label = self._label(victim)
        if not faults:
            sha256 = fingerprint((), [tensor for tensor in gradient if tensor is not None])
            waves = self.folder.manifest.waves
            number = next((n for n, members in waves.items() if victim.name in members), None)
            self.folder.begin_wave(number, {victim.name: sha256}, {})
            try:
                recovery = self.options.recover(
                    self.model,
                    [None if g is None else g.to(self.device) for g in gradient],
                    self.victims.lengths[position],
                    "infer" if label is None else [label],
                )
                if not recovery.distance.isfinite().all():
                    raise ValueError("no sentence has a finite distance")
            except (OSError, WriteError):
                raise
            except Exception as error:
                self._refusals.append(error)
                with guarded(victim.name, faults):
                    raise error
            else:
                result = _result(recovery, sha256, self.options)
                self.folder.write(victim.name, result)
                self.finished.add(victim.name)
                entry = self._sentence(position, result)
                self._tell_warnings(entry)
                progress.finished(*self._outcome(entry))
        if faults:
            if self.folder.skipped.get(victim.name) != faults[victim.name]:
                tell(f"skipped {shown(victim.name)}: {shown(faults[victim.name])}")
            self.folder.skip(faults)
        self.folder.sessions.note_time(self._peak_memory())
        progress.searched(1)

    def _tell_warnings(self, entry: FoundSentence) -> None:
        """Tell those that no other sentence had."""
        for warning in entry.details["warnings"]:
            if warning["message"] not in self._said:
                self._said.add(warning["message"])
                tell(f"warning: {shown(warning['message'])}")

    def _label(self, victim: ListedVictim) -> int | None:
        if self.victims.labels != "known":
            return None
        labels = true_labels(victim)
        if labels is None:
            raise ValueError("its gradient file does not give the label")
        return int(labels[0])

    def _check_refusals(self) -> None:
        """Raise what the search refused of each victim, where it took none: then it is for the arguments."""
        reasons = {fault_of(error) for error in self._refusals}
        if not self.finished and len(reasons) == 1 and isinstance(self._refusals[0], ValueError | TypeError):
            raise self._refusals[0]

    def _found(self) -> Iterator[FoundSentence]:
        for position, victim in enumerate(self.victims.listed):
            if victim.name in self.finished and (result := self.folder.read(victim.name)):
                yield self._sentence(position, result)

    def _sentence(self, position: int, result: Result) -> FoundSentence:
        """The result beside what is true of it."""
        victim, details, tokens = self.victims.listed[position], result.details, result.inputs[0]
        true = None if self.victims.truth is None else self.victims.truth[position]
        label, faults = None, {}
        with guarded(victim.name, faults):
            label = true_labels(victim)
        return FoundSentence(
            name=victim.name,
            group=victim.name,
            method=RECOVERED,
            inputs=result.inputs,
            labels=result.labels,
            distance=details["distance"],
            evaluations=details["evaluations"],
            seconds=0.0,
            status=details["status"],
            true_labels=label,
            certificate=details["sentence"]["certificate"],
            details={
                "scored": details["sentence"]["scored"],
                "source": details.get("source", ""),
                "warnings": details.get("warnings", []),
            },
            text=None
            if self.tokenizer is None
            else self.tokenizer.decode(tokens.tolist(), skip_special_tokens=False),
            true_text=None if true is None else true.text,
            text_scores=None if true is None else true.score(tokens),
        )

    def _summarise(self, status: str) -> None:
        self.folder.sessions.note_time(self._peak_memory(), now=True)
        write_sentences_summary(
            self.folder,
            [victim.name for victim in self.victims.listed],
            list(self._found()),
            status=status,
            settings=self.given | {"device": str(self.device)},
            recipe=asdict(self.options.settled),
        )

    def _peak_memory(self) -> int:
        cuda = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.device) if cuda else highest_resident()


def _result(recovery: TextRecovery, gradient_sha256: str, options: TextOptions) -> Result:
    """Take the one victim of a recovery, and what identifies its search."""
    details = {
        "certificate": None,  # of a family of networks: those of sentences are other ones
        "distance": float(recovery.distance[0]),
        "evaluations": int(recovery.evaluations[0]),
        "gradient_sha256": gradient_sha256,
        "mode": recovery.mode,
        "recipe": asdict(recovery.recipe),
        "restarts": options.restarts,
        "seed": options.seed,
        "sentence": {
            "certificate": asdict(recovery.certificates[0]),
            "scored": int(recovery.scored[0]),
        },
        "source": recovery.source[0],
        "source_reason": recovery.source_reason[0],
        "status": "finished",
        "warnings": warnings_of(recovery.warnings, 0),
    }
    nothing = recovery.distance.new_empty(0).cpu()
    return Result(recovery.tokens[:1].cpu(), recovery.labels[:1].cpu(), nothing, details)
