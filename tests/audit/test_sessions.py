"""The note of an audit's runs, which nothing depends on."""

import json

import pytest

from sapag_fast.audit.sessions import Sessions


def test_runs_add_up(tmp_path):
    for seconds, memory in ((30.0, 10), (40.0, 5)):
        sessions = Sessions(tmp_path / "s.json")
        sessions._began -= seconds
        sessions.note_time(memory)
    again = Sessions(tmp_path / "s.json")
    assert again.lost is None
    assert len(again) == 3
    assert again.seconds == pytest.approx(70.0, abs=10)
    assert again.peak_memory == 10


@pytest.mark.parametrize(
    "content",
    ["", "[", "[1]", "3", '{"a": 2}', '[{"seconds": NaN, "peak_memory": 1}]', "[" * 100_000, "\udcff"],
)
def test_damaged_note_is_begun_anew(tmp_path, content):
    (tmp_path / "s.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    sessions = Sessions(tmp_path / "s.json")
    assert sessions.lost
    assert len(sessions) == 1
    assert len(json.loads((tmp_path / "s.json").read_text())) == 1
