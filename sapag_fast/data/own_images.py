"""The user's own image files, fitted to a network's input."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapag_fast.runtime.extras import needs

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


def read_images(paths: str | Path | Iterable[str | Path], input_shape: tuple[int, ...]) -> Tensor:
    """Image files, or the image files in a folder (by name), as float32 [N, *input_shape] in [0, 1].

    An image of another size is cropped at its centre to the right aspect and resampled. Raises ValueError for
    a missing, unreadable or empty path and for an input shape that is not 1xHxW or 3xHxW.
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
        raise ValueError("no image given")
    return files


def _read_image(file: Path, channels: int, height: int, width: int) -> Tensor:
    with needs("data", "image files"):
        from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise ValueError(f"image {file}: not an image file that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {file}: {error}") from None
    if image.size != (width, height):
        shrinks = image.width >= width and image.height >= height
        method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        image = ImageOps.fit(image, (width, height), method=method)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise ValueError(f"folder {path}: holds no image file ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return files
    if not path.exists():
        raise ValueError(f"image {path}: does not exist")
    return [path]


def _listed(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def _times(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
