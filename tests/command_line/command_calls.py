"""Calls of the command line, in this process and in one of its own, and a look at what they left behind."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sapag_fast
from sapag_fast.command_line.main import main
from sapag_fast.files.gradient_file import CHECKSUM, gradient_checksum

NETS = Path(__file__).with_name("victim_nets.py")
QUICK = ("--steps", 60, "--restarts", 2, "--device", "cpu")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def results(folder):
    return json.loads((folder / "results.json").read_text())


def flat(text):
    return " ".join(text.split())


def victim(made, gradient="g0.safetensors", model="make"):
    weights = ("--weights", made / "w.safetensors")
    return ["recover", "--model", f"{NETS}:{model}", *weights, "--gradient", made / gradient]


def replaced(arguments, **options):
    """The arguments with some options' values replaced, added, or (None) removed."""
    arguments = [str(argument) for argument in arguments]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in arguments:
            at = arguments.index(flag)
            del arguments[at : at + 2]
        if value is not None:
            arguments += [flag, str(value)]
    return arguments


def python(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(sapag_fast.__file__).parents[1])}
    command = [sys.executable, "-m", "sapag_fast", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=environment)


def in_child(arguments, environment):
    """Run the command in a process of its own, where nothing is imported anew, and return its exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["sapag_fast.command_line.recover", "sapag_fast.command_line.audit", "sapag_fast.audit.plots"]
    )
    process = context.Process(target=_command, args=([str(a) for a in arguments], environment))
    process.start()
    process.join(120)
    return process.exitcode


def _command(arguments, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    main(arguments)


def files_of(folder):
    """Every file's bytes by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def swapped(path, times):
    """Put a gradient that is that many times as large into its place; as many bytes, and whole."""
    size = path.stat().st_size
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    gradient = {name: times * tensor for name, tensor in load_file(path).items()}
    save_file(gradient, path, metadata | {CHECKSUM: gradient_checksum(gradient)})
    assert path.stat().st_size == size
