"""What a wheel would hold, by setuptools' own account; nothing is compiled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
import setuptools
from distutils.core import run_setup

build = run_setup("setup.py", stop_after="init").get_command_obj("build_py")
build.ensure_finalized()
folder = build.build_lib + "/"
print(json.dumps([name.removeprefix(folder) for name in build.get_outputs(include_bytecode=False)]))
"""


@pytest.fixture(scope="module")
def packaged() -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def files(folder: str) -> set[str]:
    paths = (path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path) for path in paths if "__pycache__" not in path.parts and path.suffix != ".so"}


def test_a_wheel_has_every_file_of_the_package(packaged):
    package = {f"sapag_fast/{name}" for name in files("sapag_fast") if not name.startswith("kernels")}
    kernels = {f"sapag_fast/kernels/{name}" for name in files("kernels")}
    assert packaged == package | kernels


def test_a_wheel_has_what_is_read_at_run_time(packaged):
    assert {"sapag_fast/recovery/certificates.json", "sapag_fast/audit/templates/summary.html"} <= packaged
    assert "sapag_fast/py.typed" in packaged
