"""How close recovered images are to the true ones, and which recovered image is which true one.

Pixels lie in [0, 1]. `SUCCESS_PSNR` is the criterion of success of whatever the commands write. Recorded
benchmark results and the thresholds of certificates were measured with the weaker `SUCCESS_MSE`, and keep it:
what was measured with one criterion says nothing of the other. Every figure says which of the two it means.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapag_fast.runtime.extras import needs

with needs("data", "scores of images"):
    from scipy.optimize import linear_sum_assignment
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

__all__ = [
    "CLAIMED_SUCCESS_MEANS",
    "SUCCESS_MEANS",
    "SUCCESS_MSE",
    "SUCCESS_PSNR",
    "Scores",
    "assign",
    "score",
]

SUCCESS_PSNR = 25.0
"""dB from which on an image is recovered: ``results.json``, the demo, an audit's summary."""

SUCCESS_MEANS = f"PSNR of every image at least {SUCCESS_PSNR} dB"
"""The criterion in words, beside each figure that uses it."""

SUCCESS_MSE = 1e-2
"""Mean squared error (20 dB) below which recorded benchmarks and certificates count an image as recovered."""

CLAIMED_SUCCESS_MEANS = f"mean squared error of every image below {SUCCESS_MSE}"
"""Their criterion in words."""


@dataclass(frozen=True)
class Scores:
    """One recovered image against the true one.

    Attributes
    ----------
    mse : float
    psnr : float
        dB; inf for equal images.
    ssim : float
        nan where it is not defined.
    """

    mse: float
    psnr: float
    ssim: float

    @property
    def success(self) -> bool:
        """Whether the image is recovered (`SUCCESS_PSNR`)."""
        return self.psnr >= SUCCESS_PSNR


def score(recovered: Tensor, truth: Tensor) -> Scores:
    """Score one input, first clamped to [0, 1] as a PNG would be.

    Parameters
    ----------
    recovered, truth : Tensor
        ``[C, H, W]``, or of any other shape, then without SSIM.

    Returns
    -------
    Scores
        nan throughout for a recovered input with non-finite values.

    Raises
    ------
    ValueError
        When the shapes differ.
    """
    _check_pair(recovered, truth)
    if not torch.isfinite(recovered).all():
        return Scores(math.nan, math.nan, math.nan)
    ours, true = _pixels(recovered), _pixels(truth)
    mse = float(mean_squared_error(true, ours))
    psnr = float(peak_signal_noise_ratio(true, ours, data_range=1.0)) if mse > 0 else math.inf
    return Scores(mse, psnr, _ssim(true, ours))


def _ssim(true: np.ndarray, ours: np.ndarray) -> float:
    if true.ndim != 3 or min(true.shape[1:]) < 3:
        return math.nan
    side = min(true.shape[1:])
    window = min(7, side if side % 2 else side - 1)
    similarity: Any = structural_similarity(true, ours, win_size=window, data_range=1.0, channel_axis=0)
    return float(similarity)


def assign(
    recovered: Tensor, truth: Tensor, labels: Tensor | None = None, true_labels: Tensor | None = None
) -> list[int]:
    """Find the true one of each recovered input: the pairing with the least total squared error.

    A gradient does not tell the order of its batch. Where the labels are known and are the same multiset on
    both sides, only inputs of one label are paired.

    Parameters
    ----------
    recovered, truth : Tensor
        ``[B, *input_shape]``.
    labels, true_labels : Tensor, optional
        ``[B]``.

    Returns
    -------
    list of int
        B different indices into `truth`.

    Raises
    ------
    ValueError
        When the batches differ in shape.
    """
    _check_pair(recovered, truth)
    if recovered.dim() == 0:
        raise ValueError("recovered, truth: expected [B, *input_shape], found shape ()")
    for name, given in (("labels", labels), ("true_labels", true_labels)):
        if given is not None and (not isinstance(given, Tensor) or given.shape != truth.shape[:1]):
            found = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name} must be a tensor [{len(truth)}], found {found}")
    if len(truth) == 0:
        return []
    ours, true = recovered.flatten(1).double().cpu(), truth.flatten(1).double().cpu()
    cost = ((ours[:, None] - true[None]) ** 2).mean(-1).numpy()
    cost = np.nan_to_num(cost, nan=1e30, posinf=1e30).clip(max=1e30)
    if labels is not None and true_labels is not None:
        ours_of, true_of = labels.cpu().numpy(), true_labels.cpu().numpy()
        if sorted(ours_of.tolist()) == sorted(true_of.tolist()):
            # No pairing inside the labels can cost as much as one pair across them.
            cost = cost + (ours_of[:, None] != true_of[None]) * (len(cost) * cost.max() + 1.0)
    return linear_sum_assignment(cost)[1].tolist()


def _check_pair(recovered: object, truth: object) -> None:
    for name, given in (("recovered", recovered), ("truth", truth)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            found = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"{name} must be a floating-point tensor, found {found}")
    assert isinstance(recovered, Tensor)
    assert isinstance(truth, Tensor)
    if recovered.shape != truth.shape:
        raise ValueError(
            f"truth must have the shape of recovered, {list(recovered.shape)}, found {list(truth.shape)}"
        )


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().to("cpu", torch.float64).clamp(0, 1).numpy()
