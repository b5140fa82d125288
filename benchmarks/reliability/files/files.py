"""The part of the suite on hostile files."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import MappingProxyType

from benchmarks.reliability.bounds import MEMORY, Hang, bounded
from benchmarks.reliability.files import audits, datasets, gradients, images
from benchmarks.reliability.files.damage import INTACT, damage
from benchmarks.reliability.files.sample import Make, Sample
from benchmarks.reliability.part import Outcome, generator, scratch_folder
from benchmarks.reliability.sources import EVERYTHING

SECONDS = 10  # that a reader may take

READERS: dict[str, Make] = {
    "gradient": gradients.gradient,
    "victims": gradients.victims,
    "weights": gradients.weights,
    "checkpoint": gradients.checkpoint,
    "tensors": gradients.tensors_of,
    "image": images.own_image,
    "class folders": images.class_folders,
    "truth": images.truth,
    "idx": datasets.idx,
    "cifar": datasets.cifar,
    "svhn": datasets.svhn,
    "arrays": datasets.arrays,
    "dataset": datasets.dataset,
    "sentences": datasets.sentences,
    "tokens": datasets.tokens,
    "audit": audits.victims,
    "audit folder": audits.folder,
}


class Files:
    """A valid file of each reader, then damaged: random bytes, flipped bits, cut, spliced, with numbers that
    lie; forged to run code, to fill the memory or to mislead; no file at all (a FIFO, a device, a loop of
    links). Right are the values of an intact file, or ValueError that names the file; memory and time are
    bounded.
    """

    name, title = "files", "Hostile files"
    amount = 1000 * len(READERS)
    block, patience = 25 * len(READERS), 60.0
    environment = MappingProxyType({"OMP_NUM_THREADS": "1"})
    sources = EVERYTHING

    def show(self, seed: int, number: int) -> str:
        rng, reader = generator(self.name, seed, number), self.reader(number)
        with scratch_folder("hostile") as folder:
            sample = READERS[reader](rng, folder)
            words = damage(rng, sample.path)
            return f"{reader}, {sample.path.name!r}, {sample.words or 'plain'}: {words}"

    def reader(self, number: int) -> str:
        return list(READERS)[number % len(READERS)]

    def check(self, seed: int, number: int) -> Outcome:
        rng, reader = generator(self.name, seed, number), self.reader(number)
        outcome = Outcome()
        with scratch_folder("hostile") as folder:
            sample = READERS[reader](rng, folder)
            words = damage(rng, sample.path)
            here = f"{reader}, {sample.words or sample.path.suffix}, {words}"
            with bounded(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fault, end = _read(sample, words == INTACT, folder)
            outcome.counts[f"{reader}: {end}"] += 1
            if (folder / "canary").exists():
                outcome.faults.append(f"{here}: code in the file was run")
            if fault:
                outcome.faults.append(f"{here}: {fault}".replace(f"{folder}/", ""))
        return outcome


def _read(sample: Sample, intact: bool, folder: Path) -> tuple[str | None, str]:
    """What went wrong, and how it ended: read or refused."""
    try:
        value = sample.read()
        wrong = sample.sane(value) or (sample.right(value) if intact else None)
        return wrong, "read"
    except Hang:
        return f"no end within {SECONDS} s", "hung"
    except MemoryError:
        return f"took more than {MEMORY >> 20} MiB", "filled the memory"
    except ValueError as error:
        text = str(error)
        if isinstance(error, UnicodeError) or type(error).__module__.partition(".")[0] not in (
            "builtins",
            "sapag_fast",
        ):
            return f"{type(error).__name__}: {text:.200}", "raised"
        if any(word in text for word in ("llocate", "out of memory")):
            return f"took more than {MEMORY >> 20} MiB: {text:.200}", "filled the memory"
        if sample.says not in text:
            return f"an error that does not name the file: {text:.200}", "refused"
        if intact and not sample.refusable and _is_text(sample.path.name):
            return f"an intact file was refused: {text:.200}", "refused"
        return None, "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}", "raised"


def _is_text(name: str) -> bool:
    """Whether the name is UTF-8; safetensors opens no other."""
    return name.isascii() or name.encode("utf-8", "replace").decode() == name
