"""What ``sapag-fast audit`` does, given its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.groups import AuditOptions
from sapag_fast.audit.run import Audit
from sapag_fast.audit.truth import Truth
from sapag_fast.checks import check_separate
from sapag_fast.command_line.session import (
    built_model,
    check_pictures,
    chosen_device,
    loss_of,
    say_other_normalisation,
    search_options_of,
)
from sapag_fast.files.victims import list_victims
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say, tell

__all__ = ["run"]


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
    read = {"--gradients": [gradients], "--truth": truth, "--weights": [weights] if weights else []}
    check_separate({"--output": output}, read)
    where, search = chosen_device(device), search_options_of(options)
    check_pictures(search, truth=bool(truth))
    folder = AuditFolder(output, overwrite=overwrite)
    model = built_model(model_reference, weights, search.seed, where)
    victims = list_victims(gradients, model, options["input_shape"], options["batch_size"])
    say_other_normalisation(search, victims)
    known = Truth(truth, victims, begun=folder.begun and not overwrite) if truth else None
    if known is not None and known.order:
        tell(known.order)
    given = {
        "model": model_reference,
        "weights": weights,
        "gradients": gradients,
        "truth": truth,
        "input_shape": options["input_shape"],
        "batch_size": options["batch_size"],
        **options,
    }
    audit_options = AuditOptions(search, options["labels"], loss_of(options))
    audit = Audit(model, victims, known, folder, audit_options, given, where, Screen())
    try:
        skipped = audit.run()
    except KeyboardInterrupt:
        tell(
            f"{len(audit.finished)} of {len(victims)} victims are done; the same command goes on in {output}"
        )
        raise
    say(f"Results, summary.html, summary.json and summary.csv are in {output}.")
    if skipped:
        tell(f"{skipped} {'victim was' if skipped == 1 else 'victims were'} skipped; the summary says why")
    return not skipped
