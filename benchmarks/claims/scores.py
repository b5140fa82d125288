"""What a recovery is worth: one entry an image, and the cell's curve and pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.shared.victims import SUCCESS
from sapag_fast.recovery.recover import Recovery
from sapag_fast.reports.metrics import Scores, assign, score
from sapag_fast.reports.pictures import to_picture

__all__ = ["median_curve", "restart_images", "strip", "victim_entries"]

CURVE_POINTS = 40


def _scores(recovered: Tensor, truth: Tensor, labels: Tensor, answer: Tensor) -> list[Scores]:
    """Scores of B true images ``[B, C, H, W]``, each against the recovered one that is paired with it."""
    order = assign(recovered, truth, labels, answer)
    scores = {true: score(recovered[ours], truth[true]) for ours, true in enumerate(order)}
    return [scores[true] for true in range(len(order))]


def _recovered(found: Scores) -> bool:
    return math.isfinite(found.mse) and found.mse < SUCCESS


def victim_entries(
    found: Recovery,
    truth: Tensor,
    answer: Tensor,
    places: Sequence[Sequence[int]],
    network: int,
) -> list[dict[str, object]]:
    """One entry for each image of each victim: truth ``[V, B, C, H, W]``, answer (the labels) ``[V, B]``.

    ``evaluations`` are those of all the victim's restarts; ``evaluations to success`` those of its restarts,
    in the order in which they begin, up to the end of the first that recovers the image; ``restarts`` says
    of each whether it has, null for those that never began or were cut short.
    """
    entries = []
    certificates = getattr(found, "certificate", None)
    for victim, (true, real) in enumerate(zip(truth, answer, strict=True)):
        labels = found.labels[victim]
        spent = found.restarts.evaluations[victim].tolist()
        each = [
            _scores(inputs, true, labels, real) if begun else None
            for inputs, begun in zip(found.restarts.inputs[victim], spent, strict=True)
        ]
        chosen = _scores(found.inputs[victim], true, labels, real)
        certificate = None if certificates is None else certificates[victim]
        certified = getattr(certificate, "status", certificate) == "certified"
        # Restarts that a certificate has cut short have not failed.
        whole = max(spent) if certified else 0
        labelled = sorted(labels.tolist()) == sorted(real.tolist())
        for place, image in enumerate(chosen):
            hits = [
                None if one is None else _recovered(one[place]) or (None if count < whole else False)
                for one, count in zip(each, spent, strict=True)
            ]
            first = hits.index(True) if True in hits else None
            entries.append(
                {
                    "victim": places[victim][place],
                    "network": network,
                    "success": _recovered(image),
                    "mse": image.mse,
                    "psnr": image.psnr,
                    "ssim": image.ssim,
                    "distance": found.distance[victim].item(),
                    "labels": labelled,
                    "evaluations": sum(spent),
                    "evaluations to success": None if first is None else sum(spent[: first + 1]),
                    "restarts": hits,
                }
            )
            if certificate is not None:
                entries[-1]["certificate"] = "certified" if certified else "unknown"
    return entries


def median_curve(histories: Sequence[Tensor], errors: Sequence[Tensor]) -> dict[str, list[float | None]]:
    """The median over all victims of the lowest distance so far and, where errors ``[E, V]`` were traced, of
    the PSNR of the iterate with that distance, at about 40 evaluations.
    """
    distances = _lowest(histories)
    if distances.shape[0] == 0:
        return {}
    total = distances.shape[0]
    at = np.unique(np.geomspace(1, total, CURVE_POINTS).round().astype(int)) - 1
    curve = {
        "evaluations": (at + 1).tolist(),
        "distance": np.nanmedian(distances[at], axis=1).tolist(),
    }
    if errors:
        # The history's argmin so far says which iterate would be handed out.
        paired = []
        for history, error in zip(histories, errors, strict=True):
            values = np.where(np.isnan(history.numpy()), np.inf, history.numpy())
            steps = min(len(values), len(error))
            best = np.zeros(values.shape[1], dtype=int)
            rows = []
            for step in range(steps):
                best = np.where(values[step] < values[best, np.arange(len(best))], step, best)
                rows.append(error.numpy()[best, np.arange(len(best))])
            paired.append(np.stack(rows))
        steps = min(len(rows) for rows in paired)
        mse = np.concatenate([rows[:steps] for rows in paired], axis=1)
        psnr = -10 * np.log10(np.maximum(mse, 1e-12))
        curve["psnr"] = np.median(psnr[np.minimum(at, steps - 1)], axis=1).tolist()
    return curve


def _lowest(histories: Sequence[Tensor]) -> np.ndarray:
    """``[E, V]``, the lowest distance so far of all victims, that of the last evaluation after the end."""
    longest = max((history.shape[0] for history in histories), default=0)
    columns = []
    for history in histories:
        lowest = np.fmin.accumulate(history.double().cpu().numpy(), axis=0)
        columns.append(np.pad(lowest, ((0, longest - len(lowest)), (0, 0)), mode="edge"))
    return np.concatenate(columns, axis=1) if longest else np.empty((0, 0))


def restart_images(found: Recovery, truth: Tensor, answer: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a true image and the recovered one, the first of each victim's batch."""
    pairs = []
    for victim, (true, real) in enumerate(zip(truth, answer, strict=True)):
        order = assign(found.inputs[victim], true, found.labels[victim], real)
        pairs.append((true[0], found.inputs[victim][order.index(0)]))
    return pairs


def strip(pairs: Sequence[tuple[Tensor, Tensor]]) -> str:
    """True images above, recovered ones below, as a PNG in base64."""
    rows = [torch.cat([pair[side].clamp(0, 1) for pair in pairs], 2) for side in (0, 1)]
    buffer = io.BytesIO()
    to_picture(torch.cat(rows, 1)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
