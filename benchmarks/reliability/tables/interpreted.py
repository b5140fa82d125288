"""The tables of `Tables`, small ones, on the Triton kernels in Triton's interpreter."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from benchmarks.reliability.part import Outcome
from benchmarks.reliability.tables.tables import Tables

FAMILY = Path(__file__).resolve().parents[3] / "tests" / "kernels" / "triton_family"


@cache
def _quick_interpreter() -> None:
    """As the tests of the kernels have it: tiles of a few elements, and nothing patched anew at each call."""
    sys.path.insert(0, str(FAMILY))
    import triton_support  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    triton_support.small_limits().__enter__()


class Interpreted(Tables):
    """Small random tables, three kinds each, on the Triton kernels in Triton's interpreter, on the CPU."""

    title = "Tables on the Triton kernels, interpreted"

    def __init__(self) -> None:
        environment = {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
        super().__init__("triton", ("triton",), 1500, block=150, small=True, environment=environment)

    def check(self, seed: int, number: int) -> Outcome:
        _quick_interpreter()
        return super().check(seed, number)
