"""All parts, by name, in the order in which they run."""

from __future__ import annotations

from benchmarks.reliability.arguments.arguments import Arguments
from benchmarks.reliability.files.files import Files
from benchmarks.reliability.kills.kills import Kills
from benchmarks.reliability.part import Part
from benchmarks.reliability.tables.emulated import Emulated
from benchmarks.reliability.tables.interpreted import Interpreted
from benchmarks.reliability.tables.tables import Tables

PARTS: dict[str, Part] = {
    part.name: part for part in (Tables(), Interpreted(), Emulated(), Files(), Arguments(), Kills())
}
