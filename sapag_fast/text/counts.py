"""How often which sentence stands in a batch, and with which label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.runtime.extras import needs
from sapag_fast.text.network import Tables, TextNetwork

__all__ = ["Counted", "count_sentences", "told_rows"]

_DIFFERENCE = 1e-3
"""The most by which the gradient at the sentences differs from the target, of its length."""
_OFF = 0.25
"""The most by which a count is off a whole number."""


@dataclass(frozen=True, eq=False)
class Counted:
    """The batch.

    Attributes
    ----------
    sentences : Tensor
        ``[N]``, int64, which sentence.
    labels : Tensor
        ``[N]``, int64, with which label.
    difference : float
        What is left of the target beside the batch's gradient, relative to the target's length.
    sure : bool
        Whether every count came out as a whole number.
    """

    sentences: Tensor
    labels: Tensor
    difference: float
    sure: bool

    @property
    def agrees(self) -> bool:
        """Whether the gradient at the batch is the target."""
        return self.difference <= _DIFFERENCE


def told_rows(counted: Counted, batch_size: int) -> list[int]:
    """Which of the counted sentences are told: each once, where how often it stands does not follow."""
    if len(counted.labels) == batch_size and counted.agrees:
        return list(range(batch_size))
    first: dict[int, int] = {}
    for row, sentence in enumerate(counted.sentences.tolist()):
        first.setdefault(sentence, row)
    return list(first.values())[:batch_size]


def count_sentences(
    model: nn.Module, tables: Tables, sentences: Tensor, target: Sequence[Tensor | None], batch_size: int
) -> Counted:
    """Solve target = Σ n_sc g_sc / B for counts n of sentences ``[S, T]`` with labels c, none negative.

    Parameters
    ----------
    model : nn.Module
        Takes ``inputs_embeds=``.
    tables : Tables
        Its embeddings.
    sentences : Tensor
        ``[S, T]``, different ones.
    target : sequence of Tensor or None
        The gradient of the mean cross-entropy.
    batch_size : int
        B.
    """
    with needs("text", "batches of sentences"):
        from scipy.optimize import nnls

    columns, classes = _gradients(model, tables, sentences, target)
    goal = torch.cat([entry.flatten() for entry in target if entry is not None]).double().cpu()
    sizes = columns.norm(dim=1).clamp(min=1e-300)
    unit = columns / sizes[:, None]
    # Columns of classes that point the same way share a direction: the factor serves them all.
    gram = unit @ unit.mT
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-12 * values[-1]
    root = values[kept].sqrt()
    factor = root[:, None] * vectors[:, kept].mT
    right = (vectors[:, kept].mT @ (unit @ goal)) / root
    shares, _ = nnls(factor.numpy(), right.numpy())
    counts = batch_size * torch.from_numpy(shares) / sizes
    whole = counts.round().long()
    if len(sentences) == batch_size or int(whole.sum()) > batch_size:
        # Each stands there once at least, however few of its digits are left.
        label = counts.view(-1, classes).argmax(1)
        whole = F.one_hot(label, classes).flatten()
    chosen = torch.arange(len(whole)).repeat_interleave(whole)
    left = goal - (whole.double() / batch_size) @ columns
    difference = float(left.norm() / goal.norm().clamp(min=1e-300))
    device = sentences.device
    sure = bool(((counts - whole).abs() <= _OFF).all())
    return Counted((chosen // classes).to(device), (chosen % classes).to(device), difference, sure)


def _gradients(
    model: nn.Module, tables: Tables, sentences: Tensor, target: Sequence[Tensor | None]
) -> tuple[Tensor, int]:
    """Each sentence's gradient with each label, ``[S x classes, numbers]``, float64, and the classes."""
    trained = [p for p in model.parameters() if p.requires_grad]
    rows = []
    classes = 0
    for sentence in sentences:
        with torch.enable_grad():
            logits = TextNetwork(model)(F.embedding(sentence[None], tables.word.weight))
            classes = logits.shape[-1]
            for label in range(classes):
                loss = F.cross_entropy(logits, logits.new_tensor([label], dtype=torch.long))
                slopes = torch.autograd.grad(loss, trained, allow_unused=True, retain_graph=True)
                parts = [
                    (torch.zeros_like(t) if slope is None else slope).flatten()
                    for slope, t in zip(slopes, target, strict=True)
                    if t is not None
                ]
                rows.append(torch.cat(parts).double().cpu())
    return torch.stack(rows), classes
