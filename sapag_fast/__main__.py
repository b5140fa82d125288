"""``sapag-fast`` and ``python -m sapag_fast``: the command line, where what it needs is installed."""

import os
import sys

from sapag_fast.runtime.extras import MissingPackageError, require
from sapag_fast.runtime.streams import tell, unfailing_streams

__all__ = ["main"]

_USER_ERROR = 2


def main() -> None:
    """Run the command line; a missing package is one message on stderr and status 2."""
    with unfailing_streams():
        try:
            require("cli", "commands", "click", "rich")
            from sapag_fast.command_line.main import main as command_line

            command_line(prog_name="sapag-fast")
        except MissingPackageError as error:
            if os.environ.get("SAPAG_FAST_TRACEBACK") == "1":
                raise
            tell(error)
            sys.exit(_USER_ERROR)


if __name__ == "__main__":
    main()
