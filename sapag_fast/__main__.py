"""``python -m sapag_fast``."""

from sapag_fast.command_line.main import main

if __name__ == "__main__":
    main(prog_name="sapag-fast")
