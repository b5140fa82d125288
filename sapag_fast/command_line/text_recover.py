"""What ``sapag-fast recover --text`` does, given its options."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sapag_fast.checks import check_separate
from sapag_fast.command_line.session import built_model, chosen_device, keep_results, say_cautions
from sapag_fast.command_line.text import taken_from, text_options_of, tokenizer_for
from sapag_fast.command_line.updates import SharedFiles
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.gradient_file import GradientMetadata
from sapag_fast.reports.report import Report
from sapag_fast.reports.sentences import (
    SENTENCE_SUCCESS_MEANS,
    FoundSentence,
    found_sentence,
    sentences_table,
)
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say, tell
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.text.options import TextOptions
from sapag_fast.text.recovery import TextRecovery
from sapag_fast.text.true_sentences import TrueSentence, read_true_sentences
from sapag_fast.victim.cautions import Caution, silenced
from sapag_fast.victim.searchable import searchable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["run"]


@dataclass(frozen=True)
class TextVictim:
    """One gradient to invert.

    Attributes
    ----------
    name : str
        Of its file.
    gradient : list of Tensor or None
        In the order of the model's trained parameters, None where withheld.
    length : int or None
        Tokens; None: from the gradient.
    label : int or None
        As given; None: from the gradient.
    true_label : int or None
        Where the file says it.
    truth : TrueSentence or None
        Where it is given.
    cautions : tuple of Caution
        What is to be known of the gradient itself.
    """

    name: str
    gradient: list[Tensor | None]
    length: int | None
    label: int | None
    true_label: int | None
    truth: TrueSentence | None
    cautions: tuple[Caution, ...] = ()


def run(
    *,
    model_reference: str,
    shared: SharedFiles,
    truth: tuple[Path, ...],
    device: str | None,
    output: Path,
    overwrite: bool,
    **options: Any,
) -> None:
    """Recover each victim's sentence in turn; everything is read and checked before anything is written."""
    tokens = [options["tokenizer"]] if options["tokenizer"] else []
    check_separate({"--output": output}, {**shared.inputs(), "--truth": truth, "--tokenizer": tokens})
    console, where = Screen(), chosen_device(device)
    given = {"model": model_reference, **shared.settings(), "truth": truth, **options}
    report = Report(output, "recover --text", given, where, overwrite=overwrite)
    search = text_options_of(options)
    model = built_model(model_reference, shared.weights, search.seed, where)
    shared.load_before(model)
    said: set[Caution] = set()
    say_cautions("", searchable(model).cautions, said)
    tokenizer = tokenizer_for(options["tokenizer"], model, search)
    true = read_true_sentences(truth, tokenizer) if truth else None
    victims = _victims(model, shared, options, true, where)

    def work() -> None:
        for victim in victims:
            recovery = _add(report, model, victim, search, tokenizer)
            say_cautions(victim.name, recovery.warnings, said)

    def show() -> None:
        console.print(sentences_table(report.finished))
        for entry in report.finished:
            if isinstance(entry, FoundSentence):
                say(f"{entry.name}: {entry.words}")

    means = {"success_means": SENTENCE_SUCCESS_MEANS} if truth else {}
    keep_results(report, work, show, lambda: means)
    say(f"Results are in {output}.")


def _victims(
    model: nn.Module,
    shared: SharedFiles,
    options: dict[str, Any],
    truth: Sequence[TrueSentence] | None,
    device: torch.device,
) -> list[TextVictim]:
    paths = shared.victims
    count = len(paths)
    if truth is not None and len(truth) != count:
        raise ValueError(f"--truth: expected {count} sentences, one a line, found {len(truth)}")
    lengths = taken_from(options["length"], count, "--length")
    labels: list[int | None] = [None] * count
    if options["labels"] != "infer":
        labels = taken_from(options["labels"], count, "--labels")
    names = [path.stem for path in paths]
    if len(set(names)) < count:
        names = [f"{position:02d}-{name}" for position, name in enumerate(names)]
    victims = []
    for position, (name, path) in enumerate(zip(names, paths, strict=True)):
        gradient, entries, cautions = shared.read(model, path)
        told = GradientMetadata(weights=entries.get("weights_sha256"))
        if entries.get("labels"):
            told = GradientMetadata.parsed(
                {key: entries[key] for key in ("labels", "weights_sha256") if key in entries}
            )
        if told.weights and told.weights != model_fingerprint(model):
            tell(f"warning: {path} was captured with other weights than the model has now")
        true, length = None if truth is None else truth[position], lengths[position]
        victims.append(
            TextVictim(
                name,
                [None if g is None else g.to(device) for g in gradient],
                length,
                labels[position],
                told.labels[0] if told.labels and len(told.labels) == 1 else None,
                true if true is None or length is None else true.cut(length),
                cautions,
            )
        )
    return victims


def _add(
    report: Report, model: nn.Module, victim: TextVictim, search: TextOptions, tokenizer: Tokenizer | None
) -> TextRecovery:
    """Search one victim, and add what was found to the report, also after Ctrl-C; with all its cautions."""
    began = time.perf_counter()

    def finished(recovery: TextRecovery, *, interrupted: bool = False) -> FoundSentence:
        return found_sentence(
            recovery,
            victim.name,
            seconds=time.perf_counter() - began,
            interrupted=interrupted,
            tokenizer=tokenizer,
            truth=victim.truth,
            true_label=victim.true_label,
        )

    def told(recovery: TextRecovery) -> TextRecovery:
        return replace(recovery, warnings=(*victim.cautions, *recovery.warnings))

    try:
        labels = "infer" if victim.label is None else [victim.label]
        with silenced():
            recovery = search.recover(model, victim.gradient, victim.length, labels)
    except Interrupted as stop:
        report.add(finished(told(stop.recovery), interrupted=True))
        raise
    recovery = told(recovery)
    report.add(finished(recovery))
    return recovery
