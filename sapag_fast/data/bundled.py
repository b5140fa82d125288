"""Small sets of real images that ship inside scikit-learn and scikit-image.

Nothing is downloaded, and the same call always returns the same images.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.data.conventions import Images
from sapag_fast.runtime.extras import needs

# One class a photograph. Each crop (top, left, side) is a square with an object in it, not background alone.
CROPS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "astronaut": ((0, 120, 220), (130, 10, 300), (0, 320, 190)),
    "cat": ((0, 80, 300), (70, 110, 180), (0, 0, 280)),
    "coffee": ((0, 80, 400), (20, 160, 250), (130, 180, 260)),
    "flower": ((80, 150, 300), (0, 120, 427), (120, 200, 200)),
    "motorcycle": ((80, 120, 400), (150, 330, 320), (40, 20, 340)),
    "retina": ((0, 0, 1411), (350, 60, 700), (100, 500, 900)),
    "rocket": ((120, 170, 300), (110, 220, 200), (60, 140, 360)),
    "sky": ((0, 60, 400), (400, 500, 380), (330, 180, 350)),
    "temple": ((20, 30, 350), (0, 0, 427), (110, 60, 240)),
    "tissue": ((0, 0, 400), (200, 160, 300), (60, 80, 420)),
}

# Pixels of a side, and of all images: 1.5 GiB in colour.
_LARGEST, _MOST_PIXELS = 4096, 2**27


def digits(count: int | None = None, size: int = 28) -> Images:
    """Handwritten digits (scikit-learn, 8 × 8), enlarged to [N, 1, size, size].

    Labels 0..9, in the set's own order.
    """
    with needs("data", "bundled digits"):
        from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    chosen = _chosen(len(bunch.images), count, size)
    images = [_resized(bunch.images[i].astype(np.float32) / 16, size) for i in chosen]
    return _stacked(images), torch.as_tensor(bunch.target[chosen], dtype=torch.int64)


def faces(count: int | None = None, size: int = 32) -> Images:
    """Faces (scikit-image's subset of Labelled Faces in the Wild), enlarged to [N, 1, size, size].

    They are 25 × 25 grey. The subset does not say who is who, so each of its 100 faces is a class of its own:
    labels 0..99.
    """
    with needs("data", "bundled faces"):
        from skimage import data

    crops = data.lfw_subset()[:100]  # the second hundred shows no faces
    chosen = _chosen(len(crops), count, size)
    images = [_resized(crops[i].astype(np.float32), size) for i in chosen]
    return _stacked(images), torch.as_tensor(chosen, dtype=torch.int64)


def photographs(count: int | None = None, size: int = 32) -> Images:
    """Square crops of ten colour photographs, area-averaged to [N, 3, size, size].

    The label is the photograph, 0..9.
    """
    names = sorted(CROPS)
    # Round robin over the photographs, so that the first ten crops show ten different ones.
    order = [
        (label, crop)
        for crops in zip(*(CROPS[name] for name in names), strict=True)
        for label, crop in enumerate(crops)
    ]
    chosen = [order[i] for i in _chosen(len(order), count, size)]
    images = []
    for label, (top, left, side) in chosen:
        crop = _photograph(names[label])[top : top + side, left : left + side]
        images.append(_resized(crop, size))
    return _stacked(images), torch.tensor([label for label, _ in chosen], dtype=torch.int64)


SOURCES: dict[str, Callable[..., Images]] = {"digits": digits, "faces": faces, "photographs": photographs}


@cache
def _photograph(name: str) -> np.ndarray:
    """[H, W, 3] uint8."""
    with needs("data", "bundled photographs"):
        from skimage import data
        from sklearn.datasets import load_sample_image

    readers: dict[str, Callable[[], np.ndarray]] = {
        "astronaut": data.astronaut,
        "cat": data.chelsea,
        "coffee": data.coffee,
        "flower": lambda: load_sample_image("flower.jpg"),
        "motorcycle": lambda: data.stereo_motorcycle()[0],
        "retina": data.retina,
        "rocket": data.rocket,
        "sky": data.hubble_deep_field,
        "temple": lambda: load_sample_image("china.jpg"),
        "tissue": data.immunohistochemistry,
    }
    with needs("data", "bundled photographs"):  # the readers import Pillow
        return readers[name]()


def _resized(array: np.ndarray, size: int) -> np.ndarray:
    """[size, size] or [size, size, 3] float32 in [0, 1]; area mean when it shrinks, bicubic when it grows."""
    with needs("data", "bundled images"):
        from PIL import Image

    image = Image.fromarray(array)
    method = Image.Resampling.BOX if image.width >= size else Image.Resampling.BICUBIC
    scale = 255.0 if image.mode == "RGB" else 1.0
    pixels = np.asarray(image.resize((size, size), method), dtype=np.float32) / scale
    return pixels.clip(0, 1)  # bicubic overshoots


def _stacked(images: list[np.ndarray]) -> Tensor:
    stack = torch.from_numpy(np.stack(images))
    return stack[:, None] if stack.ndim == 3 else stack.permute(0, 3, 1, 2).contiguous()


def _chosen(available: int, count: int | None, size: int) -> list[int]:
    count = available if count is None else check.check_count("count", count, most=available)
    check.check_count("size", size, most=_LARGEST)
    if count * size**2 > _MOST_PIXELS:
        raise ValueError(f"count, size: expected at most {_MOST_PIXELS} pixels, found {count} x {size}²")
    return list(range(count))
