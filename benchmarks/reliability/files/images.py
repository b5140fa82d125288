"""Image files of every mode and size, class folders of them, truth."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.reliability.files.damage import odd_name
from benchmarks.reliability.files.sample import Sample, same
from sapag_fast.audit.truth import Truth
from sapag_fast.data import read_class_folders, read_images
from sapag_fast.files.victims import ListedVictim

EIGHT_BITS = {
    "L": (".png", ".bmp", ".tif", ".gif", ".webp", ".jpg"),
    "RGB": (".png", ".bmp", ".tif", ".webp", ".jpg"),
    "1": (".png", ".bmp", ".tif"),
    "P": (".png", ".gif", ".bmp"),
    "LA": (".png",),
    "RGBA": (".png", ".tif", ".webp"),
    "CMYK": (".tif", ".jpg"),
    "YCbCr": (".jpg", ".tif"),
}
LOSSY = (".webp", ".jpg")
WIDE = {"I;16": (".png", ".tif"), "I": (".tif",), "F": (".tif",)}


def picture(
    rng: np.random.Generator, folder: Path, name: str | None = None
) -> tuple[Path, np.ndarray, bool, str]:
    """A file, its grey values [H, W] in [0, 1], whether a reader may refuse it, and what it is."""
    height, width = (int(n) for n in rng.integers(1, 12, 2))
    grey = rng.integers(0, 256, (height, width), dtype=np.uint8)
    wide = bool(rng.random() < 0.25)
    table = WIDE if wide else EIGHT_BITS
    mode = str(rng.choice(list(table)))
    suffix = str(rng.choice(table[mode]))
    path = folder / (odd_name(rng, suffix) if name is None else f"{name}{suffix}")
    words = f"{mode} {suffix} {width}x{height}"
    if mode == "F":
        Image.fromarray((grey / 255).astype(np.float32)).save(path)
    elif mode == "I":
        Image.fromarray(grey.astype(np.int32) * 257).save(path)
    elif wide:
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        image = Image.fromarray(grey)
        if mode == "1":
            image = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1")
            grey = (grey > 127).astype(np.uint8) * 255
        colour = image if mode in ("1", "L", "LA", "P") else image.convert("RGB")
        image = colour if colour.mode == mode else colour.convert(mode)
        if suffix == ".webp":
            image.save(path, lossless=True)
        else:
            image.save(path, **({"quality": 100} if suffix == ".jpg" else {}))
    return path, grey / 255.0, wide, words


def own_image(rng: np.random.Generator, folder: Path) -> Sample:
    if rng.random() < 0.15:
        path = folder / odd_name(rng, str(rng.choice([".png", ".gif", ".tif", ".bmp"])))
        path.write_bytes(_bomb(rng))
        shape = (int(rng.choice([1, 3])), 4, 4)
        return Sample(path, lambda: read_images(path, shape), lambda value: None, _sane, True, "a bomb")
    path, grey, wide, words = picture(rng, folder)
    channels = int(rng.choice([1, 3]))
    shape = (
        (channels, *grey.shape)
        if rng.random() < 0.7
        else (channels, *(int(n) for n in rng.integers(1, 9, 2)))
    )

    def right(value: torch.Tensor) -> str | None:
        if shape[1:] != grey.shape:
            return None
        slack = 0.12 if path.suffix in LOSSY or "CMYK" in words or "YCbCr" in words else 0.009
        return same(value[0].numpy(), np.broadcast_to(grey, shape), slack)

    return Sample(path, lambda: read_images(path, shape), right, _sane, wide, f"{words} as {shape}")


def _sane(value: torch.Tensor) -> str | None:
    if value.dtype != torch.float32 or not bool(((value >= 0) & (value <= 1)).all()):
        return f"{value.dtype} with values outside of [0, 1]"
    return None


def _bomb(rng: np.random.Generator) -> bytes:
    """A small file that says it is a large image."""
    side = int(rng.choice([9000, 40_000, 2**31 - 1]))
    match int(rng.integers(0, 3)):
        case 0:
            chunks = [
                (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
                (b"IDAT", zlib.compress(bytes(1 << 20))),
                (b"IEND", b""),
            ]
            return b"\x89PNG\r\n\x1a\n" + b"".join(
                struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks
            )
        case 1:
            short = min(side, 65_535)
            return b"GIF89a" + struct.pack("<HHBBB", short, short, 0, 0, 0) + b",\0\0\0\0" + struct.pack(
                "<HHB", short, short, 0
            ) + b"\x02\x02\x44\x01\x00;"  # fmt: skip
        case _:
            return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack(
                "<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0
            )  # fmt: skip


def class_folders(rng: np.random.Generator, folder: Path) -> Sample:
    root = folder / "set"
    names = [str(n) for n in rng.permutation(["a", "10", "ü", "new\nline", "[x]"])[: int(rng.integers(1, 4))]]
    path, wide = folder, False
    for name in names:
        (root / name).mkdir(parents=True)
        for position in range(int(rng.integers(1, 3))):
            path, _, is_wide, _ = picture(rng, root / name, f"p{position}")
            wide |= is_wide
    shape = (1, 3, 3)
    count = sum(1 for file in root.rglob("*") if file.is_file())

    def right(value: tuple[torch.Tensor, torch.Tensor]) -> str | None:
        images, labels = value
        expected = [at for at, name in enumerate(sorted(names)) for _ in (root / name).iterdir()]
        if len(images) != count or labels.tolist() != expected:
            return f"{len(images)} images with labels {labels.tolist()}, expected {expected}"
        return None

    return Sample(
        path, lambda: read_class_folders(root, input_shape=shape), right, lambda v: _sane(v[0]), wide
    )


def truth(rng: np.random.Generator, folder: Path) -> Sample:
    """Images of three victims, of which one is damaged: the others' are still told."""
    paths, grey = [], []
    for name in ("a", "b", "c"):
        while True:
            path, values, wide, _ = picture(rng, folder, name)
            if not wide and path.suffix not in LOSSY:
                break
            path.unlink()
        paths.append(path)
        grey.append(values)
    listed = [
        ListedVictim(name, folder, None, 0, input_shape=(1, *g.shape))
        for name, g in zip("abc", grey, strict=True)
    ]

    def read() -> list[torch.Tensor | str]:
        known = Truth([folder], listed)
        found: list[torch.Tensor | str] = []
        for victim in listed:
            try:
                found.append(known.of(victim))
            except ValueError as error:
                found.append(str(error))
        return found

    def sane(found: list[torch.Tensor | str]) -> str | None:
        wrong = [str(value) for value in found[1:] if not isinstance(value, torch.Tensor)]
        return f"victims whose truth is whole have none: {wrong}" if wrong else None

    def right(found: list[torch.Tensor | str]) -> str | None:
        first = found[0]
        return first if isinstance(first, str) else same(first[0].numpy(), grey[0][None], math.inf)

    return Sample(paths[0], read, right, sane, says="--truth")
