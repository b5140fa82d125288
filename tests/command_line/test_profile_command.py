"""``sapag-fast profile``."""

import json

from command_calls import NETS, flat, names_in, run

QUICK = ("--recoveries", "1,4", "--evaluations", 5, "--seconds", 0.3, "--device", "cpu")


def profiled(*arguments, shape="1x8x8"):
    return run("profile", "--model", f"{NETS}:make", "--input-shape", shape, *QUICK, *arguments)


def test_it_writes_the_files_and_shows_the_table(tmp_path):
    done = profiled("--output", tmp_path / "out", "--trace")
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path) == ["out", "out/profile.json", "out/profile.png", "out/trace.json"]
    read = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [level["recoveries"] for level in read["levels"]] == [1, 4]
    assert json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]
    for said in ("A step at R=4", "first backward", "host gaps", "Next bottleneck"):
        assert said in done.output


def test_without_output_it_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = profiled()
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path) == []


def test_what_fails_leaves_no_folder(tmp_path):
    for arguments, shape, message in (
        ((), "3x8x8", "input_shape"),
        (("--recipe", "none"), "1x8x8", "recipe must be one of"),
        (("--recoveries", "0"), "1x8x8", "recoveries must be at least 1"),
    ):
        done = profiled("--output", tmp_path / "out", *arguments, shape=shape)
        assert done.exit_code == 2, done.output
        assert message in flat(done.stderr)
    assert names_in(tmp_path) == []


def test_a_trace_needs_a_folder():
    done = profiled("--trace")
    assert done.exit_code == 2
    assert "give --output" in flat(done.stderr)


def test_a_folder_with_files_is_kept(tmp_path):
    (tmp_path / "note").write_text("mine")
    done = profiled("--output", tmp_path)
    assert done.exit_code == 2
    assert "holds files already" in flat(done.stderr)
    assert names_in(tmp_path) == ["note"]
