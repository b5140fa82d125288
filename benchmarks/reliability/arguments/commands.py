"""The commands of ``sapag-fast``, with arguments that work and what else each option may be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.reliability.arguments.pools import Pool
from benchmarks.reliability.small_net import REFERENCE
from benchmarks.reliability.victims import write_victims

NUMBERS = ["0", "-1", "1.5", "x", "", "nan", "9" * 30]
COUNT = Pool(["1", "2"], NUMBERS)
WEIGHT = Pool(["0", "0.5"], ["-1", "nan", "inf", "x", "", "1e400"])
SEED = Pool(["0", "7", "-1"], ["1.5", "x", "", "9" * 30, "nan"])
SHAPE = Pool(["1x4x4"], ["0x4x4", "x", "", "-1x4x4", "1x4x", "4", "1x4x4.5", "9" * 30, "1x5x5"])
DEVICE = Pool(["cpu"], ["nope", "cuda:999", "", "meta", "3"])


def named(*good: str) -> Pool:
    return Pool(good, ["nope", "", "3", good[0].upper() + "x"])


@dataclass(frozen=True)
class Command:
    """``base`` makes files in a folder and gives the options; a None stands for a flag without a value."""

    words: tuple[str, ...]
    base: Callable[[Path], dict[str, str | None]]
    pools: Mapping[str, Pool]


def _victims(folder: Path) -> dict[str, str | None]:
    if not (folder / "data").exists():
        write_victims(folder / "data", 1)
    return {"--model": REFERENCE, "--device": "cpu", "--weights": str(folder / "data" / "w.safetensors")}


def _recover(folder: Path) -> dict[str, str | None]:
    victim = folder / "data" / "gradients" / "v0.safetensors"
    return _victims(folder) | {
        "--gradient": str(victim),
        "--output": str(folder / "out"),
        "--steps": "2",
        "--restarts": "1",
    }


def _audit(folder: Path) -> dict[str, str | None]:
    source = folder / "data" / "gradients"
    return _victims(folder) | {
        "--gradients": str(source),
        "--output": str(folder / "out"),
        "--steps": "2",
        "--restarts": "1",
    }


def _capture(folder: Path) -> dict[str, str | None]:
    Image.new("L", (4, 4), 99).save(folder / "a.png")
    return {
        "--model": REFERENCE,
        "--device": "cpu",
        "--images": str(folder / "a.png"),
        "--input-shape": "1x4x4",
        "--gradient": str(folder / "g.safetensors"),
    }


FILES = ["/nowhere/x.safetensors", "", "/dev/null", "/", "/proc/self/mem"]
SEARCH = {
    "--input-shape": SHAPE,
    "--batch-size": Pool(["1"], NUMBERS),
    "--restarts": COUNT,
    "--recipe": named("auto", "smooth", "relu"),
    "--distance": named("sapag", "l2"),
    "--layers": named("modules", "separate"),
    "--optimizer": named("lbfgs", "adam"),
    "--steps": COUNT,
    "--basis": named("pixel", "dct"),
    "--tv": WEIGHT,
    "--box": WEIGHT,
    "--seed": SEED,
    "--device": DEVICE,
    "--weights": Pool([], FILES),
    "--model": Pool(
        [], ["nope", "nope.py:f", "", ":make", REFERENCE.replace("make", "nothing"), "/dev/null:f"]
    ),
    "--truth": Pool([], ["/nowhere", "/dev/null", "/dev"]),
    "--output": Pool([], ["/dev/null", "/proc/x", "/dev/null/x"]),
}
COMMANDS: dict[str, Command] = {
    "recover": Command(
        ("recover",),
        _recover,
        SEARCH
        | {
            "--labels": Pool(["infer", "joint", "1"], ["nope", "", "-1", "9", "1.5", "9" * 30]),
            "--gradient": Pool([], FILES),
        },
    ),
    "audit": Command(
        ("audit",),
        _audit,
        SEARCH
        | {
            "--labels": Pool(["infer", "joint", "known"], ["nope", "", "1"]),
            "--stop-distance": WEIGHT,
            "--at-once": COUNT,
            "--max-memory": Pool(["1GB", "512MiB"], ["0", "-1", "x", "", "1XB", "nan", "inf"]),
            "--gradients": Pool([], FILES),
        },
    ),
    "capture": Command(
        ("capture",),
        _capture,
        {
            "--batch-size": Pool(["1"], NUMBERS),
            "--input-shape": Pool(["1x4x4", "1x8x2"], SHAPE.bad[:-1]),
            "--labels": Pool(["1"], ["nope", "", "-1", "9", "1.5", "1,2", "9" * 30]),
            "--defence": Pool(
                ["noise:0.1", "sign", "quantise:4", "prune:0.5"],
                [
                    "nope",
                    "noise",
                    "noise:",
                    "noise:x",
                    "noise:-1",
                    "noise:nan",
                    "quantise:1",
                    "prune:2",
                    "sign:3",
                    "withhold:99",
                ],
            ),
            "--images": Pool([], ["/nowhere", "/dev/null", "/dev"]),
            "--seed": SEED,
            "--device": DEVICE,
            "--gradient": Pool([], ["/nowhere/x.safetensors", "x.txt", "", "/dev/null"]),
            "--model": SEARCH["--model"],
        },
    ),
    "profile": Command(
        ("profile",),
        lambda folder: {
            "--model": REFERENCE,
            "--device": "cpu",
            "--input-shape": "1x4x4",
            "--recoveries": "1",
            "--evaluations": "1",
            "--seconds": "0.01",
        },
        {
            "--recoveries": Pool(["1", "1,2"], ["0", "-1", "x", "", "1.5", ",", "9" * 30]),
            "--evaluations": COUNT,
            "--seconds": Pool(["0.01"], ["0", "-1", "nan", "inf", "x", ""]),
            "--batch-size": Pool(["1"], NUMBERS),
            "--input-shape": Pool(["1x4x4"], SHAPE.bad),
            "--steps": COUNT,
            "--distance": named("sapag"),
            "--seed": SEED,
            "--device": DEVICE,
            "--output": SEARCH["--output"],
        },
    ),
    "images": Command(
        ("images", "digits"),
        lambda folder: {"--output": str(folder / "out"), "--count": "1", "--size": "4"},
        {
            "--count": Pool(["1", "3"], [*NUMBERS, "100000"]),
            "--size": Pool(["4", "8"], [*NUMBERS, "100000"]),
            "--output": SEARCH["--output"],
        },
    ),
    "kernels": Command(
        ("kernels",),
        lambda folder: {"--plan": "12x1x5x5,12"},
        {
            "--plan": Pool(["3x2,3"], ["x", "", "0x2", "-1", ",", "9" * 30]),
            "--recoveries": COUNT,
            "--dtype": named("float32", "bfloat16"),
            "--arch": Pool(["80", "90", "100"], ["x", "", "-1", "0", "1.5"]),
        },
    ),
}
