"""The console on which commands show tables and progress."""

from __future__ import annotations

import sys
from typing import Any

from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.streams import shown, unfailing

with needs("cli", "tables and progress bars"):
    from rich.console import Console
    from rich.text import Text

__all__ = ["Screen", "plain_text"]


class Screen(Console):
    """A console that shows strings as they are, never as markup, and whose failures end no work.

    Parameters
    ----------
    stderr : bool
        Show on standard error.
    width : int, optional
        Columns; None: the terminal's.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream = sys.stderr if stderr else sys.stdout
        file = None if stream is None else unfailing(stream)
        super().__init__(file=file, width=width, markup=False, highlight=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Take a string for a cell or a line: control characters as escapes, no markup."""
        return super().render_str(shown(text), **{**options, "markup": False, "emoji": False})


def plain_text(text: object) -> Text:
    """A cell that any console shows as it is, for names that somebody else has chosen."""
    return Text(shown(text))
