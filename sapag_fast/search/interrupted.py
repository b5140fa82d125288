"""Ctrl-C during a search."""

from __future__ import annotations

from typing import Any

__all__ = ["Interrupted"]


class Interrupted(KeyboardInterrupt):
    """Raised when Ctrl-C ends a search; what was found until then is not lost.

    Attributes
    ----------
    recovery : Recovery or TextRecovery
        The best iterates so far. The status of a victim whose restarts had not all ended is ``interrupted``.
    """

    def __init__(self, recovery: Any) -> None:
        super().__init__("the search was interrupted; the exception's `recovery` holds what it had found")
        self.recovery = recovery
