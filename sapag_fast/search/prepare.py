"""From what a user gives to an attack that is ready to run: checked, tried once, settled, drawn.

`set_up` looks at the victim's network alone, `prepare` adds the target gradients, `Attack.run` searches.
`recover`, audits and the profiler all go this way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.files.fingerprint import code_of, fingerprint, structure
from sapag_fast.runtime.randomness import forked, random_state, resumed, seeded
from sapag_fast.search.capacity import APART, Memory, first_matching, searches_at_once
from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.contrast import contrast_of
from sapag_fast.search.draw import check_loss, draw_logits, draw_starts, known_labels
from sapag_fast.search.loop import Hooks, run_search
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.run import Search
from sapag_fast.search.setup import Setup, set_up
from sapag_fast.search.starts import recovery_generator
from sapag_fast.search.tasks import AttackResult
from sapag_fast.search.unsearched import unsearched
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.problem import Problem
from sapag_fast.victim.searchable import low_precision, searchable
from sapag_fast.victim.targets import TargetGradient, checked_target, kept

__all__ = ["Attack", "Targets", "attack_on", "prepare"]


@dataclass(frozen=True, eq=False)
class Targets:
    """The target gradients, and what is known of the labels behind them.

    Attributes
    ----------
    gradient : iterable or mapping of Tensor, ndarray or None
        As `recover` takes it; with `batched` ``[V, *parameter shape]``. One victim's is copied; those of many
        are large, and stay the caller's: they must not change while the attack lives.
    labels : str, Tensor or sequence of int
        ``infer``, ``joint``, or the labels.
    batched : bool
        Whether there are many victims.
    """

    gradient: TargetGradient
    labels: str | Tensor | Sequence[int] = "infer"
    batched: bool = False

    @property
    def joint(self) -> bool:
        """Whether labels are searched together with the inputs."""
        return isinstance(self.labels, str) and self.labels == "joint"


@dataclass(frozen=True, eq=False)
class Attack:
    """All searches of all victims, ready to run.

    Attributes
    ----------
    setup : Setup
    problem : Problem
        With the targets.
    starts : Tensor
        ``[V x restarts, B, *input_shape]``, victim by victim.
    labels : Tensor
        ``[V x restarts, B, ...]``; joint labels are the numbers behind them, of the output's shape.
    label_source, label_reason : tuple of str
        V, see `KnownLabels`.
    random : mapping of str to Tensor
        State of the global generators from which the search goes on.
    isolated : bool
        Whether a victim's bits may follow from nothing but that victim and the settings: so in batches.
    """

    setup: Setup
    problem: Problem
    starts: Tensor
    labels: Tensor
    label_source: tuple[str, ...]
    label_reason: tuple[str, ...]
    random: Mapping[str, Tensor] = field(repr=False)
    isolated: bool = False

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of a search: its random numbers, attention and denormals; given back as they were."""
        with resumed(self.random, self.setup.device), self.setup.conditions():
            yield

    def search(self, certified_at: Sequence[float] | None = None, answered: Collection[int] = ()) -> Search:
        """Choose how all searches are matched, tried on the first few; within `conditions`."""
        setup = self.setup
        isolated = self.isolated
        with forked(setup.device):
            contrast = contrast_of(self.problem, self.starts[0])
        choice = first_matching(
            self.problem,
            self.starts,
            self.labels,
            setup.recipe,
            isolated=isolated,
            apart=isolated and setup.device.type == "cpu" and setup.probe.nbytes >= APART,
            memory=self._memory(),
        )
        return Search(
            matching=choice.matching,
            mode_reason=choice.reason,
            starts=self.starts,
            labels=self.labels,
            recipe=setup.recipe,
            bases=setup.bases,
            bounds=setup.bounds,
            joint=self.problem.joint,
            restarts=self.problem.restarts,
            certified_at=certified_at,
            isolated=isolated,
            answered=frozenset(answered),
            contrast=contrast,
        )

    def run(
        self,
        *,
        certified_at: Sequence[float] | None = None,
        answered: Collection[int] = (),
        hooks: Hooks | None = None,
        checkpoint: str | Path | None = None,
    ) -> AttackResult:
        """Search, as many tasks at once as memory bears.

        Parameters
        ----------
        certified_at : sequence of float, optional
            For each victim a distance (see `Search`).
        answered : collection of int
            Victims that are not searched.
        hooks : Hooks, optional
            Who is told of progress and of victims that have ended.
        checkpoint : str or Path, optional
            A .safetensors file to keep the state in, and to go on from.
        """
        kept = None
        if checkpoint is not None:
            kept = Checkpoint(checkpoint, self._fingerprint(certified_at, answered))
        if len(answered) == self.problem.victims:
            if kept is not None:
                kept.read()  # another search's is refused
                kept.remove()
            return unsearched(self.starts, self.labels, self.problem.restarts, hooks)
        with self.conditions():
            search = self.search(certified_at, answered)
            rows = self.setup.options.at_once
            if rows is None:
                with forked(self.setup.device):
                    # At once as many as measured, or as many given: the same random numbers afterwards.
                    rows = searches_at_once(search, self.problem.rows(), self._memory())
            return run_search(search, rows=rows, hooks=hooks, checkpoint=kept)

    def _memory(self) -> Memory:
        setup = self.setup
        return Memory.of(setup.device, setup.options.max_memory, setup.most_bytes)

    def _fingerprint(self, certified_at: Sequence[float] | None, answered: Collection[int]) -> str:
        """What a checkpoint of this attack belongs to."""
        problem, network, setup = self.problem, self.setup.network, self.setup
        distance = problem.distance.options | {"layer_weights": None, "variance": None}
        words = (
            torch.__version__,
            structure(network.module),
            code_of(setup.loss),
            code_of(problem.distance.kind.value),
            setup.recipe,
            problem.restarts,
            setup.options.bounds,
            certified_at,
            problem.training,
            str(self.starts.device),
            sorted(distance.items()),
        )
        if answered:
            words = (*words, ("answered", sorted(answered)))
        if setup.options.mean is not None:
            words = (*words, (setup.options.mean, setup.options.std))
        weights = (*network.parameters.values(), *network.constants.values(), *network.buffers.values())
        options = (problem.distance.layer_weights, problem.distance.variance)
        return fingerprint(words, (*weights, *problem.targets, self.starts, self.labels, *options))


def prepare(
    model: nn.Module,
    targets: Targets,
    input_shape: Sequence[int],
    *,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    options: SearchOptions | None = None,
    device: torch.device | str | None = None,
) -> Attack:
    """Check all arguments and make the attack; they are those of `recover`.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    options = options or SearchOptions()
    found = searchable(model)
    chosen, parameters = check.check_model(found.model, device)
    given = kept(targets.gradient)
    gradients = checked_target(
        given, found.model, parameters, batched=targets.batched, device=chosen, move=device is not None
    )
    if not targets.batched:
        gradients = [None if entry is None else entry.clone() for entry in gradients]
    # Dropout and the like draw from the global generators: seeded here, given back as they were.
    with seeded(options.seed, chosen):
        setup = set_up(
            found, input_shape, loss_fn=loss_fn, batch_size=batch_size, device=device, options=options
        )
        if not setup.told:
            setup = replace(setup, told=low_precision(given))
        setup = replace(setup, joint=targets.joint)
        problem = setup.problem(gradients, restarts=options.restarts, joint=targets.joint)
        return attack_on(setup, problem, targets.labels, batched=targets.batched)


def attack_on(
    setup: Setup, problem: Problem, labels: str | Tensor | Sequence[int], *, batched: bool = False
) -> Attack:
    """Draw the starts, and find the labels where they are not given; within `seeded`."""
    setup.check_searches(problem.victims, problem.restarts)
    seed = setup.options.seed
    victims = [_name(problem, victim) for victim in range(problem.victims)] if batched else [0]
    generators = [recovery_generator(seed, v, k) for v in victims for k in range(problem.restarts)]
    starts = draw_starts(setup, problem, generators).to(device=setup.device, dtype=setup.dtype)
    if problem.joint:
        searched = draw_logits(setup, generators, problem.restarts)
        known = KnownLabels.alike(searched[:: problem.restarts], "joint")
    else:
        known = known_labels(labels, setup, problem, batched=batched)
        searched = known.labels.repeat_interleave(problem.restarts, 0)  # a copy, too
    if problem.training is not None:
        _check_rows(problem.training, setup.batch_size, searched[0])
    check_loss(setup, searched[0], joint=problem.joint)
    _ = setup.bases  # refused now, not when the search begins
    return Attack(
        setup,
        problem,
        starts,
        searched,
        known.source,
        known.reason,
        random_state(setup.device),
        isolated=batched,
    )


def _check_rows(training: LocalTraining, batch_size: int, labels: Tensor) -> None:
    """Raise ValueError for labels that cannot be dealt out to mini-batches."""
    if training.batches(batch_size) > 1 and len(labels) != batch_size:
        raise ValueError(
            f"labels must have one row for each of {batch_size} inputs, for local training on mini-batches, "
            f"found {len(labels)}"
        )


def _name(problem: Problem, victim: int) -> str:
    """What a victim of many is called where its starts are drawn: by its gradient, wherever it stands."""
    return fingerprint((), [None if target is None else target[victim] for target in problem.targets])
