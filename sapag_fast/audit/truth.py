"""The true images of an audit's victims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sapag_fast import data
from sapag_fast.files.gradient_file import batch_name
from sapag_fast.files.victims import ListedVictim
from sapag_fast.reports.pictures import is_image

__all__ = ["Truth"]


class Truth:
    """The true images of listed victims, read when they are asked for.

    Batches of images are the victims' whose names they have (see `batch_name`); where a victim's name is
    missing, all images are dealt out in order.

    Raises
    ------
    ValueError
        Where neither way fits, or a victim's input is not an image.
    """

    def __init__(self, paths: Sequence[Path], victims: Sequence[ListedVictim]) -> None:
        files = data.image_files(paths)
        readable = [victim for victim in victims if victim.fault is None]
        for victim in readable:
            if not is_image(victim.input_shape):
                raise ValueError(f"--truth: the input of {victim.name!r} is not an image of 1 or 3 channels")
        sizes = {victim.batch_size for victim in readable} or {1}
        usual = sizes.pop() if len(sizes) == 1 else None
        self._files: dict[str, list[Path]] = {}
        if usual is not None:
            batches = [files[at : at + usual] for at in range(0, len(files), usual)]
            named = {batch_name(batch): batch for batch in batches if len(batch) == usual}
            if all(victim.name in named for victim in victims):
                self._files = {victim.name: named[victim.name] for victim in victims}
                return
        counts = [victim.batch_size if victim.fault is None else usual or 1 for victim in victims]
        if len(files) != sum(counts):
            raise ValueError(
                f"--truth gives {len(files)} images, whose names are not the victims'; the gradients stand "
                f"for {sum(counts)}"
            )
        remaining = iter(files)
        for victim, count in zip(victims, counts, strict=True):
            self._files[victim.name] = [next(remaining) for _ in range(count)]

    def of(self, victim: ListedVictim) -> Tensor:
        """Read ``[B, *input_shape]``. Raises ValueError for an image that cannot be read."""
        return data.read_images(self._files[victim.name], victim.input_shape)
