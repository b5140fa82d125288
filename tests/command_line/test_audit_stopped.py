"""An audit that is stopped: by Ctrl-C, and by kill -9 at moments that a seed has drawn."""

import json
import random
import signal
from pathlib import Path

import pytest
from command_calls import files_of, in_child, names_in, run

from sapag_fast.search.batch import Batch

NETS = Path(__file__).with_name("stopping_nets.py")
# Waves of three victims, two searches at once.
SETTINGS = ("--steps", 60, "--restarts", 2, "--at-once", 2, "--max-memory", "170KB", "--device", "cpu")
DRAWN = random.Random(11)
KILLS = [
    [f"step-after {DRAWN.randint(2, 40)} 9", f"step-after {DRAWN.randint(41, 250)} 9", "result-before 1 9"],
    ["result-after 2 9", "checkpoint-before 3 9", f"checkpoint-after {DRAWN.randint(1, 6)} 9"],
    [
        f"checkpoint-before {DRAWN.randint(7, 12)} 9",
        f"step-after {DRAWN.randint(41, 120)} 9",
        "result-after 1 9",
    ],
]


def audit(many, out, model="make"):
    weights = ("--weights", many / "w.safetensors")
    gradients = ("--gradients", many / "stacked.safetensors")
    return ["audit", "--model", f"{NETS}:{model}", *weights, *gradients, *SETTINGS, "--output", out]


@pytest.fixture(scope="module")
def uninterrupted(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "o"
    done = run(*audit(many, out))
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "audit.json").read_text())
    assert [len(wave) for wave in manifest["waves"].values()] == [3, 3]
    return files_of(out / "results")


@pytest.mark.parametrize("kills", KILLS, ids=[" then ".join(kills) for kills in KILLS])
def test_killed_and_resumed(many, tmp_path, uninterrupted, kills):
    out = tmp_path / "o"
    stamps = {}
    for kill in kills:
        status = in_child(audit(many, out, "eager"), {"SIGNAL_AT": kill})
        assert status == -signal.SIGKILL, kill
        for path in (out / "results").glob("[!.]*"):
            assert stamps.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
            assert path.read_bytes() == uninterrupted[path.name]
    assert in_child(audit(many, out, "eager"), {}) == 0
    assert files_of(out / "results") == uninterrupted
    assert all((out / "results" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert json.loads((out / "summary.json").read_text())["finished"] == 6
    assert names_in(out) == names_in_of(uninterrupted)


def names_in_of(results):
    others = [".audit.lock", "audit.json", "results", "sessions.json", "summary.csv", "summary.html"]
    return sorted([*others, "summary.json", *(f"results/{name}" for name in results)])


def test_kill_before_anything_is_written(many, tmp_path, uninterrupted):
    """Not even a half-made folder stands in the way."""
    out = tmp_path / "o"
    out.mkdir()
    (out / ".audit.lock").touch()
    (out / ".audit.json.abcdefgh.part").touch()
    assert run(*audit(many, out)).exit_code == 0
    assert files_of(out / "results") == uninterrupted


@pytest.mark.parametrize("moment", [DRAWN.randint(10, 60), DRAWN.randint(200, 300)])
def test_interrupted_and_resumed(many, tmp_path, uninterrupted, moment, monkeypatch):
    out = tmp_path / "o"
    monkeypatch.setattr(Batch, "step", Batch.step)  # the model file wraps it
    monkeypatch.setenv("SIGNAL_AT", f"step-after {moment} {int(signal.SIGINT)}")
    stopped = run(*audit(many, out))
    assert stopped.exit_code == 130, stopped.output
    assert "Traceback" not in stopped.output
    assert (out / "checkpoint.safetensors").exists()
    content = json.loads((out / "summary.json").read_text())
    assert content["status"] == "interrupted"
    assert content["finished"] + content["waiting"] == 6
    assert content["waiting"] > 0
    assert (out / "summary.html").exists()
    monkeypatch.delenv("SIGNAL_AT")
    resumed = run(*audit(many, out))
    assert resumed.exit_code == 0, resumed.output
    assert files_of(out / "results") == uninterrupted
    content = json.loads((out / "summary.json").read_text())
    assert (content["status"], content["sessions"]) == ("finished", 2)
