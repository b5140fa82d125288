"""One `sapag-fast audit` of many MNIST victims, and the same killed three times and resumed.

The victims are gradients of an untrained sigmoid LeNet (torch's own initialisation), in one stacked file. The
first run is left alone. The second is killed with SIGKILL at three moments that the seed draws, resumed each
time by the same command, and must leave the same files, byte by byte.

    python -m benchmarks.audit.audit_mnist --data FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import BENCHMARKS, RESULTS
from benchmarks.recovery.recover_mnist import SHAPE, load
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import shared_gradients
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.gradient_file import STACKED
from sapag_fast.files.tensors import write_tensors
from sapag_fast.models import LeNet
from sapag_fast.reports.pictures import save_picture, to_picture

MODEL = "from sapag_fast.models import LeNet\n\n\ndef build():\n    return LeNet()\n"
KILLS = 3


def make_victims(folder: Path, data: Path, count: int, seed: int) -> None:
    """The model file, its weights, the stacked gradients and the true images."""
    torch.manual_seed(seed)
    model = LeNet()
    images, labels = load(data, count)
    names = [f"mnist{position:05d}" for position in range(len(images))]
    (folder / "net.py").write_text(MODEL)
    write_tensors(folder / "weights.safetensors", model.state_dict())
    shared = shared_gradients(model, images[:, None], labels[:, None])
    stacked = dict(zip((name for name, _ in model.named_parameters()), shared, strict=True))
    metadata = {
        STACKED: json.dumps(names),
        "labels": json.dumps([[int(label)] for label in labels]),
        "batch_size": "1",
        "input_shape": "x".join(map(str, SHAPE)),
        "weights_sha256": model_fingerprint(model),
    }
    write_tensors(folder / "victims.safetensors", stacked, metadata)
    (folder / "truth").mkdir()
    for name, image in zip(names, images, strict=True):
        save_picture(folder / "truth" / f"{name}.png", to_picture(image))


def start(folder: Path, output: Path, options: argparse.Namespace) -> subprocess.Popen:
    """The audit in a process of its own."""
    command = [sys.executable, "-m", "sapag_fast", "audit", "--model", f"{folder / 'net.py'}:build"]
    command += ["--weights", folder / "weights.safetensors", "--gradients", folder / "victims.safetensors"]
    command += ["--truth", folder / "truth", "--restarts", options.restarts, "--seed", options.seed]
    command += ["--device", "cpu", "--output", output]
    for name in ("steps", "at_once"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name.replace('_', '-')}", value]
    root = BENCHMARKS.parent
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(root)}
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen) -> None:
    """Wait for an audit that must go well."""
    if process.wait() != 0:
        raise SystemExit(f"the audit ended with status {process.returncode}")


def killed_and_resumed(
    folder: Path, output: Path, options: argparse.Namespace, seconds: float
) -> list[dict[str, float]]:
    """Kill at random fractions of the time that an uninterrupted run took, then let it end."""
    drawn = random.Random(options.seed)
    moments = sorted(drawn.uniform(0.1, 0.95) for _ in range(KILLS))
    kills, before = [], 0.0
    for moment in moments:
        process = start(folder, output, options)
        began = time.perf_counter()
        try:
            process.wait((moment - before) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        results = len(list((output / "results").glob("[!.]*.safetensors")))
        kills.append(
            {
                "seconds": round(time.perf_counter() - began, 2),
                "results there": results,
                "status": process.returncode,
            }
        )
        before = moment
    finish(start(folder, output, options))
    return kills


def files(output: Path) -> dict[str, bytes]:
    """The results by name, leftovers included."""
    return {path.name: path.read_bytes() for path in (output / "results").iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with MNIST's IDX files")
    parser.add_argument("--victims", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=8)
    parser.add_argument("--steps", type=int, help="evaluations of a restart; the recipe's if not given")
    parser.add_argument("--at-once", type=int, help="searches at once; what memory bears if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "audit_mnist.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_victims(folder, options.data, options.victims, options.seed)
        began = time.perf_counter()
        finish(start(folder, folder / "whole", options))
        seconds = time.perf_counter() - began
        kills = killed_and_resumed(folder, folder / "killed", options, seconds)
        whole, killed = files(folder / "whole"), files(folder / "killed")
        summary = json.loads((folder / "whole" / "summary.json").read_text())
        resumed = json.loads((folder / "killed" / "summary.json").read_text())
    kept = ("victims", "finished", "restarts", "victims_per_minute", "recoveries_per_minute", "success")
    kept += ("success_95", "psnr", "distance", "labels_right", "seconds", "peak_memory_bytes", "at_once")
    report = {
        "benchmark": "audit_mnist",
        **machine(),
        "seed": options.seed,
        "steps": next(iter(summary["recipes"].values()))["steps"],
        **{key: summary[key] for key in kept},
        "seconds of the process": round(seconds, 2),
        "kills": kills,
        "sessions": resumed["sessions"],
        "seconds of all sessions": resumed["seconds"],
        "results": len(killed),
        "identical": whole == killed,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"{report['finished']} victims x {options.restarts}: {report['recoveries_per_minute']:.1f} "
        f"recoveries and {report['victims_per_minute']:.1f} victims a minute, success "
        f"{report['success']:.3f}, "
        f"{report['peak_memory_bytes'] / 2**30:.2f} GiB; after {KILLS} kills {len(killed)} results, "
        f"{'identical' if report['identical'] else 'NOT identical'}"
    )
    if not report["identical"] or len(killed) != report["victims"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
