"""What ``sapag-fast audit --text`` does, given its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.sentences import SentenceAudit, SentenceVictims
from sapag_fast.checks import check_separate
from sapag_fast.command_line.session import built_model, chosen_device
from sapag_fast.command_line.text import taken_from, text_options_of, tokenizer_for
from sapag_fast.files.victims import list_victims
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say, tell
from sapag_fast.text.true_sentences import read_true_sentences
from sapag_fast.victim.cautions import silenced
from sapag_fast.victim.searchable import searchable

__all__ = ["run"]

_ONE_NUMBER = (1,)
"""A shape of an input for the list of victims: gradient files of sentences say none."""


def run(
    *,
    model_reference: str,
    weights: Path | None,
    gradients: Path,
    truth: tuple[Path, ...],
    device: str | None,
    output: Path,
    overwrite: bool,
    **options: Any,
) -> bool:
    """Audit, and tell whether no victim was skipped."""
    paths = {"--weights": weights, "--tokenizer": options["tokenizer"]}
    read = {"--gradients": [gradients], "--truth": truth, **{name: [p] for name, p in paths.items() if p}}
    check_separate({"--output": output}, read)
    where, search = chosen_device(device), text_options_of(options)
    folder = AuditFolder(output, overwrite=overwrite)
    model = built_model(model_reference, weights, search.seed, where)
    searchable(model)  # refused now
    tokenizer = tokenizer_for(options["tokenizer"], model, search)
    listed = list_victims(gradients, model, _ONE_NUMBER, 1)
    lengths = taken_from(options["length"], len(listed), "--length")
    true = read_true_sentences(truth, tokenizer) if truth else None
    if true is not None:
        if len(true) != len(listed):
            raise ValueError(f"--truth: expected {len(listed)} sentences, one a line, found {len(true)}")
        true = [s if n is None else s.cut(n) for s, n in zip(true, lengths, strict=True)]
        last = f" ... line {len(true)} for {listed[-1].name}" if len(true) > 1 else ""
        tell(f"--truth: sentences are taken in order: line 1 for {listed[0].name}{last}")
    victims = SentenceVictims(listed, lengths, options["labels"], true)
    given = {"model": model_reference, "weights": weights, "gradients": gradients, "truth": truth, **options}
    with silenced():  # the audit says it
        skipped = SentenceAudit(model, victims, folder, search, given, tokenizer).run(Screen())
    say(f"Results, summary.html, summary.json and summary.csv are in {output}.")
    if skipped:
        tell(f"{skipped} {'victim was' if skipped == 1 else 'victims were'} skipped; the summary says why")
    return not skipped
