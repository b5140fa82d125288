"""What a sentence feeds the linear layers of a network, beside what these layers' gradients span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sapag_fast.text.analytic import is_linear, layer_rows
from sapag_fast.text.network import TextNetwork

__all__ = ["Span", "Spans"]

_RELATIVE_RANK = 2e-7
"""Singular values below this part of the largest are rounding's, in float32."""
_GAP = 10.0
"""Between the last that counts and the next: with less, what some inputs leave may be under rounding."""


@dataclass(eq=False)
class Span:
    """Linear layers that are fed the same tensor, and in whose gradients the same positions take part.

    Attributes
    ----------
    layers : list of nn.Module
        Their weights' gradients are Σ b_t x_tᵀ.
    active : Tensor
        ``[T]``, bool, the positions where b_t is not zero.
    basis : Tensor
        ``[rank, features]``, float64: what the x_t of all sentences span, as long as the b_t are independent.
    rows : int
        Of the gradients, outputs of all layers.
    sharp : bool
        Whether singular values show where rounding begins.
    """

    layers: list[nn.Module]
    active: Tensor
    basis: Tensor = field(init=False)
    rows: int = field(init=False)
    sharp: bool = field(init=False)

    @property
    def features(self) -> int:
        """Of x_t."""
        return self.basis.shape[1]

    @property
    def rank(self) -> int:
        """Of the gradients."""
        return len(self.basis)

    @property
    def tells(self) -> bool:
        """Whether there are vectors outside, and the rank may be the number of x_t."""
        return self.rank < min(self.features, self.rows)

    def outside(self, inputs: Tensor) -> Tensor:
        """Part of the norm of ``[..., features]`` that lies outside, 0..1, float64."""
        inputs = inputs.double()
        rest = inputs - inputs @ self.basis.mT @ self.basis
        return rest.norm(dim=-1) / inputs.norm(dim=-1).clamp(min=1e-300)


def _whole(spans: Sequence[Span]) -> list[Span]:
    """Those of the largest rank among the ones with the same active positions."""
    most: dict[tuple[bool, ...], int] = {}
    for span in spans:
        key = tuple(span.active.tolist())
        most[key] = max(span.rank, most.get(key, 0))
    return [span for span in spans if span.rank == most[tuple(span.active.tolist())]]


class Spans:
    """All such layers of a model that take a vector for each token.

    Parameters
    ----------
    model : nn.Module
        Takes ``inputs_embeds=``.
    target : sequence of Tensor or None
        The gradient of one victim, a batch of sentences.
    embedding : nn.Embedding
        Of words.
    length : int
        T.

    Raises
    ------
    ValueError
        When there is no such layer, or its gradient is missing.

    Attributes
    ----------
    first : Span
        Of the layers whose inputs no attention has mixed.
    later : list of Span
        The others that tell, of the largest rank for their positions: all have as many x_t, and where the
        rank is less the b_t depend on each other, as those of attention that one query alone reads.
    causal : bool
        Whether what comes later changes no input at earlier positions.
    """

    def __init__(
        self, model: nn.Module, target: Sequence[Tensor | None], embedding: nn.Embedding, length: int
    ) -> None:
        self.model, self.table = model, embedding.weight.detach()
        probe = torch.arange(length, device=self.table.device) % len(self.table)
        calls, flows = self._probed(probe)
        found: dict[tuple[int, tuple[bool, ...]], Span] = {}
        for (layer, entered), flow in zip(calls, flows, strict=True):
            if entered.dim() != 3 or entered.shape[:2] != (1, length) or flow is None:
                continue
            active = flow[0].abs().amax(-1) > 0
            span = found.setdefault((id(entered), tuple(active.tolist())), Span([], active))
            span.layers.append(layer)
        spans = []
        for span in found.values():
            try:
                rows = layer_rows(model, target, span.layers)
            except ValueError:
                continue
            _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
            span.rows = len(rows)
            rank = int((sizes > _RELATIVE_RANK * sizes[0]).sum())
            span.basis = basis[:rank]
            span.sharp = rank == len(sizes) or float(sizes[rank - 1]) > _GAP * float(sizes[rank])
            spans.append(span)
        if not spans or spans[0].layers[0] is not calls[0][0]:
            raise ValueError(
                "model: the span test needs a first linear layer that takes a vector for each token, and the "
                "gradient of its weight"
            )
        later = [span for span in spans[1:] if span.tells]
        self.first, self.later = spans[0], _whole([span for span in later if span.sharp] or later)
        other = probe.clone()
        other[-1] = (other[-1] + 1) % len(self.table)
        both = self.inputs(torch.stack((probe, other)), self.later)
        self.causal = bool(self.later) and all(torch.equal(x[0, :-1], x[1, :-1]) for x in both)

    def _probed(self, probe: Tensor) -> tuple[list[tuple[nn.Module, Tensor]], Sequence[Tensor | None]]:
        """Layers with what they are fed, in order, and the slopes of a sum of outputs at what they give."""
        calls: list[tuple[nn.Module, Tensor]] = []
        given: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append((module, args[0]))
            given.append(output)

        hooks = [m.register_forward_hook(note) for m in self.model.modules() if is_linear(m)]
        try:
            with torch.enable_grad():
                logits = TextNetwork(self.model)(self.table[probe][None].requires_grad_())
                weights = torch.arange(1.0, logits.shape[-1] + 1).to(logits)
                flows = torch.autograd.grad((logits.softmax(-1) * weights).sum(), given, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        return calls, flows

    def inputs(self, sentences: Tensor, spans: Sequence[Span]) -> list[Tensor]:
        """What the spans' layers are fed for sentences ``[N, T]``: ``[N, T, features]`` each."""
        seen: dict[int, Tensor] = {}

        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[id(module)] = args[0]

        hooks = [span.layers[0].register_forward_pre_hook(note) for span in spans]
        try:
            with torch.no_grad():
                TextNetwork(self.model)(self.table[sentences])
        finally:
            for hook in hooks:
                hook.remove()
        return [seen[id(span.layers[0])] for span in spans]

    def worst(self, sentences: Tensor) -> Tensor:
        """How far sentences lie outside of the later spans at most, ``[N]``."""
        return self._outside(sentences).amax(-1)

    def mean(self, sentences: Tensor) -> Tensor:
        """The mean square of that, ``[N]``."""
        return self._outside(sentences).square().mean(-1)

    def _outside(self, sentences: Tensor) -> Tensor:
        """``[N, positions of all later spans]``; of a prefix those of its last position alone."""
        length, found = sentences.shape[1], []
        for span, inputs in zip(self.later, self.inputs(sentences, self.later), strict=True):
            active = span.active[:length].clone()
            if length < len(span.active):
                active[:-1] = False
            found.append(span.outside(inputs[:, active]))
        return torch.cat(found, 1)
