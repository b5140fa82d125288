"""What is true of an audit's victims: their images, where these are given, and the labels in their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sapag_fast import data
from sapag_fast.audit.dealing import Dealt, ambiguous, dealt_out, told
from sapag_fast.files.fault import fault_of, guarded
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
    images are dealt out in order, which nothing vouches for: `order` says so. A victim without its images,
    with one whose name another image has, too, or with one that cannot be read, has none.

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
        self._files: Dealt = {}
        self._ambiguous: dict[str, str] = {}
        self.order = ""
        readable = [victim for victim in victims if victim.fault is None]
        try:
            images = [victim for victim in readable if is_image(victim.input_shape)]
            if readable and not images:
                name = readable[0].name
                raise ValueError(f"--truth: the input of {name!r} is not an image of 1 or 3 channels")
            there = [path for path in paths if path.exists()] if begun else []
            files = data.image_files(there or paths)
            self._files, in_order = dealt_out(files, images, victims)
            self._ambiguous = ambiguous(files, images)
            if in_order:
                self.order = told(files, victims, self._files)
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
            raise ValueError(self._ambiguous.get(victim.name, "no true image has its name"))
        return data.read_images(self._files[victim.name], victim.input_shape)
