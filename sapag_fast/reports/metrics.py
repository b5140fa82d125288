"""How close recovered images are to the true ones, on pixels in [0, 1], and which recovered image is which
true one.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sapag_fast.runtime.extras import needs

with needs("data", "scores of images"):
    from scipy.optimize import linear_sum_assignment
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

SUCCESS_PSNR = 25.0
"""dB from which the demo calls an image recovered."""


@dataclass(frozen=True)
class Scores:
    """One recovered image against the true one; ``psnr`` is inf for equal images, ``ssim`` nan where it is
    not defined.
    """

    mse: float
    psnr: float
    ssim: float

    @property
    def success(self) -> bool:
        return self.psnr >= SUCCESS_PSNR


def score(recovered: Tensor, truth: Tensor) -> Scores:
    """Scores of one input [C, H, W] (or of any other shape, then without SSIM), first clamped to [0, 1] as a
    PNG would be.

    A recovered input with non-finite values scores nan throughout. Raises ValueError when the shapes differ.
    """
    if recovered.shape != truth.shape:
        raise ValueError(
            f"recovered input {tuple(recovered.shape)} and true input {tuple(truth.shape)} differ in shape"
        )
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
    return float(structural_similarity(true, ours, win_size=window, data_range=1.0, channel_axis=0))


def assign(
    recovered: Tensor, truth: Tensor, labels: Tensor | None = None, true_labels: Tensor | None = None
) -> list[int]:
    """For each of B recovered inputs the index of its true one: the pairing with the least total squared
    error.

    A gradient does not tell the order of its batch. Where the labels [B] are known and are the same multiset
    on both sides, only inputs of one label are paired. Raises ValueError when the batches differ in shape.
    """
    if recovered.shape != truth.shape:
        raise ValueError(
            f"recovered batch {tuple(recovered.shape)} and true batch {tuple(truth.shape)} differ in shape"
        )
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


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().to("cpu", torch.float64).clamp(0, 1).numpy()
