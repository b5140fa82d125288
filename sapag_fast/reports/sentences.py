"""One victim's sentence as results report it, beside the true one where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sapag_fast.reports.finished import RECOVERED, Finished, warnings_of
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.screen import plain_text
from sapag_fast.text.metrics import TextScores
from sapag_fast.text.recovery import EXACT, TextRecovery
from sapag_fast.text.true_sentences import TrueSentence

with needs("cli", "tables of recoveries"):
    from rich import box
    from rich.table import Table

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["SENTENCE_SUCCESS_MEANS", "FoundSentence", "found_sentence", "sentences_table"]

SENTENCE_SUCCESS_MEANS = "every token is right and in its place"


@dataclass(frozen=True)
class FoundSentence(Finished):
    """One victim's sentence; its `inputs` are the tokens ``[1, T]``, int64.

    Attributes
    ----------
    text : str or None
        What the tokenizer makes of the tokens.
    true_text : str or None
        The true sentence.
    text_scores : TextScores or None
        Against the true sentence.
    """

    text: str | None = None
    true_text: str | None = None
    text_scores: TextScores | None = None

    @property
    def words(self) -> str:
        """The text, or the numbers of the tokens."""
        return " ".join(map(str, self.inputs[0].tolist())) if self.text is None else self.text

    @property
    def success(self) -> bool:
        """Whether every token is right; False without the truth."""
        return self.text_scores is not None and self.text_scores.success

    def as_json(self, stem: str) -> dict[str, Any]:
        """Give the victim's entry in ``results.json``."""
        entry = super().as_json(stem)
        del entry["images"]
        entry["label"] = None if self.labels is None else int(self.labels[0])
        entry["tokens"] = self.inputs[0].tolist()
        if self.text is not None:
            entry["text"] = self.text
        if self.text_scores is not None:
            entry |= {"recovered": self.success, "truth": self.true_text, **asdict(self.text_scores)}
            if self.true_labels is not None:
                entry["true_label"] = int(self.true_labels[0])
        return entry


def found_sentence(
    recovery: TextRecovery,
    name: str,
    *,
    seconds: float = 0.0,
    interrupted: bool = False,
    tokenizer: Tokenizer | None = None,
    truth: TrueSentence | None = None,
    true_label: int | None = None,
) -> FoundSentence:
    """Take the one victim of a recovery, and score it where the truth is known.

    Parameters
    ----------
    recovery : TextRecovery
        Of one victim.
    name : str
        What the victim is called.
    seconds : float
        Wall time that its search took.
    interrupted : bool
        Whether Ctrl-C ended it.
    tokenizer : tokenizers.Tokenizer, optional
        Makes text of the tokens.
    truth : TrueSentence, optional
        The true sentence.
    true_label : int, optional
        The true label.
    """
    tokens = recovery.tokens[:1].cpu()
    there = bool((tokens >= 0).all())
    return FoundSentence(
        name=name,
        group=name,
        method=RECOVERED,
        inputs=tokens,
        labels=recovery.labels[:1].cpu(),
        distance=float(recovery.distance[0]),
        evaluations=int(recovery.evaluations[0]),
        seconds=seconds,
        status="interrupted" if interrupted else "finished",
        true_labels=None if true_label is None else recovery.labels.new_tensor([true_label]).cpu(),
        certificate=asdict(recovery.certificates[0]),
        details={
            "source": recovery.source[0],
            "source_reason": recovery.source_reason[0],
            "scored": int(recovery.scored[0]),
            "mode": recovery.mode,
            "mode_reason": recovery.mode_reason,
            "recipe": asdict(recovery.recipe),
            "warnings": warnings_of(recovery.warnings, 0),
        },
        text=tokenizer.decode(tokens[0].tolist(), skip_special_tokens=False) if tokenizer and there else None,
        true_text=None if truth is None else truth.text,
        text_scores=truth.score(tokens[0]) if truth is not None and there else None,
    )


def sentences_table(finished: Sequence[Finished]) -> Table:
    """Make a line for each sentence, with its right positions where the truth is known, but not its words."""
    found = [entry for entry in finished if isinstance(entry, FoundSentence)]
    known = any(entry.text_scores for entry in found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("recovery", overflow="fold")
    for heading in ("status", "certificate", "label"):
        table.add_column(heading, no_wrap=True)
    for heading in ("distance", "evals", "scored", "s", *(("right",) if known else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in found:
        right = entry.text_scores and f"{100 * entry.text_scores.positions:.0f} %"
        table.add_row(
            plain_text(entry.name),
            entry.status,
            (entry.certificate or {}).get("status", ""),
            "" if entry.labels is None else str(int(entry.labels[0])),
            f"{entry.distance:.3g}",
            EXACT if entry.details.get("source") == EXACT else str(entry.evaluations),
            str(entry.details["scored"]),
            f"{entry.seconds:.1f}",
            *((right or "",) if known else ()),
        )
    return table
