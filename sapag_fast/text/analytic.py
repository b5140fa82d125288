"""Two attacks that read a sentence from the gradient's rows: baselines, and starts of the search."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.text.bag import Bag
from sapag_fast.text.network import TextNetwork

__all__ = ["match_positions", "span_residuals", "span_test"]

_PROBED_AT_ONCE = 256
_RELATIVE_RANK = 1e-5
"""Singular values below this part of the largest are rounding's, in float32."""


def match_positions(word_gradient: Tensor, position_gradient: Tensor, bag: Bag, first: int = 0) -> Tensor:
    """Tell which token of the bag stands where, from the two embeddings' gradients.

    The sum of both embeddings enters the network, so that the row of position t is the gradient at that sum,
    and the row of a token is the sum of the rows of the positions where it stands. A token that stands once
    has the very row of its position; each position takes the token whose row fits it best, and positions
    that are left go to the tokens whose sums still miss something.

    Parameters
    ----------
    word_gradient : Tensor
        ``[vocabulary, H]``.
    position_gradient : Tensor
        ``[rows, H]``.
    bag : Bag
        The tokens, and T.
    first : int
        The first token's row in `position_gradient`.

    Returns
    -------
    Tensor
        ``[T]``, int64.
    """
    missing = word_gradient[bag.tokens].double().clone()
    positions = position_gradient[first : first + bag.length].double()
    open_positions = list(range(bag.length))
    sentence = torch.empty(bag.length, dtype=torch.long, device=word_gradient.device)
    scale = positions.norm(dim=1).clamp(min=1e-300)
    while open_positions:
        rows = positions[open_positions]
        # How much of what a token misses is gone once the position's row is taken from it.
        left = (missing[None] - rows[:, None]).norm(dim=2) - missing.norm(dim=1)
        gain = left / scale[open_positions, None]
        flat = int(gain.argmin())
        row, token = divmod(flat, len(bag.tokens))
        position = open_positions.pop(row)
        missing[token] -= positions[position]
        sentence[position] = bag.tokens[token]
    return sentence


class _Reached(Exception):  # noqa: N818 (an answer, not an error)
    pass


def _first_layer_inputs(model: nn.Module, layer: nn.Linear, embeddings: Tensor) -> Tensor:
    """What enters `layer` for word embeddings ``[N, T, H]``: ``[N, T, features]``."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise _Reached

    hook = layer.register_forward_pre_hook(note)
    try:
        with torch.no_grad(), contextlib.suppress(_Reached):
            TextNetwork(model)(embeddings)
    finally:
        hook.remove()
    return seen[0]


def _first_layers(model: nn.Module, embedding: nn.Embedding) -> list[nn.Linear]:
    """The linear layers that work on the same tensor as the first one: q, k and v."""
    seen: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Linear)
        seen.append((module, args[0]))

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note) for module in linear]
    try:
        with torch.no_grad():
            TextNetwork(model)(embedding.weight[:2][None])
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("model: the span test needs a linear layer, found none")
    return [module for module, entered in seen if entered is seen[0][1]]


def span_residuals(
    model: nn.Module, target: Sequence[Tensor | None], embedding: nn.Embedding, tokens: Tensor, length: int
) -> Tensor:
    """Measure how far each token's input lies outside of what the first layer's gradients span.

    The gradient of a linear layer's weight is Σ_t b_t x_tᵀ over the tokens: its rows span the x_t, as long as
    there are fewer of them than features.

    Parameters
    ----------
    model : nn.Module
        The victim's network.
    target : sequence of Tensor or None
        The gradient of one victim, in the order of the trainable parameters.
    embedding : nn.Embedding
        The word embedding, ``[vocabulary, H]``.
    tokens : Tensor
        ``[K]``, the candidates.
    length : int
        T.

    Returns
    -------
    Tensor
        ``[T, K]``, the part of the input's norm that lies outside, 0..1.

    Raises
    ------
    ValueError
        When the first linear layers' gradients are missing.
    """
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    layers = _first_layers(model, embedding)
    entries = [trained.index(id(layer.weight)) for layer in layers if id(layer.weight) in trained]
    rows = [row for entry in entries if (row := target[entry]) is not None]
    if not rows:
        raise ValueError("target: the span test needs the gradient of the first linear layer's weight")
    scaled = torch.cat([row.double() / row.double().norm().clamp(min=1e-300) for row in rows])
    _, sizes, basis = torch.linalg.svd(scaled, full_matrices=False)
    basis = basis[: min(length, int((sizes > _RELATIVE_RANK * sizes[0]).sum()))]
    shares = []
    for some in tokens.split(_PROBED_AT_ONCE):
        embeddings = embedding.weight.detach()[some][:, None].expand(-1, length, -1)
        inputs = _first_layer_inputs(model, layers[0], embeddings).double()
        outside = inputs - inputs @ basis.mT @ basis
        shares.append(outside.norm(dim=-1) / inputs.norm(dim=-1))
    return torch.cat(shares).mT


def span_test(
    model: nn.Module,
    target: Sequence[Tensor | None],
    embedding: nn.Embedding,
    length: int,
    bag: Bag | None = None,
) -> Tensor:
    """At each position the token that fits best into what the first layer's gradients span.

    Parameters
    ----------
    model, target, embedding, length
        As for `span_residuals`.
    bag : Bag, optional
        Its tokens alone are candidates; None: all tokens.

    Returns
    -------
    Tensor
        ``[T]``, int64.
    """
    count = embedding.weight.shape[0]
    tokens = torch.arange(count, device=embedding.weight.device) if bag is None else bag.tokens
    return tokens[span_residuals(model, target, embedding, tokens, length).argmin(1)]
