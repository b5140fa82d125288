"""What in a victim's mode makes a recovery worse than it looks: dropout, BatchNorm, averages.

None of it is an error, and none shows in the result: a network that draws random numbers gives another
gradient at every evaluation than the client's, BatchNorm in training mode hides the batch's own mean and
variance, and a mean over mini-batches is not one batch's gradient. Random modules are found by running the
network twice: each module whose output differs for the same input.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves, tree_map

from sapag_fast.runtime.randomness import forked
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.model import VictimModel

__all__ = [
    "AVERAGED_BATCHES",
    "BATCHNORM_TRAINING",
    "DROPOUT_ACTIVE",
    "ORDER",
    "RANDOMNESS",
    "Caution",
    "CautionWarning",
    "averaged_caution",
    "find_cautions",
    "order_caution",
    "silenced",
    "trial_inputs",
    "united",
]

DROPOUT_ACTIVE, BATCHNORM_TRAINING = "dropout-active", "batchnorm-training"
RANDOMNESS, AVERAGED_BATCHES, ORDER = "randomness", "averaged-batches", "order"

_MOST_INPUTS = 64  # of the batch that is tried; of a larger one, two
_MOST_NAMES = 4  # in a message
_ALIKE = 1e-5  # relative difference that may be rounding: some GPU kernels add in any order


class CautionWarning(UserWarning):
    """A `Caution`, where `recover` was called from Python."""


@contextmanager
def silenced() -> Iterator[None]:
    """Let no `CautionWarning` be shown: for callers that show cautions themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        yield


@dataclass(frozen=True)
class Caution:
    """One thing that a recovery's reader has to know, although nothing went wrong.

    Attributes
    ----------
    kind : str
        What it is, for programs: ``dropout-active``, ``randomness``, ``batchnorm-training``,
        ``averaged-batches``, ``order`` (which input was in which mini-batch), ``box`` (values press past
        the bounds), or ``few-digits`` (rounding takes as much of the distance as the inputs do).
    module : str
        Name of the first module that it is about; empty for the model itself and for none.
    message : str
        The same for people, with what to do.
    victims : tuple of int
        Which victims of the recovery it is about; all, where none is named.
    modules : tuple of str
        Names of all the modules; ``""`` is the model itself. Empty where it is no module's doing.
    """

    kind: str
    module: str
    message: str
    victims: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()


def find_cautions(
    network: VictimModel, inputs: Tensor, model: nn.Module | None = None
) -> tuple[Caution, ...]:
    """Look for those of the network's mode; the global random numbers are left as they were.

    Parameters
    ----------
    network : VictimModel
        In the mode in which it will be searched.
    inputs : Tensor
        ``[B, *input_shape]``, anything that the network takes; not zeros, on which dropout does not show.
    model : nn.Module, optional
        The part of the network whose modules are named; None: all of it.
    """
    model = network.module if model is None else model
    named = dict(model.named_modules())
    with forked(inputs.device), torch.no_grad():
        run = _Runs(network, inputs, {module: name for name, module in named.items()})
        watched = {m: n for n, m in named.items() if _normalises_by_batch(m) or _drops(m)}
        called, random = watched, set[str]()
        with suppress(Exception):  # it may not bear these inputs: then by what its modules are
            with _Called(watched) as seen:
                first = run.output(1)
            called = seen.found
            random = set() if _same(first, run.output(2)) else run.random_modules()
    dropping = {name for module, name in called.items() if _drops(module)}
    dropping |= {name for name in random if _is_dropout(named[name])}
    found = (
        (DROPOUT_ACTIVE, dropping),
        (RANDOMNESS, random - dropping),
        (BATCHNORM_TRAINING, {name for m, name in called.items() if _normalises_by_batch(m)}),
    )
    order = {name: place for place, name in enumerate(named)}
    return tuple(_caution(kind, sorted(names, key=order.__getitem__)) for kind, names in found if names)


def averaged_caution(batches: int) -> tuple[Caution, ...]:
    """The caution of a client that averaged the gradients of so many mini-batches; none for one."""
    if batches < 2:
        return ()
    message = (
        f"the gradient is an average over {batches} mini-batches, and is searched as that of one batch: "
        "right only where all are of one size, no weight moved between them, and nothing couples the inputs "
        "of a batch (as BatchNorm in training mode does)"
    )
    return (Caution(AVERAGED_BATCHES, "", message),)


def order_caution(training: LocalTraining, inputs: int, *, joint: bool = False) -> tuple[Caution, ...]:
    """The caution of a client whose mini-batches are known by their size alone; none for whole batches.

    Labels that are searched jointly find the first epoch's.
    """
    batches = training.batches(inputs)
    later = len(training.plan(inputs)) > batches
    if training.order == "given" or batches == 1 or (joint and not later):
        return ()
    first = (
        "the first epoch's are taken to be in the order of the labels, and another order makes recoveries "
        "far worse (labels='joint' finds them); "
    )
    message = (
        f"in which of the client's {batches} mini-batches each input was is not known: "
        f"{'' if joint else first}{'later epochs are searched in the order of the first; ' if later else ''}"
        "order='given' says that the order is known, the same in every epoch"
    )
    return (Caution(ORDER, "", message),)


def united(cautions: Iterable[Caution]) -> tuple[Caution, ...]:
    """Each of them once."""
    return tuple(dict.fromkeys(cautions))


def _caution(kind: str, modules: Sequence[str]) -> Caution:
    where = ", ".join(name or "the model itself" for name in modules[:_MOST_NAMES])
    if len(modules) > _MOST_NAMES:
        where += f" and {len(modules) - _MOST_NAMES} more"
    messages = {
        DROPOUT_ACTIVE: (
            f"dropout is active in {where}: it drops other numbers at every evaluation than it did for the "
            "client, and recoveries are far worse; if the gradient was taken without it, switch it off "
            "(model.eval(), or p = 0)"
        ),
        RANDOMNESS: (
            f"random numbers are drawn in {where}: every evaluation has others than the client had, and "
            "recoveries are far worse; if the gradient was taken without them, switch them off (model.eval())"
        ),
        BATCHNORM_TRAINING: (
            f"BatchNorm takes the batch's own mean and variance in {where}: gradients hardly tell these of "
            "the inputs; if the gradient was taken with running statistics, call model.eval()"
        ),
    }
    return Caution(kind, modules[0], messages[kind], modules=tuple(modules))


def _is_dropout(module: nn.Module) -> bool:
    """Whether a module that draws random numbers is some kind of dropout, by its class."""
    name = type(module).__name__.lower()
    attention = isinstance(module, nn.MultiheadAttention | nn.RNNBase)
    return attention or isinstance(module, _DropoutNd) or "drop" in name or name == "stochasticdepth"


def _drops(module: nn.Module) -> bool:
    """Whether a module of PyTorch's own has dropout switched on: few numbers may pass it unchanged."""
    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


def _normalises_by_batch(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


class _Called:
    """Those of the given modules that run inside, with their names."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names, self.found = names, dict[nn.Module, str]()
        self._stack = ExitStack()

    def __enter__(self) -> _Called:
        for module in self.names:
            hook = module.register_forward_pre_hook(self._note)
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.found[module] = self.names[module]


class _Runs:
    """Forward passes of one network on one batch, each with a seed of its own."""

    def __init__(self, network: VictimModel, inputs: Tensor, names: dict[nn.Module, str]) -> None:
        self.network, self.inputs, self.names = network, inputs, names

    def output(self, seed: int) -> Any:
        """Run once."""
        torch.manual_seed(seed)
        return self.network.output(self.network.parameters, self.network.fresh_buffers(), self.inputs)

    def random_modules(self) -> set[str]:
        """Names of the innermost modules that give or hand on different numbers in two runs.

        In the second run what enters and what leaves each module is replaced by that of the first, so that
        nothing behind a random module differs for its sake.
        """
        recorded: list[tuple[nn.Module, Any]] = []
        self._hooked(1, lambda module, values, _: recorded.append((module, tree_map(_copied, values))))
        left, random = iter(recorded), set[nn.Module]()

        def replaced(module: nn.Module, values: Any, owner: nn.Module) -> Any:
            before, first = next(left, (None, None))
            if before is not module:  # another way through the network: what differs from here is not known
                return None
            if not _same(first, values):
                random.add(owner)
            return tree_map(_copied, first)

        self._hooked(2, replaced)
        return {self.names.get(module, "") for module in random} or {""}

    def _hooked(self, seed: int, hook: Callable[[nn.Module, Any, nn.Module], Any]) -> None:
        """Run once, and have `hook` see and replace what enters and what leaves each module.

        Last it is told whose doing that is: of what enters, the module around.
        """
        root = self.network.module
        around = [root]

        def enters(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            owner = around[-1]
            around.append(module)
            return hook(module, (given, named), owner)

        def leaves(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
            around.pop()
            return hook(module, output, module)

        with ExitStack() as stack:
            for module in root.modules():
                entry = module.register_forward_pre_hook(enters, with_kwargs=True)
                stack.callback(entry.remove)
                stack.callback(module.register_forward_hook(leaves).remove)
            self.output(seed)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _tensors(output: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


def _same(first: Any, second: Any) -> bool:
    """Whether two outputs hold the same numbers but for rounding."""
    ours, theirs = list(_tensors(first)), list(_tensors(second))
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return False
    return all(_close(a, b) for a, b in zip(ours, theirs, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    a, b = a.nan_to_num(), b.nan_to_num()
    return bool((a - b).abs().max() <= _ALIKE * a.abs().max())


def trial_inputs(network: VictimModel, input_shape: Sequence[int], batch_size: int) -> Tensor:
    """Uniform numbers on which a network may be tried, ``[B, *input_shape]``; two inputs where B is large."""
    like = next(iter(network.parameters.values()))
    count = batch_size if batch_size <= _MOST_INPUTS else 2
    drawn = torch.rand(count, *input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(like.device, like.dtype)
