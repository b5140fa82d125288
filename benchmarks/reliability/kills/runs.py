"""What is killed: an audit and a recovery with a checkpoint, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import sapag_fast as sf
from benchmarks.reliability.small_net import INPUT_SHAPE, make
from benchmarks.reliability.victims import MODEL, write_victims
from sapag_fast.audit import plots  # noqa: F401 (imported before any fork, as the command is)
from sapag_fast.command_line import audit as _audit_command  # noqa: F401
from sapag_fast.command_line.main import main
from sapag_fast.files.output import sweep
from sapag_fast.files.tensors import write_tensors
from sapag_fast.search.checkpoint import Checkpoint

VICTIMS = 4
INTERRUPTED = 130
LONGEST = 60.0  # seconds that any of these runs may take


def audit_words(folder: Path, output: Path) -> list[str]:
    words = [
        "audit", *MODEL, "--weights", folder / "w.safetensors", "--gradients", folder / "gradients",
        "--output", output, "--steps", 12, "--restarts", 2, "--recipe", "smooth", "--at-once", 2,
        "--all-restarts",
    ]  # fmt: skip
    return [str(word) for word in words]


def audit(folder: Path, output: Path) -> None:
    main(audit_words(folder, output))


def recovery(folder: Path, output: Path) -> None:
    """Written by `sapag_fast.recover` to ``inputs.safetensors``, with its checkpoint beside it."""
    output.mkdir(exist_ok=True)
    sweep(output, {"inputs.safetensors"})  # as commands do with what they write
    torch.manual_seed(0)
    model = make()
    loss = F.cross_entropy(model(torch.rand(1, *INPUT_SHAPE)), torch.tensor([1]))
    target = torch.autograd.grad(loss, list(model.parameters()))
    found = sf.recover(
        model, target, INPUT_SHAPE, recipe="smooth", steps=40, restarts=6, at_once=2, stop_certified=False,
        checkpoint=output / "checkpoint.safetensors",
    )  # fmt: skip
    write_tensors(output / "inputs.safetensors", {"inputs": found.inputs, "distance": found.distance})


def prepared(folder: Path) -> Path:
    write_victims(folder, VICTIMS)
    return folder


def start(run: Callable[[Path, Path], None], folder: Path, output: Path) -> int:
    """Run in a forked process, which has everything imported already; returns its id.

    Checkpoints are written many times a second there, to be met half written and half used.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        defaults = Checkpoint.__init__.__kwdefaults__
        assert defaults is not None
        defaults["every"] = 0.05
        run(folder, output)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        os._exit(code)


def ended(child: int, patience: float = LONGEST) -> int | None:
    """Its status, negative for a signal; None, and it is killed, if it does not end in time."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def with_broken_screen(folder: Path, output: Path, screen: str, lines: int) -> tuple[int, str]:
    """The audit's command with its output on a full device, or on a pipe that is read for some lines."""
    command = [sys.executable, "-m", "sapag_fast", *audit_words(folder, output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if screen == "/dev/full":
        with Path(screen).open("wb") as full:
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=LONGEST, check=False
            )
        return done.returncode, done.stderr.decode(errors="replace")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode(errors="replace")
        return process.wait(LONGEST), errors


def results(output: Path) -> dict[str, bytes]:
    """What must have the same bits however often a run was ended."""
    folder = output / "results" if (output / "results").is_dir() else output
    found = {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
    found.pop("checkpoint.safetensors", None)
    return found


def broken(output: Path) -> list[str]:
    """Files that are there and not whole; temporary ones of a process that was killed are not looked at."""
    wrong = []
    for file in sorted(output.rglob("*")):
        if file.name.startswith(".") or not file.is_file():
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                load_file(file)
        except Exception as error:
            wrong.append(f"{file.name}: {type(error).__name__}: {error!s:.100}")
    return wrong


def leftovers(output: Path) -> list[str]:
    """What a run that has ended well leaves none of."""
    return [file.name for file in output.rglob("*") if file.suffix == ".part" or "checkpoint" in file.name]
