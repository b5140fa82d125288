"""breaching is found past a folder of its name, such as one with a user's notes or results of it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(sys.prefix) / "breaching"
PROGRAM = f"""
import sys
sys.path.append({str(ROOT)!r})
{{before}}
from benchmarks.integrations.breaching_import import import_breaching
import_breaching().get_attack_config
"""


def _run(folder, before=""):
    (folder / "breaching" / "results").mkdir(parents=True)
    script = folder / "script.py"
    script.write_text(PROGRAM.replace("{before}", before))
    return subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="breaching is not installed; `make test` installs it")
@pytest.mark.parametrize("before", ["", "import breaching"])
def test_a_folder_beside_the_script_is_not_taken_for_it(tmp_path, before):
    done = _run(tmp_path, before)
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_folder_is_named(tmp_path):
    """As where it is not installed: its own folder is out of sight."""
    done = _run(tmp_path, "sys.prefix = '/nowhere'")
    assert done.returncode == 1
    if "torchvision" not in done.stderr:
        assert (
            f"ImportError: breaching is not installed, found a folder of this name alone, {tmp_path}"
            in done.stderr
        )
