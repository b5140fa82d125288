"""Ctrl-C and failures half way: what is finished is kept."""

import functools
import signal
import time

from command_calls import NETS, QUICK, names_in, python, replaced, results, run, victim

import sapag_fast
from sapag_fast.command_line.demo import demo


def test_interrupt_keeps_what_is_finished(made, tmp_path, monkeypatch):
    real, calls = sapag_fast.recover, []

    def second_is_interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr("sapag_fast.command_line.recover.recover", second_is_interrupted)
    done = run(*victim(made), "--gradient", made / "g1.safetensors", *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 130, done.output
    content = results(tmp_path / "o")
    assert content["status"] == "interrupted"
    assert [recovery["name"] for recovery in content["recoveries"]] == ["g0"]
    assert names_in(tmp_path / "o") == ["g0.png", "grid.png", "recovered.safetensors", "results.json"]


def test_failure_keeps_what_is_finished(made, tmp_path, monkeypatch):
    real, calls = sapag_fast.recover, []

    def second_fails(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("out of luck")
        return real(*arguments, **options)

    monkeypatch.setattr("sapag_fast.command_line.recover.recover", second_fails)
    done = run(*victim(made), "--gradient", made / "g1.safetensors", *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 2
    assert "out of luck" in done.stderr
    assert results(tmp_path / "o")["status"] == "failed"
    assert len(results(tmp_path / "o")["recoveries"]) == 1


SLOW_MODEL = """
from pathlib import Path
from victim_nets import make

def announcing():
    # Leaves a file behind when the search is well under way.
    calls = []
    def called(*_):
        calls.append(1)
        if len(calls) == 40:
            Path(__file__).with_name("started").touch()
    net = make()
    net.register_forward_hook(called)
    return net
"""


def test_control_c_in_a_process_of_its_own(made, tmp_path):
    """A real signal in the middle of a search that would take hours: the best iterate so far is kept."""
    (tmp_path / NETS.name).write_text(NETS.read_text())
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    out = tmp_path / "out"
    arguments = replaced(
        victim(made), model=f"{tmp_path / 'slow.py'}:announcing", steps=1_000_000, output=out
    )
    process = python(*arguments, "--gradient", made / "g1.safetensors")
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    content = results(out)
    assert content["status"] == "interrupted"
    (recovery,) = content["recoveries"]
    assert (recovery["name"], recovery["status"]) == ("g0", "interrupted")
    assert names_in(out) == ["g0.png", "grid.png", "recovered.safetensors", "results.json"]


def test_interrupted_demo_keeps_its_cells(tmp_path, small_demo, monkeypatch):
    real = demo.dlg

    def interrupted(attacked, position, *rest):
        if (attacked.cell.initialisation, position) == ("uniform", 1):
            raise KeyboardInterrupt
        return real(attacked, position, *rest)

    monkeypatch.setattr(demo, "dlg", interrupted)
    done = run("demo", "--output", tmp_path / "o")
    assert done.exit_code == 130
    content = results(tmp_path / "o")
    assert content["status"] == "interrupted"
    assert [(r["method"], r["group"]) for r in content["recoveries"]] == [
        ("SAPAG", "digits, uniform"),
        ("SAPAG", "digits, uniform"),
        ("DLG", "digits, uniform"),
    ]


def test_demo_interrupted_in_a_search_keeps_its_best_iterates_and_its_time(tmp_path, small_demo, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "recover", functools.partial(sapag_fast.recover, progress=stop))
    done = run("demo", "--output", tmp_path / "o")
    assert done.exit_code == 130
    recoveries = results(tmp_path / "o")["recoveries"]
    assert {recovery["status"] for recovery in recoveries} == {"interrupted"}
    assert all(recovery["seconds"] > 0 for recovery in recoveries)
