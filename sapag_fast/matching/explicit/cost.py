"""What each way to a matrix's sums and products costs, to choose the cheapest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["MatrixWork", "Rates", "rates_of", "way_costs"]


@dataclass(frozen=True)
class Rates:
    """Of one device: operations and bytes a second, seconds to start an operator."""

    single: float
    double: float
    bandwidth: float
    start: float


_CPU = Rates(single=60e9, double=30e9, bandwidth=8e9, start=8e-6)
_GPU = Rates(single=40e12, double=20e12, bandwidth=2.5e12, start=8e-6)
_GPU_WITHOUT_DOUBLE = Rates(single=40e12, double=0.6e12, bandwidth=0.8e12, start=8e-6)


def rates_of(device: torch.device, dtype: torch.dtype) -> Rates:
    """Round figures of which only ratios matter.

    They are those of a server's cores, of a data-centre GPU, or of another GPU (a 64th of the float64 rate).
    Gradients in float64 run at the double rate throughout.
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        rates = Rates(_CPU.single * threads, _CPU.double * threads, _CPU.bandwidth * threads**0.5, _CPU.start)
    elif device.type == "cuda" and torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0)):
        rates = _GPU
    else:
        rates = _GPU_WITHOUT_DOUBLE
    if dtype == torch.float64:
        return Rates(rates.double, rates.double, rates.bandwidth / 2, rates.start)
    return rates


@dataclass(frozen=True)
class MatrixWork:
    """One matrix in one evaluation.

    Attributes
    ----------
    rows, inputs, outputs, recoveries : int
        N rows of a and b, K, O and R.
    shared : bool
        Whether all recoveries have one target.
    rank : int or None
        Of the target, if it is low.
    """

    rows: int
    inputs: int
    outputs: int
    recoveries: int
    shared: bool
    rank: int | None


def way_costs(work: MatrixWork, rates: Rates) -> dict[str, float]:
    """Seconds for one evaluation of all recoveries."""
    n, size, both, count = work.rows, work.inputs * work.outputs, work.inputs + work.outputs, work.recoveries
    # g' = BᵀA, A Vᵀ, B V; g' written, read with G, V written and read twice.
    formed = count * (6 * n * size / rates.single + 24 * size / rates.bandwidth) + 4 * rates.start
    # Grams, their products with the rows; rows converted, read and written a few times.
    grams = count * (8 * n * n * both / rates.double + 60 * n * both / rates.bandwidth) + 24 * rates.start
    readings = 1 if work.shared else count
    through_target = count * 4 * n * size / rates.double + readings * 16 * size / rates.bandwidth
    costs = {"materialised": formed, "ghost": grams + through_target}
    if work.rank is not None:
        small = count * 8 * n * work.rank * both / rates.double
        readings *= 16 * work.rank * both / rates.bandwidth
        costs["low-rank"] = grams + small + readings + 4 * rates.start
    return costs
