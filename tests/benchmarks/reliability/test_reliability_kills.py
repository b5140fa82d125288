"""The suite's kills: that it sees what is lost, changed or left behind."""

import time

import pytest
import torch

from benchmarks.reliability.kills import kills
from benchmarks.reliability.kills.runs import start
from sapag_fast.files.tensors import write_tensors


def writes_slowly(folder, output):
    """Two files, the second after a while; goes on with what is there."""
    output.mkdir(exist_ok=True)
    for name in ("a", "b"):
        if not (output / f"{name}.safetensors").exists():
            write_tensors(output / f"{name}.safetensors", {"x": torch.zeros(3)})
            time.sleep(0.1)


def begins_anew(folder, output):
    output.mkdir(exist_ok=True)
    for file in output.iterdir():
        file.unlink()
        time.sleep(1)
    writes_slowly(folder, output)


def differs(folder, output):
    writes_slowly(folder, output)
    write_tensors(output / "a.safetensors", {"x": torch.rand(3)})


def leaves_files(folder, output):
    writes_slowly(folder, output)
    (output / ".a.part").touch()


def fails(folder, output):
    raise SystemExit(3)


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    done = tmp_path / "done"
    assert kills.ended(start(writes_slowly, tmp_path, done)) == 0
    monkeypatch.setattr(kills, "_undisturbed", lambda name: (tmp_path, kills.results(done), 1.0))


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (writes_slowly, None),
        (begins_anew, "a.safetensors was lost"),
        (differs, "a.safetensors has other bits"),
        (leaves_files, ".a.part is left"),
        (fails, "status 3 at the end"),
    ],
)
def test_what_a_kill_must_not_do_is_noticed(run, fault, tmp_path, monkeypatch):
    moments = [0.5, 0.5] if run is begins_anew else [0.05]
    monkeypatch.setattr(kills, "RUNS", {"own": run})
    faults = kills._killed("own", tmp_path / "out", "SIGKILL", moments)
    assert any(fault in found for found in faults) if fault else faults == []
