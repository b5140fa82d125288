"""What a part's figures are of: a change of anything else leaves them true."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READ = {".py", ".cpp", ".cu", ".cuh", ".h", ".inl", ".js", ".html", ".css"}

DISTANCES = (
    "csrc", "kernels", "sapag_fast/checks", "sapag_fast/distances", "sapag_fast/runtime",
    "benchmarks/reliability/part.py", "benchmarks/reliability/tables",
)  # fmt: skip
"""Of the distances and their kernels."""
EVERYTHING = ("csrc", "kernels", "sapag_fast", "benchmarks/reliability")


def sources_digest(paths: Sequence[str], root: Path = ROOT) -> str:
    """SHA-256 of all sources at or below ``paths``, by name and content."""
    digest = hashlib.sha256()
    for path in sorted({file for name in paths for file in _files(root / name)}):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"sources: {path} does not exist")
    return [file for file in path.rglob("*") if file.suffix in READ and file.is_file()]
