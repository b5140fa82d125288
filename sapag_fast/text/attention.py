"""Which of the first linear layers are an attention's queries and keys, and how wide its heads are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast.text.analytic import is_linear
from sapag_fast.text.network import TextNetwork

__all__ = ["Attention", "find_attention"]


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention whose queries and keys come from linear layers of their own.

    Attributes
    ----------
    query, key : nn.Linear
        Fed the same tensor.
    head : int
        Outputs that belong to one head; heads follow one another.
    """

    query: nn.Linear
    key: nn.Linear
    head: int


def find_attention(
    model: nn.Module, layers: Sequence[nn.Module], table: Tensor, length: int
) -> Attention | None:
    """Tell by the slopes of what attention gives at its first position.

    The queries of other positions do not matter there, one value alone enters each number, and what is left
    are keys.

    Parameters
    ----------
    model : nn.Module
        Takes ``inputs_embeds=``.
    layers : sequence of nn.Module
        Those that are fed the same tensor.
    table : Tensor
        ``[vocabulary, H]``.
    length : int
        T.

    Returns
    -------
    Attention or None
        None: these layers are no attention's, or one layer gives queries and keys.
    """
    given: dict[int, Tensor] = {}
    mixed: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if any(module is layer for layer in layers):
            given[id(module)] = output
        elif len(given) == len(layers):
            mixed.append(args[0])

    hooks = [m.register_forward_hook(note) for m in model.modules() if is_linear(m)]
    try:
        with torch.enable_grad():
            TextNetwork(model)(table[torch.arange(length) % len(table)][None].requires_grad_())
            if not mixed or mixed[0].dim() != 3:
                return None
            outputs = [given[id(layer)] for layer in layers]
            flows = torch.autograd.grad(mixed[0][0, 0, 0], outputs, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    query, key, head = None, None, 0
    for layer, flow in zip(layers, flows, strict=True):
        moved = torch.zeros(1, 1, dtype=torch.bool) if flow is None else flow[0] != 0
        if int(moved.any(0).sum()) > 1 and isinstance(layer, nn.Linear):
            if int(moved.any(1).sum()) == 1:
                query, head = layer, int(moved.any(0).sum())
            else:
                key = layer
    fits = query is not None and key is not None and query.weight.shape == key.weight.shape
    if query is None or key is None or not fits or query.out_features % head:
        return None
    return Attention(query, key, head)
