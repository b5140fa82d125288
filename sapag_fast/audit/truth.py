"""What is true of an audit's victims: their images, where these are given, and the labels in their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sapag_fast import data
from sapag_fast.files.fault import fault_of, guarded
from sapag_fast.files.gradient_file import batch_name
from sapag_fast.files.victims import ListedVictim
from sapag_fast.reports.pictures import is_image

__all__ = ["Truth", "true_labels"]


def true_labels(victim: ListedVictim) -> Tensor | None:
    """Give ``[B]``, int64, where the victim's file says them.

    Raises
    ------
    ValueError
        For another number of labels than of inputs, and for numbers that are no classes.
    """
    if victim.labels is None:
        return None
    if len(victim.labels) != victim.batch_size:
        raise ValueError(f"{len(victim.labels)} labels for {victim.batch_size} images")
    if max(victim.labels) > torch.iinfo(torch.int64).max:
        raise ValueError(f"label {max(victim.labels)}: beyond the range of int64")
    return torch.tensor(victim.labels, dtype=torch.int64)


class Truth:
    """The true images of listed victims: all looked at when it is made, read again when they are asked for.

    Batches of images are the victims' whose names they have (see `batch_name`). Where no name fits, all
    images are dealt out in order, which nothing vouches for: `order` says so. A victim without its images, or
    with one that cannot be read, has none.

    Parameters
    ----------
    paths : sequence of Path
        Image files, and folders of them.
    victims : sequence of ListedVictim
    begun : bool
        The audit is under way: whatever is missing now takes the truth from victims, and stops nothing.

    Attributes
    ----------
    faults : dict of str to str
        Why a victim has no truth, by name.
    order : str
        Which image is whose, where only their order tells; else empty.

    Raises
    ------
    ValueError
        Unless `begun`, where there are no images, none fits, or no victim's input is an image.
    """

    def __init__(
        self, paths: Sequence[Path], victims: Sequence[ListedVictim], *, begun: bool = False
    ) -> None:
        self.faults: dict[str, str] = {}
        self._files: dict[str, list[Path]] = {}
        self.order = ""
        readable = [victim for victim in victims if victim.fault is None]
        try:
            images = [victim for victim in readable if is_image(victim.input_shape)]
            if readable and not images:
                name = readable[0].name
                raise ValueError(f"--truth: the input of {name!r} is not an image of 1 or 3 channels")
            there = [path for path in paths if path.exists()] if begun else []
            files = data.image_files(there or paths)
            self._files, in_order = _dealt_out(files, images, victims)
            if in_order:
                self.order = _told(files, victims, self._files)
        except (ValueError, OSError) as error:
            if not begun:
                raise
            self.faults = dict.fromkeys((victim.name for victim in readable), fault_of(error))
            return
        for victim in readable:
            with guarded(victim.name, self.faults):
                self.of(victim)

    def of(self, victim: ListedVictim) -> Tensor:
        """Read ``[B, *input_shape]``. Raises ValueError where there is none, or one cannot be read."""
        if not is_image(victim.input_shape):
            raise ValueError("its input is not an image of 1 or 3 channels")
        if victim.name not in self._files:
            raise ValueError("no true image has its name")
        return data.read_images(self._files[victim.name], victim.input_shape)


def _dealt_out(
    files: list[Path], images: Sequence[ListedVictim], victims: Sequence[ListedVictim]
) -> tuple[dict[str, list[Path]], bool]:
    """Find the files of each victim, by name where one fits, else in order: True."""
    sizes = {victim.batch_size for victim in images}
    usual = sizes.pop() if len(sizes) == 1 else None
    batches = {batch_name(batch): batch for batch in _batches(files, usual)}
    if images and all(victim.name in batches for victim in images):
        return {victim.name: batches[victim.name] for victim in images}, False
    named = _named(files, images)
    counts = [victim.batch_size if victim.fault is None else usual or 1 for victim in victims]
    if len(files) == sum(counts):
        remaining = iter(files)
        in_order = {
            victim.name: [next(remaining) for _ in range(count)]
            for victim, count in zip(victims, counts, strict=True)
        }
        # Some names may fit by chance; where they stand elsewhere, names tell more than the order.
        if all(in_order[name] == batch for name, batch in named.items()):
            return in_order, len(named) < len(images)
    if not named:
        raise ValueError(
            f"--truth gives {len(files)} images, whose names are not the victims'; the gradients stand for "
            f"{sum(counts)}"
        )
    return named, False


def _told(files: list[Path], victims: Sequence[ListedVictim], dealt: dict[str, list[Path]]) -> str:
    """Say how images were dealt out in order, and where numbers in their names are in another order."""
    pairs = [f"{dealt[victim.name][0].name} for {victim.name}" for victim in victims]
    shown = ", ".join(pairs[:3]) + (f" ... {pairs[-1]}" if len(pairs) > 3 else "")
    words = f"--truth: names do not tell which image is whose, so they are taken in order: {shown}"
    moved = next((a for a, b in zip(files, sorted(files, key=_counted), strict=True) if a != b), None)
    if moved is None or len({file.parent for file in files}) > 1:
        return words
    return f"{words}; by the numbers in their names, {moved.name} would come elsewhere: check the pairs"


def _counted(file: Path) -> list[tuple[int, str]]:
    """The key of an order in which 2 comes before 10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _batches(files: list[Path], size: int | None) -> Iterator[list[Path]]:
    if size is not None and len(files) % size == 0:  # else one is missing, and names of batches have moved
        yield from (files[at : at + size] for at in range(0, len(files), size))


def _named(files: Iterable[Path], victims: Iterable[ListedVictim]) -> dict[str, list[Path]]:
    """Find the files of those victims whose names list them one by one."""
    by_stem: dict[str, list[Path]] = {}
    for file in files:
        by_stem.setdefault(file.stem, []).append(file)
    found = {}
    for victim in victims:
        stems = [victim.name] if victim.batch_size == 1 else victim.name.split("+")
        batch = [by_stem[stem][0] for stem in stems if len(by_stem.get(stem, ())) == 1]
        if len(batch) == len(stems) == victim.batch_size:
            found[victim.name] = batch
    return found
