"""Data sets as they come: IDX, CIFAR, SVHN, NumPy archives, sentences."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch

from benchmarks.reliability.files.damage import odd_name
from benchmarks.reliability.files.forged import npy_header, pickled_code, zeros_deflated, zip_of
from benchmarks.reliability.files.sample import Sample, same
from sapag_fast.data import (
    read_arrays,
    read_cifar,
    read_dataset,
    read_idx,
    read_mnist,
    read_sentences,
    read_svhn,
)
from sapag_fast.text.tokenizer import encode, train_tokenizer

Pair = tuple[torch.Tensor, torch.Tensor]


def _images(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    count = int(rng.integers(1, 5))
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)


def _right(images: np.ndarray, labels: np.ndarray) -> Callable[[Pair], str | None]:
    def right(value: Pair) -> str | None:
        if value[1].tolist() != labels.tolist():
            return f"labels {value[1].tolist()}, expected {labels.tolist()}"
        return same(value[0].numpy(), images / 255.0, 1e-6)

    return right


def sane(value: Any) -> str | None:
    """Of images and labels."""
    images, labels = value
    if images.dtype != torch.float32 or images.dim() != 4 or len(images) != len(labels):
        return f"{images.dtype} {tuple(images.shape)} with {len(labels)} labels"
    if not bool(((images >= 0) & (images <= 1)).all()) or labels.dtype != torch.int64 or (labels < 0).any():
        return "values outside of [0, 1], or labels below 0"
    return None


def _packed_idx(rng: np.random.Generator, path: Path, values: np.ndarray) -> None:
    content = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def idx(rng: np.random.Generator, folder: Path) -> Sample:
    images, labels = _images(rng, (4, 3))
    end = str(rng.choice(["", ".gz"]))
    path, partner = folder / f"t10k-images-idx3-ubyte{end}", folder / f"t10k-labels-idx1-ubyte{end}"
    _packed_idx(rng, path, images)
    _packed_idx(rng, partner, labels)
    chosen = path if rng.random() < 0.6 else partner
    forged = bool(rng.random() < 0.1)
    if forged:
        head = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 28, 28)
        path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + zeros_deflated(3000) if end else head)
    how = rng.random()
    read: Callable[[], Any] = lambda: read_mnist(folder if how < 0.5 else path)  # noqa: E731
    if how > 0.9:
        return Sample(chosen, lambda: read_idx(chosen), lambda value: None, refusable=forged)
    return Sample(chosen, read, _right(images[:, None], labels), sane, forged)


def cifar(rng: np.random.Generator, folder: Path) -> Sample:
    images, labels = _images(rng, (3, 32, 32))
    hundred = bool(rng.random() < 0.4)
    path = folder / odd_name(rng, ".bin")
    head = labels[:, None].repeat(2 if hundred else 1, 1)
    path.write_bytes(np.concatenate([head, images.reshape(len(images), -1)], 1).tobytes())
    kind = "cifar100" if hundred else "cifar10"
    how = rng.random()
    return Sample(path, lambda: read_cifar(folder if how < 0.3 else path, kind), _right(images, labels), sane)


def svhn(rng: np.random.Generator, folder: Path) -> Sample:
    images, labels = _images(rng, (3, 32, 32))
    path = folder / odd_name(rng, ".mat")
    content = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
    forged = bool(rng.random() < 0.2)
    if forged:
        content["y"] = [
            np.array([[object()]], dtype=object).astype(str),
            np.full((len(labels), 1), 2**63, dtype=np.uint64),
            np.full((len(labels), 1), 1.5),
            np.zeros((0, 1)),
        ][int(rng.integers(4))]
    scipy.io.savemat(path, content, do_compression=bool(rng.random() < 0.5))
    return Sample(path, lambda: read_svhn(path), _right(images, labels), sane, forged)


def arrays(rng: np.random.Generator, folder: Path) -> Sample:
    images, labels = _images(rng, (4, 5))
    path = folder / odd_name(rng, ".npz")
    if rng.random() < 0.3:
        path.write_bytes(_forged_npz(rng, folder))
        return Sample(path, lambda: read_arrays(path), lambda value: None, sane, True, "forged")
    as_float = bool(rng.random() < 0.4)
    kept = images.astype(rng.choice([np.float32, np.float64])) / 255 if as_float else images
    save = np.savez_compressed if rng.random() < 0.5 else np.savez
    order = "F" if rng.random() < 0.3 else "C"
    with path.open("wb") as file:
        save(
            file, images=np.asarray(kept, order=order), labels=labels.astype(rng.choice([np.int64, np.uint8]))
        )
    return Sample(path, lambda: read_arrays(path), _right(images[:, None], labels), sane)


def _forged_npz(rng: np.random.Generator, folder: Path) -> bytes:
    label = npy_header((3,), "<i8") + bytes(24)
    match int(rng.integers(0, 5)):
        case 0:  # honest sizes in no memory
            shape, packed, size = (10**9, 28, 28), zeros_deflated(4000), 4000 << 20
        case 1:
            shape, packed, size = (3, int(rng.choice([2**62, -1, 0])), 28), zeros_deflated(1), 1 << 20
        case 2:
            content = npy_header((3,), "|O") + pickled_code(folder / "canary")
            return zip_of({"images.npy": (content, len(content), 0), "labels.npy": (label, len(label), 0)})
        case 3:
            text = (
                f"{{'descr': open({str(folder / 'canary')!r}, 'w'), 'fortran_order': False, 'shape': (3,)}}"
            )
            content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
            return zip_of({"images.npy": (content, len(content), 0), "labels.npy": (label, len(label), 0)})
        case _:
            labels = rng.choice([np.uint64(2**64 - 1), np.int64(-1)]).reshape(1)
            head = npy_header((1,), labels.dtype.str) + labels.tobytes()
            image = npy_header((1, 2, 2)) + bytes(4)
            return zip_of({"images.npy": (image, len(image), 0), "labels.npy": (head, len(head), 0)})
    head = npy_header(shape)
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    return zip_of({"images.npy": (start + packed, size, 8), "labels.npy": (label, len(label), 0)})


def dataset(rng: np.random.Generator, folder: Path) -> Sample:
    """Any of them, without saying which."""
    make = (idx, cifar, svhn, arrays)[int(rng.integers(4))]
    sample = make(rng, folder)
    target = sample.path if rng.random() < 0.6 or make is idx else folder
    if make is idx and "labels" in sample.path.name:
        target = folder
    sample.read = lambda: read_dataset(target)
    sample.sane = sane
    sample.refusable |= target == folder and make is arrays
    if make is cifar:  # by its size alone, it may be of either sort
        sample.right, sample.refusable = (lambda value: None), True
    sample.words = make.__name__
    return sample


def sentences(rng: np.random.Generator, folder: Path) -> Sample:
    count = int(rng.integers(1, 6))
    words = ["plain words", "ü ß 😀", "a\u2028b", "=1+1", '"quoted', "nul\0", "x" * 5000]
    texts = [str(rng.choice(words)) for _ in range(count)]
    labels = [int(n) for n in rng.integers(0, 3, count)]
    path = folder / odd_name(rng, ".tsv")
    lines = [f"{label}\t{text}" for text, label in zip(texts, labels, strict=True)]
    if rng.random() < 0.3:
        lines[int(rng.integers(count))] = str(
            rng.choice(["9" * 5000 + "\tx", "٣\tx", "\tx", "1", "-1\tx", "1\t "])
        )
        texts = []
    end = str(rng.choice(["\n", "\r\n"]))
    content = ("label\tsentence" + end + end.join(lines)).encode()
    path.write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + content)

    def right(value: tuple[list[str], torch.Tensor]) -> str | None:
        same = value[0] == [text.strip() for text in texts] and value[1].tolist() == labels
        return None if not texts or same else f"{value[0]!r:.100}, expected {texts!r:.100}"

    return Sample(path, lambda: read_sentences(path), right, _sane_sentences, not texts)


def _sane_sentences(value: tuple[list[str], torch.Tensor]) -> str | None:
    texts, labels = value
    return None if len(texts) == len(labels) and all(t.strip() for t in texts) else "empty sentences"


def tokens(rng: np.random.Generator, folder: Path) -> Sample:
    """A tokenizer of the sentences that a file holds, and their tokens."""
    sample = sentences(rng, folder)
    read = sample.read

    def both() -> tuple[list[str], torch.Tensor, torch.Tensor]:
        texts, _ = read()
        tokenizer = train_tokenizer(texts, 200)
        return texts, *encode(tokenizer, texts, 2)

    def whole(value: tuple[list[str], torch.Tensor, torch.Tensor]) -> str | None:
        texts, ids, kept = value
        good = ids.shape == (len(kept), 2) and bool((ids >= 0).all()) and bool((kept < len(texts)).all())
        return None if good else f"tokens {ids.tolist()} of sentences {kept.tolist()}"

    sample.read, sample.right, sample.sane = both, whole, whole
    return sample
