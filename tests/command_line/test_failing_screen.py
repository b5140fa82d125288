"""A screen that nobody reads or that is full: results and exit status are those of a run that is seen."""

import json
import shutil
import sys

import pytest
from command_calls import NETS, QUICK, names_in, python, results, victim

from sapag_fast.__main__ import main


@pytest.fixture
def full(monkeypatch):
    """A command's exit status, where standard output is a full device."""

    def status_of(*arguments):
        monkeypatch.setattr(sys, "argv", ["sapag-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0

    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield status_of


def test_recover(made, tmp_path, full):
    both = (*victim(made), "--gradient", made / "g1.safetensors", *QUICK)
    assert full(*both, "--output", tmp_path / "o") == 0
    content = results(tmp_path / "o")
    assert content["status"] == "finished"
    assert [recovery["name"] for recovery in content["recoveries"]] == ["g0", "g1"]


def test_audit(many, tmp_path, full):
    shutil.copytree(many / "folder", tmp_path / "g")
    (tmp_path / "g" / "damaged.safetensors").write_bytes(b"x")
    model = ("--model", f"{NETS}:make", "--weights", many / "w.safetensors")
    out = tmp_path / "o"
    assert full("audit", *model, "--gradients", tmp_path / "g", *QUICK, "--output", out) == 3
    assert len(names_in(out / "results")) == 6
    content = json.loads((out / "summary.json").read_text())
    assert (content["status"], content["finished"], content["skipped_count"]) == ("finished", 6, 1)
    assert (out / "summary.html").stat().st_size > 1000


def test_what_else_writes_files(made, tmp_path, full):
    assert full("images", "digits", "--count", 2, "--size", 8, "--output", tmp_path / "i") == 0
    assert len(names_in(tmp_path / "i")) == 2
    model = ("--model", f"{NETS}:make", "--input-shape", "1x8x8")
    gradient = tmp_path / "g.safetensors"
    assert full("capture", *model, "--images", made / "0.png", "--gradient", gradient) == 0
    assert gradient.stat().st_size > 1000
    timing = ("--recoveries", 1, "--evaluations", 2, "--seconds", 0.01)
    assert full("profile", *model, *timing, "--output", tmp_path / "p") == 0
    assert names_in(tmp_path / "p") == ["profile.json", "profile.png"]


def test_what_only_shows(full):
    assert full("kernels") == 0
    assert full("--help") == 0
    assert full("images", "cats", "--output", "o") == 2


def test_a_reader_that_has_gone(made, tmp_path):
    """A process of its own: nothing is told at its end either."""
    process = python(*victim(made), *QUICK, "--output", tmp_path / "o")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0
    assert results(tmp_path / "o")["status"] == "finished"
