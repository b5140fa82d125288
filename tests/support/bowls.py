"""A matching without a network: bowls that searches descend, and a search of them."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import Hooks, run_search
from sapag_fast.search.run import Search

SIZE = 6
SHAPE = (1, SIZE, SIZE)
_OPTIONS = {"rows", "checkpoint", "check_every", "graphs"}
_HOOKS = {field.name for field in fields(Hooks)}


class Bowls:
    """Row r's distance is a bowl around its victim's centre; keeps what it was told and asked.

    Above `bad_above` it is not a number, more than `most_rows` at once are out of memory, and a surrogate's
    sharpness is added to it.
    """

    mode = "bowls"

    def __init__(self, victims, *, bad_above=torch.inf, most_rows=None, height=1.0):
        g = torch.Generator().manual_seed(0)
        self.centres = torch.rand(victims, SIZE * SIZE, generator=g, dtype=torch.float64)
        self.bad_above, self.most_rows, self.height = bad_above, most_rows, height
        self.seen = []
        self.sharpness = []

    @property
    def evaluated(self):
        return sum(map(len, self.seen))

    def retarget(self, victims):
        self.victims = victims

    def value_and_gradient(self, inputs, labels, sharpness=None):
        rows = len(self.victims)
        assert inputs.shape[0] == rows == labels.shape[0]
        if self.most_rows is not None and rows > self.most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(self.victims.tolist())
        away = inputs.flatten(1) - self.centres[self.victims]
        scale = self.height * torch.linspace(1, 20, away.shape[1], dtype=away.dtype)
        value = (scale * away.square()).sum(1) + (0.0 if sharpness is None else sharpness)
        value = torch.where(inputs.flatten(1).amax(1) > self.bad_above, torch.nan, value)
        return value, (2 * scale * away).view_as(inputs), None


def drawn_starts(tasks):
    """``[T, 1, *SHAPE]``, uniform."""
    g = torch.Generator().manual_seed(1)
    return torch.rand(tasks, 1, *SHAPE, generator=g, dtype=torch.float64)


def search_bowls(matching, starts, *, recipe, steps, restarts, bases=("pixel",), labels=None, **options):
    """`run_search`, with the fields of `Search` and of `Hooks` among its own arguments."""
    hooks = Hooks(**{name: options.pop(name) for name in _HOOKS & options.keys()})
    of_run = {name: options.pop(name) for name in _OPTIONS & options.keys()}
    search = Search(
        matching=matching,
        starts=starts,
        labels=torch.zeros(len(starts), 1, dtype=torch.long) if labels is None else labels,
        recipe=replace(recipe, steps=steps),
        bases=[make_basis(name, SHAPE, dtype=torch.float64) for name in bases],
        restarts=restarts,
        **({"bounds": None} | options),
    )
    return run_search(search, hooks=hooks, **of_run)
