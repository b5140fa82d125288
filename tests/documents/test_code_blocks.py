"""Every code block of the README and of docs/ runs, document by document, in a folder of its own.

Python blocks share their names within a document. A Python block whose first line is ``# NAME.py`` becomes
that file. Shell blocks run in bash and must succeed. The blocks that set a machine up or search for hours are
marked in the text with the reason why they are left out here.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
# The process that gathers the results cannot import breaching's parts, and would end at their warnings.
pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_run_python = PythonEvaluator()


def _python(example: Example) -> None:
    first = example.parsed.splitlines()[0]
    if first.startswith("# ") and first.endswith(".py"):
        Path(first.removeprefix("# ")).write_text(example.parsed)
    else:
        _run_python(example)


def _shell(example: Example) -> None:
    tools = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": tools + os.pathsep + os.environ["PATH"],
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{example.parsed}\n{done.stdout}\n{done.stderr}"


_SYBIL = Sybil([CodeBlockParser("python", _python), CodeBlockParser("sh", _shell), SkipParser()])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_a_document_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in _SYBIL.parse(path).examples():
        try:
            example.evaluate()
        except SkipTest:
            continue  # marked in the text, with its reason


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_says_its_language(path: Path) -> None:
    fences = [line for line in path.read_text().splitlines() if line.lstrip().startswith("```")]
    assert len(fences) % 2 == 0
    languages = {line.strip().removeprefix("```") for line in fences[::2]}
    assert languages <= {"python", "sh", "text"}
