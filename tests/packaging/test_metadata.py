"""Files that say one thing twice say the same."""

import re
import tomllib
from pathlib import Path

from sapag_fast import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_file_names_the_same_version():
    assert PROJECT["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changes = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == __version__


def test_the_paper_and_its_preprint_are_cited_by_their_names():
    for name in ("README.md", "docs/mathematics.md", "CITATION.cff"):
        text = " ".join((ROOT / name).read_text().split())
        assert "Variance of the Gradient Also Matters: Privacy Leakage from Gradients" in text
        assert "SAPAG: A Self-Adaptive Privacy Attack From Gradients" in text
        assert "2009.06228" in text


def test_the_hooks_before_a_commit_run_what_make_lint_runs():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    commands = {line.removesuffix(" .") for line in re.findall(r"\$\(BIN\)/(.+)", recipe)}
    made = {command.removesuffix(" $(CXX_FILES)") for command in commands}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert made == set(re.findall(r"entry: \.venv/bin/(.+)", hooks))


def test_every_linter_is_pinned():
    assert all("==" in requirement for requirement in PROJECT["optional-dependencies"]["lint"])
