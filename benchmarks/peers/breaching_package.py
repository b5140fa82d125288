"""breaching as its users run it: the installed package and its own attacks."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from types import SimpleNamespace

from torch import Tensor, nn

from benchmarks.integrations.breaching_import import import_breaching
from benchmarks.peers.contender import Found, label_of
from benchmarks.peers.victims import Victims
from benchmarks.peers.watch import Watch

__all__ = ["Breaching"]

logging.getLogger("breaching").setLevel(logging.WARNING)


class Breaching:
    """`OptimizationBasedAttacker` with its own configuration ``invertinggradients`` (24,000 iterations), the
    label from the last layer's gradient, in normalised pixels from a standard normal start. Its total
    variation takes images of three channels only.
    """

    name = "breaching"
    budgets = (100, 300, 1000, 24_000)
    at_once = 1
    channels = (3,)

    def run(
        self, victims: Victims, chosen: Sequence[int], budget: int, watches: Sequence[Watch] = ()
    ) -> list[Found]:
        breaching = import_breaching()
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            settings = breaching.get_attack_config("invertinggradients")
        settings.optim.max_iterations = budget
        model = victims.normalised()
        watch: Watch | None = None

        def look(_: nn.Module, given: tuple[Tensor]) -> None:
            # After a search breaching calls the network once more, to score what it has found.
            if watch is not None and watch.evaluations < budget:
                watch.look(model.pixels(given[0].detach())[0])

        if watches:
            model.register_forward_pre_hook(look)  # a function, so that breaching's copies call the same
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
        for victim, own in zip_longest(chosen, watches):
            watch = own
            target = victims.gradient(victim)
            known = {"num_data_points": 1, "labels": label_of(target), "local_hyperparams": None}
            shared = {"gradients": target, "buffers": None, "metadata": known}
            result, stats = attacker.reconstruct(server, [shared], {}, victims.starts[victim])
            found.append(Found(model.pixels(result["data"].detach())[0], len(stats["Trial_0_Val"])))
        return found
