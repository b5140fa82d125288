"""One process of a run: takes cases one after the other and tells what each showed, a JSON line a case.

python -m benchmarks.reliability.worker PART SEED FIRST COUNT

Nothing but these lines goes to its standard output, whatever the cases print. It may die of a case, or hang
in it: `engine` sees that by the lines that do not come.
"""

from __future__ import annotations

import json
import os
import sys

from benchmarks.reliability.part import Part


def main(part: Part, seed: int, first: int, count: int) -> None:
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=lines, flush=True)
    for number in range(first, first + count):
        try:
            outcome = part.check(seed, number)
            line = {"case": number, "counts": dict(outcome.counts), "faults": outcome.faults}
        except Exception as error:  # of the suite itself, or of what it takes for granted
            line = {"case": number, "counts": {}, "faults": [f"{type(error).__name__}: {error}"]}
        print(json.dumps(line), file=lines, flush=True)


if __name__ == "__main__":
    from benchmarks.reliability.parts import PARTS

    main(PARTS[sys.argv[1]], *map(int, sys.argv[2:5]))
