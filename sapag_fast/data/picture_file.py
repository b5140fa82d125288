"""One image file, opened and decoded: which formats, how large, and which value is white."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sapag_fast.data.conventions import DataError, check_unpacked
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.runtime.extras import needs

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "decoded", "opened_image"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})

# Pillow starts other programs for some of the other formats, whatever the file is called.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_SIGNED, _WHITE_IS_ZERO = 2, 0


@contextmanager
def opened_image(file: Path) -> Iterator[Image]:
    """Open an image; its pixels have not been read.

    Raises
    ------
    ValueError
        Naming the file, for what is no image, is damaged, or is larger than memory or belief bears.
    """
    with needs("data", "image files"):
        from PIL import Image, UnidentifiedImageError

    regular_file(file, "image")
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            pixels = opened.width * opened.height
            size, unpacked = file.stat().st_size, pixels * len(opened.getbands())
            check_unpacked(file, size, unpacked, held=4 * unpacked)
            yield opened
    except DataError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"image {shown(file)}: not an image file that can be read") from None
    except Exception as error:  # Pillow's readers raise anything for damaged files
        reason = str(error) or type(error).__name__
        raise ValueError(f"image {shown(file)}: {reason.replace(str(file), shown(file))}") from None


def decoded(opened: Image, channels: int) -> Image:
    """Decode to grey (1 channel) or colour (3), the right way up.

    Whatever is transparent shows the colour that the file gives it.

    Returns
    -------
    Image
        Of mode L or RGB, 0 to 255; where the file has more than 8 bits of grey of mode F, 0 to 1.

    Raises
    ------
    ValueError
        For numbers that do not say which of them is white, and for floating-point ones outside [0, 1]; the
        message says the mode and the values.
    """
    with needs("data", "image files"):
        from PIL import Image, ImageOps

    signed = opened.format == "TIFF" and _SIGNED in _tag(opened, _SAMPLE_FORMAT, 1)
    upright = ImageOps.exif_transpose(opened)
    if opened.mode[0] not in "IF" and not signed:
        return upright.convert("L" if channels == 1 else "RGB")
    values = np.asarray(upright)
    white = None if signed else _white(opened)
    low, high = values.min(), values.max()
    if white is None or not (low >= 0 and high <= white):  # also where one is nan
        expected = "0 to 1" if opened.mode == "F" else "8 or 16 bits without a sign, which say what is white"
        raise ValueError(f"mode {opened.mode} with values from {low} to {high}; expected {expected}")
    scaled = values.astype(np.float32) / np.float32(white)
    if opened.format == "TIFF" and _WHITE_IS_ZERO in _tag(opened, _PHOTOMETRIC, 1):
        scaled = 1 - scaled
    return Image.fromarray(scaled)


def _white(opened: Image) -> int | None:
    """The value of white where grey has more than 8 bits; None where the file does not say it."""
    if opened.mode == "F":
        return 1
    if opened.format == "TIFF":
        return 2 ** _tag(opened, _BITS, 16)[0] - 1 if opened.mode != "I" else None
    return 65535 if opened.mode != "I" or opened.format in ("PNG", "PPM") else None


def _tag(opened: Image, number: int, usual: int) -> tuple[int, ...]:
    """A tag of a TIFF file."""
    value = opened.tag_v2.get(number, usual)  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) else (value,)
