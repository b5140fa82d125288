"""Which true images are whose: by the names of images and victims where these tell, else by their order."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sapag_fast.audit.manifest import some
from sapag_fast.files.gradient_file import batch_name
from sapag_fast.files.victims import ListedVictim

__all__ = ["ambiguous", "dealt_out", "told"]

Dealt = Mapping[str, Sequence[Path]]
"""Image files by the name of their victim."""

_Item = TypeVar("_Item")


def dealt_out(
    files: Sequence[Path], images: Sequence[ListedVictim], victims: Sequence[ListedVictim]
) -> tuple[Dealt, bool]:
    """Find the files of each victim, by name where one fits, else in order: True.

    Parameters
    ----------
    files : sequence of Path
    images : sequence of ListedVictim
        The victims whose inputs are images.
    victims : sequence of ListedVictim
        All.

    Raises
    ------
    ValueError
        Where neither names nor numbers fit.
    """
    usual = _usual(images)
    batches = _named_batches(files, images, usual)
    if images and all(victim.name in batches for victim in images):
        return {victim.name: batches[victim.name] for victim in images}, False
    named = _named(files, images)
    doubtful = ambiguous(files, images)
    counts = [victim.batch_size if victim.fault is None else usual or 1 for victim in victims]
    if len(files) == sum(counts) and not doubtful:
        in_order = _in_order(files, victims, counts)
        # Some names may fit by chance; where they stand elsewhere, names tell more than the order.
        if all(in_order[name] == batch for name, batch in named.items()):
            return in_order, len(named) < len(images)
    if not named and doubtful:
        name, reason = next(iter(doubtful.items()))
        raise ValueError(f"--truth: no name tells which image is whose; of {name!r}, {reason}")
    if not named:
        raise ValueError(
            f"--truth gives {len(files)} images, whose names are not the victims'; the gradients stand for "
            f"{sum(counts)}"
        )
    return named, False


def ambiguous(files: Iterable[Path], victims: Iterable[ListedVictim]) -> dict[str, str]:
    """Find the victims, of those whose names list their images, that have several images of one name: why."""
    by_stem = _by_stem(files)
    found = {}
    for victim in victims:
        several = [
            file for stem in _stems(victim) if len(by_stem.get(stem, ())) > 1 for file in by_stem[stem]
        ]
        if several:
            found[victim.name] = f"several true images have one name: {some(several)}"
    return found


def told(files: Sequence[Path], victims: Sequence[ListedVictim], dealt: Dealt) -> str:
    """Say how images were dealt out in order, and the first pair that numbers in their names make another."""
    pairs = [f"{dealt[victim.name][0].name} for {victim.name}" for victim in victims]
    shown = ", ".join(pairs[:3]) + (f" ... {pairs[-1]}" if len(pairs) > 3 else "")
    words = f"--truth: names do not tell which image is whose, so they are taken in order: {shown}"
    counted_files = _counted(files, [(file.parent, file.stem) for file in files])
    counted = _counted(victims, [(Path(), victim.name) for victim in victims])
    by_number = _in_order(counted_files, counted, [len(dealt[victim.name]) for victim in counted])
    for victim in victims:
        for taken, other in zip(dealt[victim.name], by_number[victim.name], strict=True):
            if taken != other:
                return (
                    f"{words}; by the numbers in their names, {other.name} (not {taken.name}) would be for "
                    f"{victim.name}: check the pairs"
                )
    return words


def _in_order(
    files: Iterable[Path], victims: Iterable[ListedVictim], counts: Iterable[int]
) -> dict[str, list[Path]]:
    remaining = iter(files)
    return {
        victim.name: [next(remaining) for _ in range(count)]
        for victim, count in zip(victims, counts, strict=True)
    }


def _counted(items: Sequence[_Item], names: Sequence[tuple[Path, str]]) -> list[_Item]:
    """Put those items whose names differ in numbers alone in the order in which 2 comes before 10."""
    places: dict[tuple[Path, str], list[int]] = {}
    for at, (folder, name) in enumerate(names):
        places.setdefault((folder, re.sub("[0-9]+", "0", name)), []).append(at)
    counted = list(items)
    for alike in places.values():
        for at, of in zip(alike, sorted(alike, key=lambda at: _numbers(names[at][1])), strict=True):
            counted[at] = items[of]
    return counted


def _numbers(name: str) -> list[tuple[int, str]]:
    """The key of the numbers in a name, which may be of any length."""
    return [(len(digits), digits) for digits in (d.lstrip("0") for d in re.findall("[0-9]+", name))]


def _usual(images: Sequence[ListedVictim]) -> int | None:
    """The batch size of all, if there is one."""
    sizes = {victim.batch_size for victim in images}
    return sizes.pop() if len(sizes) == 1 else None


def _named_batches(files: Sequence[Path], images: Sequence[ListedVictim], size: int | None) -> Dealt:
    """Find the batches by their names, but those of a name, or with an image of a name, that others have.

    Where the batches' names are the victims', each once, each batch is its victim's.
    """
    batches = list(_batches(files, size))
    names = [batch_name(batch) for batch in batches]
    if len(set(names)) == len(names) == len(images) and set(names) == {victim.name for victim in images}:
        return dict(zip(names, batches, strict=True))
    by_stem, counts = _by_stem(files), Counter(names)
    same = {name: batch for name, batch in zip(names, batches, strict=True) if counts[name] == 1}
    return {
        name: batch for name, batch in same.items() if all(len(by_stem[file.stem]) == 1 for file in batch)
    }


def _batches(files: Sequence[Path], size: int | None) -> Iterator[Sequence[Path]]:
    if size is not None and len(files) % size == 0:  # else one is missing, and names of batches have moved
        yield from (files[at : at + size] for at in range(0, len(files), size))


def _named(files: Iterable[Path], victims: Iterable[ListedVictim]) -> dict[str, list[Path]]:
    """Find the files of those victims whose names list them one by one."""
    by_stem = _by_stem(files)
    found = {}
    for victim in victims:
        stems = _stems(victim)
        batch = [by_stem[stem][0] for stem in stems if len(by_stem.get(stem, ())) == 1]
        if len(batch) == len(stems) == victim.batch_size:
            found[victim.name] = batch
    return found


def _stems(victim: ListedVictim) -> list[str]:
    """The names of its images, where its own lists them; else none."""
    stems = [victim.name] if victim.batch_size == 1 else victim.name.split("+")
    return stems if len(stems) == victim.batch_size else []


def _by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by name; one that is given twice is one."""
    by_stem: dict[str, dict[str, Path]] = {}
    for file in files:
        # Path.resolve raises on links in a circle: they fail where the image is read, for its victim alone.
        by_stem.setdefault(file.stem, {}).setdefault(os.path.realpath(file), file)
    return {stem: list(alike.values()) for stem, alike in by_stem.items()}
