"""Two attacks that read a sentence from the gradient's rows: baselines, and starts of the search."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.text.bag import Bag
from sapag_fast.text.network import TextNetwork

__all__ = [
    "first_layer_inputs",
    "first_layers",
    "is_linear",
    "layer_rows",
    "match_positions",
    "span_residuals",
    "span_test",
]

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


def first_layer_inputs(model: nn.Module, layer: nn.Module, embeddings: Tensor) -> Tensor:
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


def is_linear(module: nn.Module) -> bool:
    """Whether it is `nn.Linear`, or the layer of that kind that Hugging Face's GPT-2 has."""
    return isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def first_layers(model: nn.Module, embedding: nn.Embedding) -> list[nn.Module]:
    """The linear layers that work on the same tensor as the first one: q, k and v.

    Raises
    ------
    ValueError
        When there is none, or the first one does not take a vector for each token.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append((module, args[0]))

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if is_linear(m)]
    try:
        with torch.no_grad():
            TextNetwork(model)(embedding.weight[:2][None])
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("model: the span test needs a linear layer, found none")
    first = seen[0][1]
    if first.dim() != 3 or first.shape[:2] != (1, 2):
        raise ValueError(
            "model: the span test needs a first linear layer that takes a vector for each token, found one "
            f"that is fed {list(first.shape)} for a sentence of 2"
        )
    return [module for module, entered in seen if entered is first]


def layer_rows(model: nn.Module, target: Sequence[Tensor | None], layers: Sequence[nn.Module]) -> Tensor:
    """What the gradients of these layers' weights have for each output, ``[rows, features]``, float64.

    Each layer's are divided by their norm.

    Raises
    ------
    ValueError
        When all of them are missing.
    """
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    found = []
    for layer in layers:
        row = target[trained.index(id(layer.weight))] if id(layer.weight) in trained else None
        if row is not None:
            row = (row if isinstance(layer, nn.Linear) else row.mT).double()
            found.append(row / row.norm().clamp(min=1e-300))
    if not found:
        raise ValueError("target: the span test needs the gradient of the first linear layer's weight")
    return torch.cat(found)


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
        When the first linear layers' gradients are missing, or there is no such layer.
    """
    layers = first_layers(model, embedding)
    _, sizes, basis = torch.linalg.svd(layer_rows(model, target, layers), full_matrices=False)
    basis = basis[: min(length, int((sizes > _RELATIVE_RANK * sizes[0]).sum()))]
    shares = []
    for some in tokens.split(_PROBED_AT_ONCE):
        embeddings = embedding.weight.detach()[some][:, None].expand(-1, length, -1)
        inputs = first_layer_inputs(model, layers[0], embeddings).double()
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
