"""What a client does before it shares: steps of gradient descent on mini-batches, and the update they make.

With w the parameters before, w' those after the client's steps and r the first step's rate, the client shares
(w - w') / r: after one plain step the gradient, after several of one rate their sum. Whatever the settings,
it is linear in w and in the steps' gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sapag_fast import checks as check

__all__ = ["LocalTraining", "Response", "Step", "checked_rates", "training_of"]

_OPTIMIZERS, _ORDERS = ("sgd",), ("unknown", "given")
_MOST_STEPS = 100_000
_ALIKE = 1e-6


class Step(NamedTuple):
    """One step: its rate, and the inputs of its mini-batch (None: all)."""

    rate: float
    rows: slice | None


class Response(NamedTuple):
    """Of what a client shares: ``parameters`` times its weights, and ``inputs`` each input's part."""

    parameters: float
    inputs: tuple[float, ...]

    @property
    def gradient(self) -> float:
        """How often the mean gradient is in it."""
        return sum(self.inputs)

    @property
    def even(self) -> bool:
        """Whether all inputs count alike."""
        return max(self.inputs) - min(self.inputs) <= _ALIKE * max(self.inputs)


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a client trained before it shared, with torch's ``SGD`` begun anew and one set of settings.

    Attributes
    ----------
    rate : float or sequence of float
        The learning rate, or one for each step or each epoch: the schedule. The shared update is divided by
        the first.
    steps : int or None
        Steps in all; None: as many as the epochs have.
    epochs : int or None
        Passes over all inputs; None: one, unless steps are given.
    batch_size : int or None
        Inputs of a mini-batch, in their order; an epoch's last one may be smaller. None: all.
    order : str
        ``given``: the inputs, and labels that are given, are in the order in which every epoch took them.
        ``unknown``: they are searched as if they were, and a `Caution` says so.
    optimizer : str
        ``sgd``. An Adam step is close to the gradient's sign, which no search can follow.
    momentum, dampening : float
        Of ``torch.optim.SGD``, both in 0..1, momentum below 1.
    nesterov : bool
        Of ``torch.optim.SGD``; with a momentum and no dampening.
    weight_decay : float
        Of ``torch.optim.SGD``, for every parameter that is trained.

    Raises
    ------
    TypeError, ValueError
        For settings that do not fit; the message names the argument, what was expected and what was found.
    """

    rate: float | Sequence[float]
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    order: str = "unknown"
    optimizer: str = "sgd"
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_optimizer("optimizer", self.optimizer)
        check.check_choice("order", self.order, _ORDERS)
        self._keep("rate", checked_rates("rate", self.rate))
        for name in ("steps", "epochs", "batch_size"):
            if getattr(self, name) is not None:
                self._keep(name, check.check_count(name, getattr(self, name)))
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"epochs must be left out where steps are given, found epochs={self.epochs}, "
                f"steps={self.steps}"
            )
        for name in ("momentum", "dampening", "weight_decay"):
            self._keep(name, check.check_weight(name, getattr(self, name)))
        self._keep("nesterov", check.check_flag("nesterov", self.nesterov))
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, found {self.momentum}")
        if self.dampening > 1:
            raise ValueError(f"dampening must be at most 1, found {self.dampening}")
        if self.nesterov and not (self.momentum and not self.dampening):
            raise ValueError(
                "nesterov must be left out without a momentum or with dampening, as in torch.optim.SGD, "
                f"found momentum={self.momentum}, dampening={self.dampening}"
            )

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def plan(self, inputs: int) -> list[Step]:
        """List the steps for so many inputs.

        Raises
        ------
        ValueError
            For rates that are neither one, one a step nor one an epoch, for too many steps, and for steps
            that leave inputs out.
        """
        size = inputs if self.batch_size is None else min(self.batch_size, inputs)
        each = -(-inputs // size)
        count = (self.epochs or 1) * each if self.steps is None else self.steps
        if count > _MOST_STEPS:
            raise ValueError(
                f"local_steps (LocalTraining's steps) must be at most {_MOST_STEPS}, found {count}"
            )
        if count < each:
            raise ValueError(
                f"local_steps (LocalTraining's steps) must be at least {each}, for mini-batches of {size} "
                f"to take all of {inputs} inputs, found {count}"
            )
        rates = self._rates(count, each)
        rows = [None] if each == 1 else [slice(at, at + size) for at in range(0, inputs, size)]
        return [Step(rates[number], rows[number % each]) for number in range(count)]

    def _rates(self, count: int, each: int) -> Sequence[float]:
        """The rate of each of `count` steps, `each` of them an epoch."""
        if not isinstance(self.rate, Sequence):
            return [self.rate] * count
        epochs = -(-count // each)
        if len(self.rate) == count:
            return self.rate
        if len(self.rate) == epochs:
            return [self.rate[number // each] for number in range(count)]
        raise ValueError(
            f"local_lr (LocalTraining's rate) must be one number, one for each of {count} steps or one "
            f"for each of {epochs} epochs, found {len(self.rate)}"
        )

    def batches(self, inputs: int) -> int:
        """Mini-batches of an epoch."""
        return 1 if self.batch_size is None else -(-inputs // self.batch_size)

    @property
    def words(self) -> str:
        """Its steps, in words."""
        count, whole = (self.epochs or 1, "epoch") if self.steps is None else (self.steps, "local step")
        words = f"{count} {whole}{'' if count == 1 else 's'}"
        return words if self.steps is not None else f"local steps of {words}"

    def is_gradient(self, inputs: int) -> bool:
        """Whether what is shared is the gradient of all inputs and nothing else."""
        plain = not (self.weight_decay or self.nesterov)
        return plain and self.batches(inputs) == 1 and len(self.plan(inputs)) == 1

    def shared(
        self,
        gradient: Callable[[dict[str, Any], slice | None], Mapping[str, Any]],
        parameters: dict[str, Any],
        inputs: int,
    ) -> dict[str, Any]:
        """Unroll the client's steps, and form what it shares; nothing is written to.

        Parameters
        ----------
        gradient : callable
            ``(parameters by name, rows of the mini-batch or None for all)`` to gradients by name, of tensors
            or numbers; None for a parameter that takes no part, which then keeps its value.
        parameters : dict
            By name, before the first step.
        inputs : int
            B.

        Returns
        -------
        dict
            (before - after) / the first rate, by name; None where no gradient was.
        """
        plan = self.plan(inputs)
        first = plan[0].rate
        total: dict[str, Any] = {}
        momenta: dict[str, Any] = {}
        for left, (rate, rows) in zip(range(len(plan) - 1, -1, -1), plan, strict=True):
            slopes = gradient(parameters, rows)
            moves = {n: self._move(n, slopes[n], before, momenta) for n, before in parameters.items()}
            total = {n: _added(total.get(n), _times(rate / first, move)) for n, move in moves.items()}
            if left:
                parameters = {
                    name: before if moves[name] is None else before - rate * moves[name]
                    for name, before in parameters.items()
                }
        return total

    def _move(self, name: str, slope: Any, before: Any, momenta: dict[str, Any]) -> Any:
        """What a step multiplies with its rate, as ``torch.optim.SGD`` makes it."""
        if slope is None:
            return None
        if self.weight_decay:
            slope = slope + self.weight_decay * before
        if not self.momentum:
            return slope
        kept = momenta.get(name)
        momenta[name] = slope if kept is None else self.momentum * kept + (1 - self.dampening) * slope
        return slope + self.momentum * momenta[name] if self.nesterov else momenta[name]

    def response(self, inputs: int) -> Response:
        """What the shared update holds of the weights, and of each input's gradient."""
        size = inputs if self.batch_size is None else self.batch_size
        sizes = {str(at): min(size, inputs - at) for at in range(0, inputs, size)}

        def gradient(parameters: dict[str, float], rows: slice | None) -> dict[str, float]:
            taken = "0" if rows is None else str(rows.start)
            return {"": 0.0} | {at: (at == taken) / count for at, count in sizes.items()}

        shared = self.shared(gradient, {"": 1.0} | dict.fromkeys(sizes, 0.0), inputs)
        return Response(shared[""], tuple(shared[at] for at, count in sizes.items() for _ in range(count)))


def training_of(
    training: object, steps: object, rate: object, epochs: object, batch_size: object, optimizer: object
) -> LocalTraining | None:
    """What ``local_training`` says, or else ``local_steps``, ``local_lr`` and so on; None for one gradient.

    Raises
    ------
    TypeError, ValueError
        For values that do not fit, each under its name, and for both forms.
    """
    _check_optimizer("local_optimizer", optimizer)
    count = check.check_count("local_steps", steps)
    rates = None if rate is None else checked_rates("local_lr", rate)
    given = {"local_epochs": epochs, "local_batch_size": batch_size}
    more = {name: check.check_count(name, value) for name, value in given.items() if value is not None}
    if training is not None:
        if not isinstance(training, LocalTraining):
            raise TypeError(f"local_training must be a LocalTraining, found {type(training).__name__}")
        if count > 1 or rates is not None or more:
            raise ValueError(
                "local_training must be left out where local_steps, local_lr, local_epochs or "
                "local_batch_size is given: found both"
            )
        return training
    if count == 1 and not more:
        return None
    if rates is None:
        name, value = ("local_steps", count) if count > 1 else next(iter(more.items()))
        raise ValueError(f"local_lr must be given with {name}={value}, found None")
    if count > 1 and epochs is not None:
        raise ValueError(f"local_epochs must be left out where local_steps={count}, found {epochs}")
    return LocalTraining(
        rate=rates,
        steps=count if count > 1 else None,
        epochs=more.get("local_epochs"),
        batch_size=more.get("local_batch_size"),
    )


def _check_optimizer(name: str, value: object) -> None:
    if value not in _OPTIMIZERS:
        raise ValueError(
            f"{name} must be 'sgd', whose momentum, weight decay and schedule LocalTraining takes, found "
            f"{check.shown(value)}: other optimisers' steps are not unrolled; ask the client for gradients"
        )


def checked_rates(name: str, value: object) -> float | tuple[float, ...]:
    """One rate, or a tuple: the first positive, the others not negative."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        return check.check_positive(name, value)
    rates = check.check_sequence(name, value, "numbers")
    if not rates:
        raise ValueError(f"{name} must be a number, or one for each step, found none")
    first = check.check_positive(f"{name}[0]", rates[0])
    later = (check.check_weight(f"{name}[{at}]", each) for at, each in enumerate(rates[1:], 1))
    return (first, *later)


def _times(factor: float, move: Any) -> Any:
    return move if move is None or factor == 1.0 else factor * move


def _added(total: Any, part: Any) -> Any:
    if total is None or part is None:
        return part if total is None else total
    return total + part
