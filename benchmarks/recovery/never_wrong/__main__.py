"""Is anything wrong that is not announced? Cases made up to mislead, and what the tool says of each.

Every run is *right* (what is claimed is true), *announced* (refused, warned of, or not called certain, with a
reason) or *wrong without a word*. Certificates are claims about pictures and sentences; labels are claimed
where they are called ``given``, ``inferred`` or ``joint``.

    python -m benchmarks.recovery.never_wrong [--data DATA] [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.recovery.never_wrong.case import SILENT, Victims, verdicts
from benchmarks.recovery.never_wrong.cases import CASES, chosen
from benchmarks.report.never_wrong_table import case_table
from benchmarks.shared.interleaved import machine

FILE = RESULTS / "never_wrong.json"


def main() -> int:
    """Run the cases; 1 where anything is wrong without a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with mnist/; the bundled digits without it")
    parser.add_argument(
        "--only", nargs="*", default=[], help="parts of names or kinds; others stay as they are"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases, victims = chosen(options.only), Victims(options.data)
    if not cases:
        parser.error(f"no case of {len(CASES)} has one of {options.only} in its name or kind")
    lines = []
    for case in cases:
        began = time.process_time()
        line = case.line(victims)
        lines.append(line | {"seconds": round(time.process_time() - began, 2)})
        print(json.dumps(lines[-1]), flush=True)
        _keep(lines[-1], "bundled" if options.data is None else "MNIST")
    print(f"\n{case_table(lines)}\n\n{len(cases)} cases, {verdicts(lines)}")
    return int(any(line[SILENT] for line in lines))


def _keep(line: dict[str, Any], digits: str) -> None:
    """Put one case's line into the result, in the place of the one that is there."""
    old = json.loads(FILE.read_text(encoding="utf-8"))["cases"] if FILE.exists() else []
    kept = {(entry["kind"], entry["case"]): entry for entry in old}
    own = machine()
    kept[line["kind"], line["case"]] = line | {"digits": digits, "commit": own["commit"]}
    ordered = [kept[case.kind, case.name] for case in CASES if (case.kind, case.name) in kept]
    content = {"benchmark": "never_wrong", **own, "cases": ordered}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
