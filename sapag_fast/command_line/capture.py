"""What ``sapag-fast capture`` does, given its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sapag_fast.checks import check_separate
from sapag_fast.clients.capture import CaptureOptions, capture
from sapag_fast.command_line.session import built_model, check_classes, chosen_device, loss_of
from sapag_fast.runtime.streams import say

__all__ = ["run"]

_OF_LOSSES = ("loss", "label_smoothing", "class_weights", "pos_weight")


def run(*, model_reference: str, weights: Path | None, seed: int, device: str | None, **options: Any) -> None:
    """Write the gradients that clients of the model would share."""
    check_separate(
        {"--gradient": options["gradient"], "--save-weights": options["save_weights"]},
        {"--images": options["images"], "--weights": [weights] if weights else []},
    )
    loss, where = loss_of(options), chosen_device(device)
    check_classes(loss, options["labels"])
    chosen = {name: value for name, value in options.items() if name not in _OF_LOSSES}
    model = built_model(model_reference, weights, seed, where)
    say(capture(model, where, CaptureOptions(seed=seed, **chosen, loss=loss)))
