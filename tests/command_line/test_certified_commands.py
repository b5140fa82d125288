"""Certificates in what the commands write, and the switch that has all restarts run."""

import csv
import json

import pytest
from command_calls import NETS, results, run, victim
from safetensors import safe_open

from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.certificate import Family

QUICK = ("--steps", 120, "--restarts", 2, "--device", "cpu")


@pytest.fixture
def measured(monkeypatch):
    family = Family(
        name="small",
        piecewise_linear=False,
        distance="sapag",
        bandwidth=1.0,
        channels=1,
        sides=(8, 8),
        batch_sizes=(1, 1),
        layers=(1, 9),
        operators=("addmm", "convolution", "sigmoid"),
        threshold=1e-5,
        searches=200,
        below=150,
        hits=149,
        precision=149 / 150,
        interval=(0.963, 0.999),
        measured_on="a test",
    )
    monkeypatch.setattr(certifying, "families", lambda: (family,))


def test_recover_writes_the_certificate(made, tmp_path, measured):
    quick = (*victim(made), *QUICK, "--patience", 0)
    assert run(*quick, "--output", tmp_path / "o").exit_code == 0
    (found,) = results(tmp_path / "o")["recoveries"]
    certificate = found["certificate"]
    assert certificate["status"] == "certified"
    assert certificate["family"] == "small"
    assert certificate["interval"] == [0.963, 0.999]
    assert certificate["measured_on"] == "a test"
    assert found["winner"] in (0, 1)
    assert 120 < found["evaluations"] < 240
    done = run(*quick, "--all-restarts", "--output", tmp_path / "a")
    assert done.exit_code == 0
    assert "certificate" in done.stdout
    assert "certified" in done.stdout
    assert results(tmp_path / "a")["recoveries"][0]["evaluations"] == 240


def test_an_unknown_one_says_why(made, tmp_path):
    assert run(*victim(made), *QUICK, "--patience", 0, "--output", tmp_path / "o").exit_code == 0
    (found,) = results(tmp_path / "o")["recoveries"]
    assert found["certificate"]["status"] == "unknown"
    assert "not measured" in found["certificate"]["reason"]
    assert found["certificate"]["precision"] is None
    assert found["evaluations"] == 240


def test_an_audit_counts_the_certified(many, tmp_path, measured):
    arguments = ("audit", "--model", f"{NETS}:make", "--weights", many / "w.safetensors")
    arguments += ("--gradients", many / "folder", *QUICK, "--patience", 0)
    assert run(*arguments, "--output", tmp_path / "o").exit_code == 0
    content = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert content["certified"] == 6
    assert content["certificates"]["small"]["threshold"] == 1e-5
    assert content["evaluations"] < 6 * 240
    with (tmp_path / "o" / "summary.csv").open(newline="", encoding="utf-8") as file:
        assert [line["certificate"] for line in csv.DictReader(file)] == ["certified"] * 6
    page = (tmp_path / "o" / "summary.html").read_text(encoding="utf-8")
    assert "6 of 6</b><span>certified" in page
    assert "of 150 searches had succeeded. Measured on a test." in page
    with safe_open(tmp_path / "o" / "results" / "digit2.safetensors", framework="pt") as opened:
        details = json.loads(opened.metadata()["sapag_fast"])
    assert details["certificate"]["precision"] == pytest.approx(149 / 150)
    assert run(*arguments, "--all-restarts", "--output", tmp_path / "o").exit_code == 2
    assert run(*arguments, "--all-restarts", "--output", tmp_path / "a").exit_code == 0
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["evaluations"] == 6 * 240
