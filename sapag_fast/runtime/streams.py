"""Standard output and error of a command: what is shown there is for people, and no work depends on it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["say", "shown", "tell", "unfailing", "unfailing_streams"]


def shown(text: object) -> str:
    r"""The text on one line; what a terminal would obey or hide becomes an escape such as ``\x1b``."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def say(text: object) -> None:
    """Show one line on standard output, unbroken."""
    print(shown(text))


def tell(message: object) -> None:
    """Show a warning or an error, one line on standard error."""
    if sys.stderr is not None:  # else print would take standard output
        print(f"sapag-fast: {shown(message)}", file=sys.stderr)


@contextlib.contextmanager
def unfailing_streams() -> Iterator[None]:
    """Let the standard streams take everything: a closed pipe or a full device ends no work.

    From its first failure on, a stream shows nothing. Standard error names the reason, unless nobody reads
    any more. Characters that the stream's encoding lacks are shown as escapes.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a result's file must not become a standard stream that was closed, and be written into
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    guarded = _on_descriptor(before[0], "output"), _on_descriptor(before[1], "error")
    sys.stdout, sys.stderr = guarded
    try:
        yield
    finally:
        for stream in filter(None, guarded):
            stream.flush()
        sys.stdout, sys.stderr = before


def unfailing(stream: TextIO) -> TextIO:
    """Wrap a stream that belongs to somebody else: from its first failure on, what is written is dropped."""
    wrapped: Any = _Wrapped(stream)
    return wrapped


class _Wrapped:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._failed = stream, False

    def write(self, text: str) -> int:
        try:
            self._taken(text)
        except UnicodeEncodeError as error:
            self._taken(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        self._taken("")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _taken(self, text: str) -> None:
        """Write the text, or flush if there is none."""
        if self._failed:
            return
        try:
            if text:
                self._stream.write(text)
            else:
                self._stream.flush()
        except OSError:
            self._failed = True


class _Descriptor(io.FileIO):
    """A standard stream's descriptor, replaced by the null device at its first failure."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._called = name

    def write(self, data: Any, /) -> int:
        try:
            while (count := super().write(data)) is None:  # does not block, and is full
                select.select((), (self,), ())
        except OSError as error:
            # Not only here: what lies in a buffer, or comes from compiled code, must find an end too.
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self.fileno())
            if error.errno != errno.EPIPE:
                tell(f"warning: standard {self._called}: {error.strerror}; no more is shown")
            return memoryview(data).nbytes
        return count


def _on_descriptor(stream: Any, name: str) -> Any:
    """The same stream on a descriptor that cannot fail; one that is closed, or no file, as it is."""
    try:
        stream.flush()
        raw = _Descriptor(stream.fileno(), name)
        buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
        return io.TextIOWrapper(
            buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    except (AttributeError, OSError):
        return stream
