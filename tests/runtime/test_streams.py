"""Standard streams that fail, and text that a terminal would obey."""

import io
import os
import sys
import threading
import time

import pytest
from rich.table import Table

from sapag_fast.runtime.screen import Screen, plain_text
from sapag_fast.runtime.streams import say, shown, tell, unfailing_streams


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


def full_device():
    return open("/dev/full", "w", encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 数 [bold]x[/x]", "plain é 数 [bold]x[/x]"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff\x00\x7f\x9b", r"\udcff\x00\x7f\x9b"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_shown_as_an_escape(text, expected):
    assert shown(text) == expected
    assert shown(expected) == expected


@pytest.mark.parametrize(("made", "notices"), [(closed_pipe, 0), (full_device, 1)])
@pytest.mark.parametrize("characters", [1, 100_000])
def test_standard_output_that_fails_is_silent_from_then_on(monkeypatch, capsys, made, notices, characters):
    with made() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with unfailing_streams():
            for _ in range(3):
                print("x" * characters, flush=True)
            sys.stdout.buffer.write(b"x" * characters)
        assert sys.stdout is stream
        print("after", flush=True)  # the descriptor itself takes everything by now
    told = capsys.readouterr().err
    assert told.count("standard output: No space left on device") == notices
    assert told.count("\n") == notices


def test_a_failure_at_the_last_flush_is_no_failure(monkeypatch):
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with unfailing_streams():
            print("in the buffer still")


def test_both_streams_may_fail(monkeypatch):
    with full_device() as output, closed_pipe() as errors:
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", errors)
        with unfailing_streams():
            say("x")
            tell("y")


def test_closed_streams_stay_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with unfailing_streams():
        say("x")
        tell("y")
        Screen().print("z")
        Screen(stderr=True).print("z")


def test_a_descriptor_that_was_closed_is_no_results(tmp_path):
    kept = os.dup(0)
    try:
        os.close(0)
        with unfailing_streams(), open(tmp_path / "result", "w") as file:
            assert file.fileno() > 2
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_what_the_encoding_lacks_is_shown_as_an_escape(monkeypatch, tmp_path):
    for encoding, expected in (("ascii", r"\xe9 \udcff"), ("utf-8", r"é \udcff")):
        with open(tmp_path / encoding, "w", encoding=encoding) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            Screen().print(plain_text("é") + " ")
            with unfailing_streams():
                print("é \udcff")
        written = (tmp_path / encoding).read_text(encoding=encoding)
        assert written.splitlines()[1] == expected


def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read = []

    def slow_reader():
        time.sleep(0.02)
        while part := os.read(reading, 1 << 16):
            read.append(part)

    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        reader = threading.Thread(target=slow_reader)
        reader.start()
        with unfailing_streams():
            print("x" * 300_000)
    reader.join()
    os.close(reading)
    assert b"".join(read) == b"x" * 300_000 + b"\n"


class Failing(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


def test_the_screen_of_a_program_that_is_not_ours_fails_in_silence(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing())
    Screen().print("x")
    Screen().print(plain_text("x"))


def test_strings_on_the_screen_are_no_markup(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    screen = Screen(width=60)
    table = Table()
    table.add_column("[red]")
    table.add_row("[bold]x o[/x] :smile: \x1b[31m")
    screen.print(table)
    screen.print("o[/x]\x1b")
    written = stream.getvalue()
    assert "[bold]x o[/x] :smile: \\x1b[31m" in written
    assert "o[/x]\\x1b" in written
    assert "\x1b" not in written
