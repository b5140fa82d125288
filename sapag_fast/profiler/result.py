"""What a profile holds, as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapag_fast.files.output import replacing
from sapag_fast.profiler.ceilings import Ceilings
from sapag_fast.profiler.work import Work
from sapag_fast.victim.cautions import Caution

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["AttackProfile", "LayerProfile", "Level", "StageProfile"]

_DERIVED = (
    "accounted",
    "accounted_undisturbed",
    "overhead",
    "gap",
    "evaluations_per_second",
    "recoveries_per_hour",
)


@dataclass(frozen=True)
class StageProfile:
    """One stage of a step.

    Attributes
    ----------
    name : str
    seconds : float
        Of one step, without ``gap``.
    gap : float
        Seconds of the stage outside of operators (on a GPU: without a kernel): Python, dispatch, autograd's
        own bookkeeping.
    work : Work
        Operations and bytes of its operators.
    bound : float
        The least seconds that the work can take on this machine.
    bound_by : str
        ``compute`` or ``memory``.
    """

    name: str
    seconds: float
    gap: float
    work: Work
    bound: float
    bound_by: str

    @property
    def whole(self) -> float:
        """Seconds with the gap."""
        return self.seconds + self.gap

    @property
    def roofline(self) -> float:
        """The bound as a fraction of the time that the stage takes: 1 is the machine's ceiling."""
        return self.bound / self.whole if self.whole else 0.0


@dataclass(frozen=True)
class LayerProfile:
    """One layer of explicit mode.

    Attributes
    ----------
    layer, rule : str
    ways, why : dict
        By parameter: ``materialised``, ``ghost`` or ``low-rank``, and the plan's reason.
    forward_seconds, sums_seconds : float
        Of one step, in its forward and in its part of the sums (forming its dummy gradient or its Gram
        matrices, and the products with V). Its part of the backward passes runs inside of autograd and is
        not told apart; the fused distance runs over all formed layers at once.
    share : float
        Both, as a fraction of the step.
    work : Work
        Operations and bytes of both.
    """

    layer: str
    rule: str
    ways: dict[str, str]
    why: dict[str, str]
    forward_seconds: float
    sums_seconds: float
    share: float
    work: Work


@dataclass(frozen=True)
class Level:
    """A step with R recoveries at once.

    Attributes
    ----------
    recoveries : int
        R.
    mode, mode_reason : str
        How recoveries were batched, and why not explicitly.
    step_seconds : float
        Wall time of a step that nobody watches.
    watched_seconds : float
        Of one whose stages are timed, in turns with the former.
    processor_overhead : float
        What watching adds to the processor's time, as a fraction: other processes have no share in it.
    age : int
        Evaluations before the first timed one: L-BFGS costs more the more of its history is filled.
    stages : tuple of StageProfile
    layers : tuple of LayerProfile
        Empty where explicit mode does not run.
    peak_bytes : int
        The most memory a step holds beyond what lies between steps.
    launches : float or None
        Kernels a step on a GPU.
    graph_seconds : float or None
        Wall time of a step replayed as a CUDA graph, as an attack does it.
    attack_steps : int
        Evaluations that the recipe gives a recovery.
    """

    recoveries: int
    mode: str
    mode_reason: str
    step_seconds: float
    watched_seconds: float
    processor_overhead: float
    age: int
    stages: tuple[StageProfile, ...]
    layers: tuple[LayerProfile, ...]
    peak_bytes: int
    launches: float | None
    graph_seconds: float | None
    attack_steps: int

    @property
    def accounted(self) -> float:
        """Sum of all stages and their gaps as a fraction of the wall time of a step that nobody watches."""
        return sum(stage.whole for stage in self.stages) / self.step_seconds

    @property
    def accounted_undisturbed(self) -> float:
        """The same, had no other process taken the processor away at times.

        What the stages cover of the watched steps, with what watching adds to the processor's time.
        """
        covered = sum(stage.whole for stage in self.stages) / self.watched_seconds
        return covered * (1.0 + self.processor_overhead)

    @property
    def overhead(self) -> float:
        """What watching adds to a step, as a fraction of it."""
        return self.watched_seconds / self.step_seconds - 1.0

    @property
    def gap(self) -> float:
        """Seconds a step outside of operators."""
        return sum(stage.gap for stage in self.stages)

    @property
    def evaluations_per_second(self) -> float:
        """Of all recoveries together."""
        return self.recoveries / (self.graph_seconds or self.step_seconds)

    @property
    def recoveries_per_hour(self) -> float:
        """Searches that take all of the recipe's evaluations; those that stop early make it more."""
        return self.evaluations_per_second * 3600.0 / self.attack_steps


@dataclass(frozen=True)
class AttackProfile:
    """Where the time of an attack's step goes on one machine.

    Attributes
    ----------
    model : str
        The network's class.
    input_shape, batch_size : tuple of int, int
    recipe : dict
        The settings in force.
    machine : dict
        Device, threads, versions, dtype.
    ceilings : Ceilings
        Measured.
    levels : tuple of Level
        By R, rising.
    skipped : dict
        Why an R was left out.
    bottleneck : str
        One sentence.
    warnings : tuple of Caution
        What in the network's mode makes recoveries worse than they look.
    """

    model: str
    input_shape: tuple[int, ...]
    batch_size: int
    recipe: dict[str, Any]
    machine: dict[str, Any]
    ceilings: Ceilings
    levels: tuple[Level, ...]
    skipped: dict[int, str]
    bottleneck: str
    warnings: tuple[Caution, ...] = ()

    def table(self) -> Group:
        """For the screen: ``rich.print(profile.table())``."""
        from sapag_fast.profiler.table import tables  # here: it alone needs rich

        return tables(self)

    def plot(self, path: str | Path) -> None:
        """Write a PNG: a step's stages over R, and the roofline."""
        from sapag_fast.profiler.plot import draw  # here: it alone needs matplotlib

        draw(self, Path(path))

    def as_dict(self) -> dict[str, Any]:
        """Everything, derived figures included, as JSON has it."""
        plain_profile = asdict(self)
        for level, plain in zip(self.levels, plain_profile["levels"], strict=True):
            for name in _DERIVED:
                plain[name] = getattr(level, name)
            for stage, entry in zip(level.stages, plain["stages"], strict=True):
                entry["roofline"] = stage.roofline
        return plain_profile

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON, which is also written to `path` if given."""
        text = json.dumps(self.as_dict(), indent=1, default=str) + "\n"
        if path is not None:
            with replacing(path, durable=False) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return text
