"""The claims' engine: cells run once, results are whole or not there."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.claims import engine
from benchmarks.claims.cell import Cell

ROOT = Path(__file__).resolve().parents[3]

MODULE = """
import time
from benchmarks.claims.cell import Cell

def made(name):
    def run():
        with open({log!r}, "a") as log:
            log.write(name + "\\n")
        time.sleep({seconds})
        return {{"victims": [{{"success": True, "evaluations": 3, "exact": 0.5}}]}}
    return Cell(name, "small", {{"name": name}}, run)

def cells(data, quick):
    return [made(f"cell{{k}}") for k in range(4)]
"""

DRIVER = """
from pathlib import Path
from benchmarks.claims.engine import all_cells, run_cells
if __name__ == "__main__":
    modules, data = ["small_cells"], Path("nowhere")
    run_cells(all_cells(modules, data, False), Path("results"), modules=modules, data=data, workers={workers})
"""


def small_cell(runs: list[str], name: str = "one", **settings: object) -> Cell:
    def run() -> dict[str, object]:
        runs.append(name)
        return {"victims": [{"success": True, "evaluations": 7, "psnr": float("inf"), "share": 1 / 3}]}

    return Cell(name, "small", {"name": name, "nested": {"pair": (1, 2)}} | settings, run)


def test_a_finished_cell_is_not_run_again(tmp_path):
    runs = []
    cells = [small_cell(runs), small_cell(runs, "two")]
    assert engine.run_cells(cells, tmp_path, say=lambda line: None) == []
    assert engine.run_cells(cells, tmp_path, say=lambda line: None) == []
    assert runs == ["one", "two"]
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["settings"] == {"name": "one", "nested": {"pair": [1, 2]}}
    assert found["evaluations"] == 7
    assert found["victims"] == [{"success": True, "evaluations": 7, "psnr": None, "share": 0.33333}]
    assert {"commit", "device", "torch", "date", "seconds", "cpu seconds", "threads"} <= set(found)


def test_a_changed_setting_runs_the_cell_again(tmp_path):
    runs = []
    engine.run_cells([small_cell(runs, steps=3)], tmp_path, say=lambda line: None)
    engine.run_cells([small_cell(runs, steps=4)], tmp_path, say=lambda line: None)
    assert runs == ["one", "one"]
    assert json.loads((tmp_path / "one.json").read_text())["settings"]["steps"] == 4


def test_a_damaged_result_is_made_again(tmp_path):
    runs = []
    (tmp_path / "one.json").write_text('{"settings": ')
    engine.run_cells([small_cell(runs)], tmp_path, say=lambda line: None)
    assert runs == ["one"]
    assert engine.is_done(small_cell(runs), tmp_path)


def test_a_failing_cell_leaves_the_others_and_no_file(tmp_path):
    def fail() -> dict[str, object]:
        raise ValueError("no such data")

    runs, lines = [], []
    cells = [Cell("bad", "small", {}, fail), small_cell(runs)]
    assert engine.run_cells(cells, tmp_path, say=lines.append) == ["bad"]
    assert runs == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert any("bad: failed: ValueError: no such data" in line for line in lines)


def test_an_interrupted_cell_is_not_kept(tmp_path):
    def run() -> dict[str, object]:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return {"victims": []}  # as an attack that hands out what it has

    runs = []
    cells = [small_cell(runs), Cell("long", "small", {}, run), small_cell(runs, "two")]
    with pytest.raises(KeyboardInterrupt):
        engine.run_cells(cells, tmp_path, say=lambda line: None)
    assert runs == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_cells_of_one_name_and_unsafe_names_are_refused(monkeypatch):
    module = type(sys)("twice")
    module.cells = lambda data, quick: [small_cell([]), small_cell([])]
    monkeypatch.setitem(sys.modules, "twice", module)
    with pytest.raises(ValueError, match="one stands for more than one cell"):
        engine.all_cells(["twice"], Path(), False)
    with pytest.raises(ValueError, match="name: expected letters"):
        Cell("../up", "small", {}, dict)


def prepared(folder: Path, seconds: float) -> dict[str, str]:
    """A module of four cells that log that they ran, and the environment in which it is found."""
    (folder / "small_cells.py").write_text(MODULE.format(log=str(folder / "log"), seconds=seconds))
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on(tmp_path):
    environment = prepared(tmp_path, 0.5)
    command = [sys.executable, "-c", DRIVER.format(workers=1)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    first = tmp_path / "results" / "cell0.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, ran = first.stat().st_mtime_ns, (tmp_path / "log").read_text().split()
    assert 1 <= len(ran) < 4
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert first.stat().st_mtime_ns == before
    assert {path.stem for path in first.parent.glob("*.json")} == {f"cell{k}" for k in range(4)}
    after = (tmp_path / "log").read_text().split()[len(ran) :]
    assert "cell0" not in after
    assert set(ran + after) == {f"cell{k}" for k in range(4)}


def test_two_workers_run_every_cell_once(tmp_path):
    environment = prepared(tmp_path, 0)
    script = tmp_path / "drive.py"
    script.write_text(DRIVER.format(workers=2))
    subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, check=True)
    assert sorted((tmp_path / "log").read_text().split()) == [f"cell{k}" for k in range(4)]
    assert len(list((tmp_path / "results").glob("*.json"))) == 4
