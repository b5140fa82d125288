"""Files in MNIST's format."""

import gzip
from pathlib import Path

import numpy as np


def idx_bytes(values: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def write_idx(
    folder: Path, images: np.ndarray, labels: np.ndarray, stem: str = "train", *, zipped: bool = False
) -> Path:
    """Images ``[N, H, W]`` and labels ``[N]``, bytes, under MNIST's names; returns the folder."""
    folder.mkdir(exist_ok=True)
    for what, values in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(values)
        name = f"{stem}-{what}-ubyte" + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return folder
