"""python -m benchmarks.claims --data FOLDER: run the claims' cells, then write their tables.

Cells whose result is there with the same settings are not run again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.claims import tables
from benchmarks.claims.engine import all_cells, is_done, run_cells, select

GROUPS = ("images", "phases", "defences", "batches", "relu", "deep", "curves", "text")
"""Modules of this package with cells, in the order in which they run."""


def modules() -> list[str]:
    """Full names of the groups' modules."""
    names = [f"{__package__}.{group}" for group in GROUPS]
    return [name for name in names if find_spec(name) is not None]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist, cifar10 and cola")
    parser.add_argument("--quick", action="store_true", help="few cells with 8 victims: minutes, not hours")
    parser.add_argument("--only", help="a group, a cell, or a shell pattern of cells' names")
    parser.add_argument("--list", action="store_true", help="name the cells and whether they are done")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--workers", type=int, default=1, help="cells at once, each in a process of its own")
    options = parser.parse_args(arguments)
    folder = tables.QUICK_RESULTS if options.quick else tables.RESULTS
    data = options.data.resolve()
    known = all_cells(modules(), data, options.quick)
    cells = select(known, options.only)
    if not cells:
        parser.error(f"--only {options.only}: no cell has such a name")
    if options.list:
        for cell in cells:
            print(cell.group, cell.name, "done" if is_done(cell, folder) else "waiting")
        return 0
    try:
        failed = run_cells(
            cells,
            folder,
            threads=options.threads,
            workers=options.workers,
            modules=modules(),
            data=data,
            quick=options.quick,
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(f"wrote {tables.write(folder, tables.report_path(folder))}")
    current = {cell.name for cell in known if is_done(cell, folder)}
    if others := sorted({path.stem for path in folder.glob("*.json")} - current):
        few = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        print(f"in the tables, but of other settings or of no cell: {len(others)} ({few})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
