"""The engine of `make fuzz`: what a case does to its process, what is kept, what goes on."""

import json
import math
import sys
from dataclasses import dataclass, field

import pytest

from benchmarks.reliability import engine
from benchmarks.reliability.part import generator
from benchmarks.reliability.sources import sources_digest

PLANTED = """
import os, sys, time
from collections import Counter
from benchmarks.reliability import worker
from benchmarks.reliability.part import Outcome

class Planted:
    def check(self, seed, number):
        if number == 2:
            os.kill(os.getpid(), 11)
        if number == 4:
            time.sleep(60)
        if number == 5:
            raise KeyError("not caught")
        print("noise")
        return Outcome(Counter(tried=1), ["wrong"] if number == 1 else [])

worker.main(Planted(), *map(int, sys.argv[2:]))
"""


@dataclass
class Planted:
    name: str = "planted"
    block: int = 7
    patience: float = 3.0
    environment: dict = field(default_factory=dict)
    sources: tuple[str, ...] = ("setup.py",)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    path = tmp_path / "planted.py"
    path.write_text(PLANTED)
    monkeypatch.setattr(engine, "WORKER", (sys.executable, str(path)))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    return Planted()


def test_a_case_that_kills_hangs_or_raises_is_a_fault_and_the_others_run(planted, tmp_path):
    lines = []
    record = engine.run_part(planted, 0, 7, tmp_path, workers=1, ends=math.inf, say=lines.append)
    found = {fault["case"]: fault["fault"] for fault in record.faults}
    assert set(found) == {1, 2, 4, 5}
    assert found[1] == "wrong"
    assert "status -11" in found[2]
    assert "no end" in found[4]
    assert "KeyError" in found[5]
    assert record.cases == 7
    assert record.counts == {"tried": 4}

    kept = json.loads((tmp_path / "planted.json").read_text())
    assert kept["blocks"] == [0]
    again = engine.run_part(planted, 0, 7, tmp_path, workers=1, ends=math.inf, say=lines.append)
    assert (again.cases, again.fault_count) == (7, 4)
    assert len(lines) == 1, "what is done is not run again"


def test_another_seed_or_source_starts_anew(planted, tmp_path):
    record = engine.Record.of(planted, 3, 7, tmp_path)
    record.add(0, engine.BlockResult(cases=7))
    record.write(tmp_path)
    assert engine.Record.of(planted, 3, 7, tmp_path).cases == 7
    assert engine.Record.of(planted, 4, 7, tmp_path).cases == 0
    planted.sources = ("setup.py", "tests/conftest.py")
    assert engine.Record.of(planted, 3, 7, tmp_path).cases == 0


def test_the_digest_is_of_names_and_contents_of_sources_alone(tmp_path):
    (tmp_path / "room" / "deeper").mkdir(parents=True)
    file, other = tmp_path / "room" / "a.py", tmp_path / "room" / "deeper" / "b.h"
    file.write_text("1")
    other.write_text("2")
    digest = sources_digest(["room"], tmp_path)
    (tmp_path / "room" / "notes.md").write_text("of no weight")
    (tmp_path / "elsewhere.py").write_text("nor this")
    assert sources_digest(["room", "room/a.py"], tmp_path) == digest
    other.write_text("3")
    assert sources_digest(["room"], tmp_path) != digest
    other.write_text("2")
    file.rename(file.with_name("c.py"))
    assert sources_digest(["room"], tmp_path) != digest
    with pytest.raises(FileNotFoundError, match="gone"):
        sources_digest(["gone"], tmp_path)


def test_a_case_follows_from_its_part_seed_and_number():
    drawn = [
        generator(*key).random() for key in (("a", 0, 1), ("a", 0, 1), ("a", 0, 2), ("a", 1, 1), ("b", 0, 1))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
