"""What may have happened to a file before it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

INTACT = "intact"


def _random(rng: np.random.Generator, content: bytes) -> bytes:
    return rng.bytes(int(rng.integers(0, 2000)))


def _flipped(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 512)  # headers come first
    for _ in range(int(rng.choice([1, 2, 8, 40]))):
        if reach:
            changed[int(rng.integers(reach))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _truncated(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(0, max(len(content), 1)))]


def _number(rng: np.random.Generator, content: bytes) -> bytes:
    """A number of a header that is not true."""
    width = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice([0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62]))
    lie = (value % 256**width).to_bytes(width, "little" if rng.random() < 0.5 else "big")
    at = int(rng.integers(0, max(min(len(content), 300) - width, 1)))
    return content[:at] + lie + content[at + width :]


def _spliced(rng: np.random.Generator, content: bytes) -> bytes:
    a, b = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
    at = int(rng.integers(0, len(content) + 1))
    return content[:at] + content[a:b] + content[at:] if rng.random() < 0.5 else content[:a] + content[b:]


def _longer(rng: np.random.Generator, content: bytes) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 500)))


BYTES: dict[str, Callable[[np.random.Generator, bytes], bytes]] = {
    "random bytes": _random,
    "bits flipped": _flipped,
    "truncated": _truncated,
    "number changed": _number,
    "spliced": _spliced,
    "made longer": _longer,
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, Callable[[Path], None]] = {
    "a FIFO": _fifo,
    "a loop of links": _loop,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/full": lambda path: path.symlink_to("/dev/full"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a folder": lambda path: path.mkdir(),
    "gone": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
}


def damage(rng: np.random.Generator, path: Path) -> str:
    """Do something to the file that lies there, and say what; `INTACT` leaves it."""
    how = rng.random()
    if how < 0.12:
        return INTACT
    if how < 0.22:
        word = str(rng.choice(list(PLACES)))
        path.unlink()
        PLACES[word](path)
        return word
    word = str(rng.choice(list(BYTES)))
    content = path.read_bytes()
    changed = BYTES[word](rng, content)
    path.write_bytes(changed)
    return word if changed != content else INTACT


NAMES = (
    "plain",
    "two words",
    "new\nline",
    "ü€😀",
    "%s%n{}",
    "-o",
    "tab\t",
    "[bold]",
    "=1+1",
    "a" * 200,
    "..x",
    "q'\"`$()",
)


def odd_name(rng: np.random.Generator, suffix: str) -> str:
    """A name that a file system allows; one in two is plain."""
    if rng.random() < 0.5:
        return f"plain{suffix}"
    if rng.random() < 0.1:
        return os.fsdecode(b"\xff\xfe\x80") + suffix
    return f"{rng.choice(NAMES)}{suffix}"
