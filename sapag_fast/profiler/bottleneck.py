"""What to do next, in one sentence made from a profile's figures."""

from __future__ import annotations

from collections.abc import Sequence

from sapag_fast.profiler.result import Level, StageProfile
from sapag_fast.profiler.stages import SUMS

__all__ = ["bottleneck"]

_STILL_RISING = 1.15
"""Evaluations a second at the largest R over those at the R before it, from which more recoveries pay."""
_MANY_GAPS = 0.4
_NEAR_CEILING = 0.5


def bottleneck(levels: Sequence[Level]) -> str:
    """Name what to do next.

    The first of these that applies: more recoveries at once still pay; the host is what is waited for; the
    longest stage, and how far it is from the machine's ceiling.

    Parameters
    ----------
    levels : sequence of Level
        By R, rising.
    """
    if not levels:
        return "Nothing was measured."
    best = max(levels, key=lambda level: level.evaluations_per_second)
    longest = max(best.stages, key=lambda stage: stage.whole)
    if len(levels) > 1 and best is levels[-1]:
        gain = best.evaluations_per_second / levels[-2].evaluations_per_second
        if gain >= _STILL_RISING:
            return (
                f"Too few recoveries at once: R={best.recoveries} makes {gain:.2g} times the evaluations a "
                f"second of R={levels[-2].recoveries} and the rate still rises; {_about(longest, best)}."
            )
    gap = best.gap / sum(stage.whole for stage in best.stages)
    if gap >= _MANY_GAPS:
        return (
            f"The host: at R={best.recoveries} {gap:.0%} of a step passes outside of operators, so fewer and "
            f"larger ones would help; {_about(longest, best)}."
        )
    if longest.roofline >= _NEAR_CEILING:
        return (
            f"The machine's {_CEILINGS[longest.bound_by]}: at R={best.recoveries} {_about(longest, best)}, "
            "so only less work would make it faster."
        )
    return (
        f"The operators, not the machine: at R={best.recoveries} {_about(longest, best)}, so better ones "
        "would make it faster."
    )


_CEILINGS = {"compute": "arithmetic", "memory": "memory bandwidth"}


def _about(stage: StageProfile, level: Level) -> str:
    share = stage.whole / sum(other.whole for other in level.stages)
    said = (
        f"the stage {stage.name!r} takes {share:.0%} of a step, at {stage.roofline:.0%} of what "
        f"{_CEILINGS[stage.bound_by]} allows"
    )
    if stage.name == SUMS and level.layers:
        layer = max(level.layers, key=lambda layer: layer.sums_seconds)
        said += f", layer {layer.layer!r} with the largest part"
    return said
