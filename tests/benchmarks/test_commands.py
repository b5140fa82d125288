"""Every benchmark starts from its command line, and writes what it should; the figures are nobody's."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from idx_files import write_idx

from sapag_fast.data import digits

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
BREACHING = find_spec("breaching") is not None or Path(sys.prefix, "breaching").exists()
NAMED = [
    "audit.audit_mnist",
    "claims",
    "claims.tables",
    "integrations.breaching_speed",
    "kernels.gpu_distance",
    "peers",
    "profiler.profile_check",
    "recovery.batch_labels",
    "recovery.certificate",
    "recovery.deep_networks",
    "recovery.large_images",
    "recovery.never_wrong",
    "reliability",
    "recovery.recover_mnist",
    "search.attack_speed",
    "search.gpu_attack",
    "search.large_speed",
    "search.optimizer_speed",
    "search.step_speed",
    "search.vit_speed",
]


@pytest.fixture
def copy(tmp_path):
    """The benchmarks with their results, somewhere else: what they write does not touch this checkout."""
    shutil.copytree(
        ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "csrc").symlink_to(ROOT / "csrc")
    return tmp_path


@pytest.fixture
def mnist(tmp_path):
    images, labels = digits(4, size=28)
    return write_idx(tmp_path / "mnist", (images[:, 0] * 255).round().numpy(), labels.numpy(), "t10k")


def run(folder, *words, status=(0,)):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode in status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMED)
def test_every_command_says_its_options(name):
    assert run(ROOT, "-m", f"benchmarks.{name}", "--help").startswith("usage:")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("search.step_speed", ("--rounds", 1, "--networks", "LeNet", "--no-scaling")),
        ("search.vit_speed", ("--rounds", 1, "--recoveries", 2)),
        ("search.large_speed", ("--rounds", 1, "--recoveries", 1, "--networks", "ResNet-18")),
        ("search.optimizer_speed", ("--rounds", 1)),
        ("search.attack_speed", ("--rounds", 1, "--evaluations", 3, "--threads", 1)),
    ],
)
def test_speeds(copy, name, options):
    out = copy / "found.json"
    run(copy, "-m", f"benchmarks.{name}", *options, "--output", out)
    assert json.loads(out.read_text())["benchmark"] == name.partition(".")[2]


def test_the_profile_check(copy):
    """Status 1: the stages missed their bar, as they may on a busy machine."""
    out = copy / "found.json"
    options = ("--rounds", 1, "--seconds", 0.2, "--evaluations", 20, "--networks", "LeNet", "--output", out)
    run(copy, "-m", "benchmarks.profiler.profile_check", *options, status=(0, 1))
    assert "LeNet" in json.loads(out.read_text())


def test_recoveries_of_mnist(copy, mnist):
    out = copy / "found.json"
    options = (
        "--victims",
        1,
        "--restarts",
        1,
        "--inits",
        "uniform",
        "--dlg-evaluations",
        20,
        "--output",
        out,
    )
    run(copy, "-m", "benchmarks.recovery.recover_mnist", "--data", mnist, *options)
    assert set(json.loads(out.read_text())["uniform"]) >= {"sapag", "dlg"}


def test_an_audit_that_is_killed(copy, mnist):
    out = copy / "found.json"
    options = ("--victims", 4, "--restarts", 2, "--steps", 100, "--threads", 1, "--output", out)
    run(copy, "-m", "benchmarks.audit.audit_mnist", "--data", mnist, *options)
    assert json.loads(out.read_text())["identical"]


@pytest.mark.skipif(not BREACHING, reason="breaching is not installed")
def test_breachings_speed(copy, mnist):
    out = copy / "found.json"
    options = ("--no-speed", "--victims", 1, "--steps", 1, "--objectives", "euclidean", "--output", out)
    run(copy, "-m", "benchmarks.integrations.breaching_speed", "--data", mnist, *options)
    assert "recovery" in json.loads(out.read_text())


def test_distances_and_their_table(copy):
    path = copy / "benchmarks" / "results" / "distance_lenet.json"
    path.unlink()
    suite = "benchmarks/distances/test_distance.py"
    run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite, "-k", "LeNet and not 64")
    assert json.loads(path.read_text())["set"] == "LeNet"


def test_the_tables_are_those_of_the_results(copy):
    readme = copy / "benchmarks" / "README.md"
    before = readme.read_text()
    readme.unlink()
    run(copy, "-m", "benchmarks.report.tables")
    assert readme.read_text() == before
