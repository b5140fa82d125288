"""Why a victim is left out: whatever its file makes the program raise, in one line, and its alone."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

__all__ = ["fault_of", "guarded", "is_refusal"]

_LONGEST = 500  # characters of a message; a damaged file may put megabytes of itself into one


def is_refusal(error: Exception) -> bool:
    """Whether a check of the package refused something, rather than that something broke."""
    return type(error) is ValueError or type(error).__module__.partition(".")[0] == "sapag_fast"


def fault_of(error: Exception) -> str:
    """Give the message of a refusal, with the exception's type before whatever else was raised."""
    message = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:_LONGEST]
    if is_refusal(error) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def guarded(name: str, faults: MutableMapping[str, str]) -> Iterator[None]:
    """Run what is one victim's; whatever it raises becomes its entry in `faults`, and the others go on.

    Ctrl-C goes through. ``SAPAG_FAST_TRACEBACK=1`` shows where anything but a refusal came from, so that a
    mistake in the program does not hide behind the files.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get("SAPAG_FAST_TRACEBACK") == "1" and not is_refusal(error):
            traceback.print_exception(error)
        faults[name] = fault_of(error)
