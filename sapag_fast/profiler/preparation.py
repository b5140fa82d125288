"""An attack to profile: that of `recover` on a model, against the gradient of one random input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast import checks as check
from sapag_fast.runtime.randomness import seeded
from sapag_fast.search.box import box_of
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import attack_on
from sapag_fast.search.run import Run
from sapag_fast.search.setup import Setup, set_up
from sapag_fast.search.starts import make_start, recovery_generator
from sapag_fast.victim.losses import CrossEntropy, Loss
from sapag_fast.victim.searchable import NoSecondDerivativeError, causes_named, searchable

__all__ = ["Preparation", "prepare_profile"]

_NOT_PROFILED = ("restarts", "stop_certified", "stop_distance", "max_memory", "at_once")


@dataclass(frozen=True, eq=False)
class Preparation:
    """The victim and the settings, from which `run` makes as many recoveries as asked for.

    Attributes
    ----------
    setup : Setup
        The victim's network with recipe and distance.
    target : tuple of Tensor or None
        One gradient ``[1, *shape]`` for each trainable parameter.
    label : Tensor
        ``[1, B, ...]``.
    """

    setup: Setup
    target: tuple[Tensor | None, ...]
    label: Tensor

    @property
    def device(self) -> torch.device:
        """Where the attack runs."""
        return self.setup.device

    def run(self, recoveries: int) -> Run:
        """Make so many restarts against the one target, at their starts.

        To be made and stepped within `conditions`.
        """
        problem = self.setup.problem(self.target, restarts=recoveries)
        attack = attack_on(self.setup, problem, self.label[0])
        return Run(attack.search(), graphs=False)

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of an attack, with its random numbers seeded and the global ones given back."""
        with seeded(self.setup.options.seed, self.device), self.setup.conditions():
            yield


def prepare_profile(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None,
    batch_size: int,
    labels: Tensor | Sequence[int] | None,
    options: SearchOptions,
    device: torch.device | str | None,
) -> Preparation:
    """Check the arguments and make the target.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    _check_options(options)
    found = searchable(model)
    chosen, _ = check.check_model(found.model, device)
    with seeded(options.seed, chosen), sdpa_kernel(SDPBackend.MATH):
        setup = set_up(
            found, input_shape, loss_fn=loss_fn, batch_size=batch_size, device=device, options=options
        )
        generator = recovery_generator(options.seed, 0, -1)
        bounds = box_of(options.bounds, setup.input_shape)
        truth = make_start("uniform", setup.shape, bounds, generator).to(setup.device, setup.dtype)
        label = _labels(labels, setup, generator)
        try:
            with causes_named():
                gradients = setup.problem([None] * len(setup.network.names)).gradients(truth, label[0])
        except NoSecondDerivativeError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"loss_fn, labels: no gradient of the loss of outputs {list(setup.probe.output.shape)} and "
                f"labels {list(label[0].shape)} ({type(error).__name__}: {error})"
            ) from error
        _ = setup.bases
    target = tuple(None if g is None else g.detach()[None] for g in gradients)
    return Preparation(setup, target, label)


def _check_options(options: SearchOptions) -> None:
    """Refuse what a profile would ignore: it runs `recoveries` restarts, step by step, to no end."""
    defaults = {field.name: field.default for field in fields(SearchOptions)}
    for name in _NOT_PROFILED:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"{name}: a profile does not take it; `recoveries` says how many run at once")
    if isinstance(options.start, Tensor):
        raise ValueError("start: a profile takes kinds of start, found a tensor")


def _labels(labels: Tensor | Sequence[int] | None, setup: Setup, generator: torch.Generator) -> Tensor:
    """``[1, B, ...]``: given, or random ones of the loss's kind."""
    classes, output, loss = setup.probe.classes, setup.probe.output, setup.loss
    if labels is None:
        if not isinstance(loss, CrossEntropy):
            drawn = torch.randn(loss.joint_shape(output), generator=generator)
            targets = loss.joint_targets(drawn.to(setup.device, setup.dtype))
            return loss.decided(targets, torch.zeros_like(output))[None]
        if classes is None:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"labels: random ones need a model whose output is [B, classes], found {found}; give labels="
            )
        return torch.randint(classes, (1, setup.batch_size), generator=generator).to(setup.device)
    given = check.check_labels(
        labels, victims=1, batch_size=setup.batch_size, batched=False, classes=None, device=setup.device
    )
    return loss.fitted(given, output)
