"""breaching as its users run it: the installed package and its own attacks."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

from torch import nn

from benchmarks.breaching_import import import_breaching
from benchmarks.peers.contender import Found, label_of
from benchmarks.peers.victims import Victims

__all__ = ["Breaching"]

logging.getLogger("breaching").setLevel(logging.WARNING)


class Breaching:
    """`OptimizationBasedAttacker` with its own configuration ``invertinggradients`` (24,000 iterations), the
    label from the last layer's gradient, in normalised pixels from a standard normal start. Its total
    variation takes images of three channels only.
    """

    name = "breaching"
    budgets = (300, 1000, 24_000)
    at_once = 1
    channels = (3,)

    def run(self, victims: Victims, chosen: Sequence[int], budget: int) -> list[Found]:
        breaching = import_breaching()
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            settings = breaching.get_attack_config("invertinggradients")
        settings.optim.max_iterations = budget
        model = victims.normalised()
        metadata = SimpleNamespace(
            shape=list(victims.shape),
            mean=victims.mean.flatten().tolist(),
            std=victims.deviation.flatten().tolist(),
            modality="vision",
        )
        server = [
            {
                "parameters": [p.detach() for p in model.parameters()],
                "buffers": list(model.buffers()),
                "metadata": metadata,
            }
        ]
        attacker = breaching.attacks.prepare_attack(model, nn.CrossEntropyLoss(), settings)
        found = []
        for victim in chosen:
            target = victims.gradient(victim)
            known = {"num_data_points": 1, "labels": label_of(target), "local_hyperparams": None}
            shared = {"gradients": target, "buffers": None, "metadata": known}
            result, stats = attacker.reconstruct(server, [shared], {}, victims.starts[victim])
            found.append(Found(model.pixels(result["data"].detach())[0], len(stats["Trial_0_Val"])))
        return found
