"""The global random numbers of the CPU and of one GPU: forked, seeded, kept and restored.

The generators belong to the process, and so do the switches of torch that searches turn: one thread at a time
holds them, and others wait. So a seed gives the same numbers whatever other threads do with this package.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["forked", "random_state", "resumed", "seeded", "set_random_state"]

_holder = threading.RLock()


def _unheld() -> None:
    """In a child process the thread that held the generators is gone."""
    global _holder
    _holder = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unheld)


@contextlib.contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were, whatever the block draws; other threads wait for its end.

    Parameters
    ----------
    device : torch.device
        The CPU's generator is kept always, that of `device` too where it is a GPU.
    """
    with _holder, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators for the block, then give them back as they were.

    Parameters
    ----------
    seed : int
        Of all generators.
    device : torch.device
        The CPU's generator is given back always, that of `device` too where it is a GPU.
    """
    with forked(device):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def resumed(state: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Go on from a `random_state` in the block, then give the global generators back as they were.

    Parameters
    ----------
    state : mapping of str to Tensor
        What `random_state` returned.
    device : torch.device
        As for `random_state`.
    """
    with forked(device):
        set_random_state(state, device)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Copy the state of the CPU's generator, and of the device's where that is a GPU.

    Returns
    -------
    dict of str to Tensor
        ``cpu`` and, for a GPU, ``cuda``; uint8.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on from a `random_state`; without ``cuda`` in it the device's generator stays as it is.

    Parameters
    ----------
    state : mapping of str to Tensor
        What `random_state` returned.
    device : torch.device
        As for `random_state`.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
