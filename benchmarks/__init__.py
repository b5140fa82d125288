"""Benchmarks of sapag_fast, by room of the package; README.md shows what they found, results/ keeps it."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results"
