"""A cell's figures from its victims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

__all__ = ["Summary", "recovered_by_first", "summarise", "wilson"]

_COUNTED = ("evaluations", "evaluations to success", "distance", "network", "victim")
"""Numbers of a victim whose mean says nothing."""


@dataclass(frozen=True)
class Summary:
    """Attributes
    ----------
    successes, victims : int
        Of how many; several images behind one gradient count each.
    interval : pair of float
        Wilson's 95 % interval of the share.
    psnr, ssim : float or None
        Medians; None where the victims have none.
    means : dict
        Mean of every other number that all victims have.
    restarts : float or None
        Share of the restarts that succeeded.
    evaluations : float or None
        Evaluations spent for each success, those on victims that never succeeded included; None without one.
    seconds : float or None
        CPU seconds of the same.
    """

    successes: int
    victims: int
    interval: tuple[float, float]
    psnr: float | None
    ssim: float | None
    means: dict[str, float]
    restarts: float | None
    evaluations: float | None
    seconds: float | None

    @property
    def share(self) -> float:
        return self.successes / self.victims


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    found = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(found.low), float(found.high)


def summarise(found: Mapping[str, Any]) -> Summary:
    """The figures of a result file."""
    victims = found["victims"]
    successes = sum(victim["success"] for victim in victims)
    tried = [hit for victim in victims for hit in victim.get("restarts", ()) if hit is not None]
    each = _evaluations_a_success(victims)
    cost = found.get("attack cpu seconds", found["cpu seconds"]) / max(found["evaluations"], 1)
    numbers = {
        key
        for victim in victims
        for key, value in victim.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in _COUNTED
    }
    return Summary(
        successes=successes,
        victims=len(victims),
        interval=wilson(successes, len(victims)),
        psnr=_median(victims, "psnr"),
        ssim=_median(victims, "ssim"),
        means={
            key: statistics.fmean(victim[key] for victim in victims)
            for key in sorted(numbers - {"mse", "psnr", "ssim"})
            if all(victim.get(key) is not None for victim in victims)
        },
        restarts=sum(tried) / len(tried) if tried else None,
        evaluations=each,
        seconds=None if each is None else each * cost,
    )


def recovered_by_first(victims: Sequence[Mapping[str, Any]], restarts: int) -> int:
    """How many victims one of the first so many restarts has recovered."""
    return sum(True in victim["restarts"][:restarts] for victim in victims)


def _median(victims: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [victim[key] for victim in victims if victim.get(key) is not None]
    return statistics.median(values) if values else None


def _evaluations_a_success(victims: Sequence[Mapping[str, Any]]) -> float | None:
    """The expected running time of restarts until success (Hoos and Stützle 1998; Hansen et al. 2010)."""
    reached = [victim.get("evaluations to success") for victim in victims]
    successes = sum(one is not None for one in reached)
    if not successes:
        return None
    spent = [v["evaluations"] if one is None else one for v, one in zip(victims, reached, strict=True)]
    return sum(spent) / successes
