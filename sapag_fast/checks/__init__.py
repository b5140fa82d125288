"""Checks of arguments; each error reads: the argument, what it must be, what was found."""

from sapag_fast.checks.paths import check_separate
from sapag_fast.checks.tensors import check_device, check_labels, check_model, check_start, check_target
from sapag_fast.checks.values import (
    MOST_WEIGHT,
    check_bounds,
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_fraction,
    check_integers,
    check_path,
    check_positive,
    check_seed,
    check_sequence,
    check_shape,
    check_text,
    check_weight,
    shown,
)

__all__ = [
    "MOST_WEIGHT",
    "check_bounds",
    "check_callable",
    "check_choice",
    "check_count",
    "check_device",
    "check_flag",
    "check_fraction",
    "check_integers",
    "check_labels",
    "check_model",
    "check_path",
    "check_positive",
    "check_seed",
    "check_separate",
    "check_sequence",
    "check_shape",
    "check_start",
    "check_target",
    "check_text",
    "check_weight",
    "shown",
]
