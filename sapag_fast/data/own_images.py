"""The user's own image files, fitted to a network's input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapag_fast.data.picture_file import IMAGE_SUFFIXES, decoded, opened_image
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.runtime.extras import needs

__all__ = ["image_files", "read_images"]


def read_images(paths: str | Path | Iterable[str | Path], input_shape: tuple[int, ...]) -> Tensor:
    """Image files, or the image files in a folder (by name), as float32 [N, *input_shape] in [0, 1].

    An image of another size is cropped at its centre to the right aspect and resampled. Grey of 16 bits is
    scaled by its own white; floating-point grey must lie in [0, 1]. Raises ValueError for a missing,
    unreadable or empty path, for values whose white is not known, and for an input shape that is not 1xHxW
    or 3xHxW.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(
            f"input shape {_times(input_shape)}: image files give 1xHxW (grey) or 3xHxW (colour) inputs only"
        )
    channels, height, width = input_shape
    return torch.stack([_read_image(file, channels, height, width) for file in image_files(paths)])


def image_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Image files, and those in folders, by name. Raises ValueError for a missing or empty path."""
    files = [file for path in _listed(paths) for file in _image_files(path)]
    if not files:
        raise ValueError("images: no image given")
    return files


def _read_image(file: Path, channels: int, height: int, width: int) -> Tensor:
    with needs("data", "image files"):
        from PIL import Image, ImageOps

    with opened_image(file) as opened:
        image = decoded(opened, channels)
        if image.size != (width, height):
            shrinks = image.width >= width and image.height >= height
            method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
            image = ImageOps.fit(image, (width, height), method=method)
    values = np.asarray(image, dtype=np.float32)
    # Bicubic resampling overshoots; bytes are clipped by Pillow.
    pixels = torch.from_numpy(values.clip(0, 1) if image.mode == "F" else values / 255)
    if pixels.dim() == 2:
        return pixels.expand(channels, height, width)
    return pixels.permute(2, 0, 1).contiguous()


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            held = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"folder {shown(path)}: holds no image file ({held})")
        return files
    return [regular_file(path, "image")]


def _listed(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    if isinstance(paths, str | Path):
        return [Path(paths)]
    if not isinstance(paths, Iterable):
        raise TypeError(f"paths must be a path or several, found {type(paths).__name__}")
    return [Path(path) for path in paths]


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
