"""From what a user gives to an attack that is ready to run: checked, tried once, settled, drawn.

`set_up` looks at the victim's network alone, `prepare` adds the target gradients, `Attack.run` searches.
`recover`, audits and the profiler all go this way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.runtime.denormals import flushed_denormals
from sapag_fast.runtime.randomness import forked, random_state, resumed, seeded
from sapag_fast.search.basis import Basis, make_basis
from sapag_fast.search.capacity import first_matching, searches_at_once
from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.loop import Hooks, run_search
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.run import Search
from sapag_fast.search.starts import make_start, recovery_generator
from sapag_fast.search.tasks import AttackResult
from sapag_fast.victim.labels import infer_labels
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.probe import Probe, probe
from sapag_fast.victim.problem import LossFunction, Problem

__all__ = ["Attack", "Setup", "prepare", "set_up"]

_NOISE_IMAGES = 64  # for the mean output that the label counts of a batch need


@dataclass(frozen=True, eq=False)
class Setup:
    """A victim's network as an attack meets it.

    Attributes
    ----------
    network : VictimModel
    loss_fn : callable
        ``(output, labels) -> scalar``.
    default_loss : bool
        Whether that is cross-entropy, for want of one that was given.
    input_shape : tuple of int
        Of one input, without the batch.
    batch_size : int
        Inputs behind one gradient, B.
    options : SearchOptions
        As given.
    recipe : Recipe
        The recipe in force.
    distance : GradientDistance
        The distance in force.
    probe : Probe
        What one forward pass told.
    """

    network: VictimModel
    loss_fn: LossFunction
    default_loss: bool
    input_shape: tuple[int, ...]
    batch_size: int
    options: SearchOptions
    recipe: Recipe
    distance: GradientDistance
    probe: Probe

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters, gradients and inputs."""
        return self._like.dtype

    @property
    def _like(self) -> Tensor:
        return next(iter(self.network.parameters.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(B, *input_shape)``."""
        return (self.batch_size, *self.input_shape)

    @cached_property
    def bases(self) -> tuple[Basis, ...]:
        """Coordinates of the search, for the restarts in turn.

        Raises
        ------
        ValueError
            For a basis that does not fit the inputs.
        """
        options = {"bounds": self.options.bounds, "device": self.device, "dtype": self.dtype}
        return tuple(make_basis(name, self.input_shape, **options) for name in self.recipe.bases)

    def problem(self, targets: Sequence[Tensor | None], *, restarts: int = 1, joint: bool = False) -> Problem:
        """Add the target gradients ``[V, *parameter shape]``."""
        options = self.options
        steps, rate = check.check_local_steps(options.local_steps, options.local_lr)
        return Problem(
            self.network,
            self.loss_fn,
            self.distance,
            list(targets),
            restarts=restarts,
            joint=joint,
            local_steps=steps,
            local_lr=rate,
        )


def set_up(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    options: SearchOptions | None = None,
) -> Setup:
    """Check, try the network once, and settle recipe and distance.

    A network with dropout draws from the global generators: to be called within `seeded` or `forked`.

    Parameters
    ----------
    model, input_shape, loss_fn, batch_size, device
        As for `recover`.
    options : SearchOptions, optional
        None: all from the recipe.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    options = options or SearchOptions()
    check.check_model(model, device)
    shape = check.check_shape(input_shape)
    batch_size = check.check_count("batch_size", batch_size)
    layers = model_layers(model, options.layers)
    loss: LossFunction = F.cross_entropy if loss_fn is None else check.check_callable("loss_fn", loss_fn)
    network = VictimModel(model, device)
    told = probe(network, shape, batch_size)
    recipe = options.settled(shape, batch_size, piecewise_linear=told.piecewise_linear)
    distance = options.distance
    if not isinstance(distance, GradientDistance):
        distance = GradientDistance(recipe.distance, bandwidth=recipe.bandwidth, layers=layers)
    return Setup(network, loss, loss_fn is None, shape, batch_size, options, recipe, distance, told)


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
        ``[V x restarts, B, ...]``; joint labels are logits ``[V x restarts, B, classes]``.
    random : mapping of str to Tensor
        State of the global generators from which the search goes on.
    """

    setup: Setup
    problem: Problem
    starts: Tensor
    labels: Tensor
    random: Mapping[str, Tensor] = field(repr=False)

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of a search: its random numbers, attention and denormals; given back as they were."""
        device = self.setup.device
        flush = self.setup.recipe.surrogate is not None and device.type == "cpu"
        # The fused attention kernels cannot be differentiated twice.
        with resumed(self.random, device), sdpa_kernel(SDPBackend.MATH), flushed_denormals(flush):
            yield

    def search(self, certified_at: Sequence[float] | None = None) -> Search:
        """Choose how all searches are matched, tried on the first few; within `conditions`."""
        setup = self.setup
        choice = first_matching(self.problem, self.starts, self.labels, setup.recipe)
        return Search(
            matching=choice.matching,
            mode_reason=choice.reason,
            starts=self.starts,
            labels=self.labels,
            recipe=setup.recipe,
            bases=setup.bases,
            bounds=setup.options.bounds,
            joint=self.problem.joint,
            restarts=self.problem.restarts,
            certified_at=certified_at,
        )

    def run(
        self,
        *,
        certified_at: Sequence[float] | None = None,
        hooks: Hooks | None = None,
        checkpoint: str | Path | None = None,
    ) -> AttackResult:
        """Search, as many tasks at once as memory bears.

        Parameters
        ----------
        certified_at : sequence of float, optional
            For each victim a distance (see `Search`).
        hooks : Hooks, optional
            Who is told of progress and of victims that have ended.
        checkpoint : str or Path, optional
            A .safetensors file to keep the state in, and to go on from.
        """
        kept = None if checkpoint is None else Checkpoint(checkpoint, self._fingerprint(certified_at))
        with self.conditions():
            search = self.search(certified_at)
            rows = self.setup.options.at_once
            if rows is None:
                with forked(self.setup.device):
                    # At once as many as measured, or as many given: the same random numbers afterwards.
                    rows = searches_at_once(search, self.problem.rows(), self.setup.options.max_memory)
            return run_search(search, rows=rows, hooks=hooks, checkpoint=kept)

    def _fingerprint(self, certified_at: Sequence[float] | None) -> str:
        """What a checkpoint of this attack belongs to."""
        problem, network, setup = self.problem, self.setup.network, self.setup
        distance = problem.distance.options | {"layer_weights": None, "variance": None}
        words = (
            torch.__version__,
            setup.recipe,
            problem.restarts,
            setup.options.bounds,
            certified_at,
            (problem.local_steps, problem.local_lr),
            str(self.starts.device),
            sorted(distance.items()),
        )
        weights = (*network.parameters.values(), *network.constants.values(), *network.buffers.values())
        options = (problem.distance.layer_weights, problem.distance.variance)
        return fingerprint(words, (*weights, *problem.targets, self.starts, self.labels, *options))


def prepare(
    model: nn.Module,
    target: Iterable[Tensor | None],
    input_shape: Sequence[int],
    *,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    labels: str | Tensor | Sequence[int] = "infer",
    batched: bool = False,
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
    chosen, parameters = check.check_model(model, device)
    targets = check.check_target(target, parameters, batched=batched, device=chosen, move=device is not None)
    # Dropout and the like draw from the global generators: seeded here, given back as they were.
    with seeded(options.seed, chosen):
        setup = set_up(
            model, input_shape, loss_fn=loss_fn, batch_size=batch_size, device=device, options=options
        )
        problem = setup.problem(
            targets, restarts=options.restarts, joint=isinstance(labels, str) and labels == "joint"
        )
        return attack_on(setup, problem, labels, batched=batched)


def attack_on(
    setup: Setup, problem: Problem, labels: str | Tensor | Sequence[int], *, batched: bool = False
) -> Attack:
    """Draw the starts, and find the labels where they are not given; within `seeded`."""
    generators = [
        recovery_generator(setup.options.seed, v, k)
        for v in range(problem.victims)
        for k in range(problem.restarts)
    ]
    starts = _starts(setup, problem, generators).to(device=setup.device, dtype=setup.dtype)
    if problem.joint:
        known = _label_logits(setup, generators)
    else:
        known = _known_labels(labels, setup, problem, batched=batched)
        known = known.repeat_interleave(problem.restarts, 0)
    _check_loss(setup.loss_fn, setup.probe.output, known[0], problem.joint)
    _ = setup.bases  # refused now, not when the search begins
    return Attack(setup, problem, starts, known, random_state(setup.device))


def _starts(setup: Setup, problem: Problem, generators: Sequence[torch.Generator]) -> Tensor:
    """``[V x restarts, B, *input_shape]``, victim by victim: given, or drawn with one generator each."""
    start, restarts = setup.options.start, problem.restarts
    if isinstance(start, Tensor):
        return check.check_start(
            start.detach(), victims=problem.victims, restarts=restarts, shape=setup.shape
        )
    kinds = setup.recipe.starts
    of_victim = [kinds[k % len(kinds)] for k in range(restarts)] * problem.victims
    drawn = zip(of_victim, generators, strict=True)
    return torch.stack([make_start(kind, setup.shape, setup.options.bounds, g) for kind, g in drawn])


def _label_logits(setup: Setup, generators: Sequence[torch.Generator]) -> Tensor:
    """``[V x restarts, B, classes]``, normal."""
    classes = setup.probe.classes
    if classes is None:
        raise ValueError("labels='joint' needs a model whose output is [B, classes]")
    shape = (setup.batch_size, classes)
    logits = [torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]
    return torch.stack(logits).to(device=setup.device, dtype=setup.dtype)


def _known_labels(labels: object, setup: Setup, problem: Problem, *, batched: bool) -> Tensor:
    """Labels ``[V, B, ...]``, inferred or given."""
    if isinstance(labels, str):
        if labels != "infer":
            raise ValueError(f"labels must be 'infer', 'joint' or a tensor, found {labels!r}")
        low, high = setup.options.bounds or (0.0, 1.0)
        shape = (_NOISE_IMAGES, *setup.input_shape)
        noise = torch.rand(shape, dtype=setup.dtype, device=setup.device) * (high - low) + low
        return infer_labels(
            setup.network,
            problem.targets,
            batch_size=setup.batch_size,
            noise=noise,
            classes=setup.probe.classes,
            local_steps=problem.local_steps,
        )
    return check.check_labels(
        labels,
        victims=problem.victims,
        batch_size=setup.batch_size,
        batched=batched,
        classes=setup.probe.classes if setup.default_loss else None,
        device=setup.device,
    )


def _check_loss(loss: Callable, output: Tensor, labels: Tensor, joint: bool) -> None:
    """The loss must take the model's output and labels, and give one number."""
    try:
        with torch.no_grad():
            value = loss(output, labels.softmax(-1) if joint else labels)
    except Exception as error:
        raise ValueError(
            f"loss_fn rejects the model's output and the labels ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss_fn must return one number for the batch (a tensor of shape []), found {found}"
        )
