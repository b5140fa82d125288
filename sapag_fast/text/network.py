"""The victim's model as a function of its word embeddings, and where its embedding tables are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Tables", "TextNetwork", "differentiable_layers", "find_tables"]


class TextNetwork(nn.Module):
    """Logits ``[B, classes]`` from word embeddings ``[B, T, H]``.

    Parameters
    ----------
    model : nn.Module
        Takes ``inputs_embeds=`` and gives logits, or an object that has them as ``.logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of word embeddings ``[B, T, H]``."""
        output = self.model(inputs_embeds=inputs)
        return output if isinstance(output, Tensor) else output.logits


@dataclass(frozen=True)
class Tables:
    """A model's embedding tables.

    Attributes
    ----------
    word : nn.Embedding
        ``[vocabulary, H]``.
    word_entry : int or None
        Where its gradient stands among those of the trainable parameters; None if it is not trained.
    position : nn.Embedding or None
        ``[rows, H]``, where there is one.
    position_entry : int or None
        Likewise.
    first_position : int
        Row of the first token's position.
    """

    word: nn.Embedding
    word_entry: int | None
    position: nn.Embedding | None
    position_entry: int | None
    first_position: int

    @property
    def entries(self) -> tuple[int, ...]:
        """The gradients that tell tokens and positions row by row, and that the matching leaves out."""
        return tuple(e for e in (self.word_entry, self.position_entry) if e is not None)


_TRIAL_LENGTH = 3


def find_tables(model: nn.Module, embedding: nn.Embedding | None = None) -> Tables:
    """Look at the model, and run it once on three tokens.

    Parameters
    ----------
    model : nn.Module
        Takes ``inputs_embeds=``.
    embedding : nn.Embedding, optional
        The word embedding; None: what ``get_input_embeddings()`` gives (Hugging Face), or the module called
        ``word``.

    Returns
    -------
    Tables
        The word embedding, and the position embedding where there is one.

    Raises
    ------
    TypeError
        When `embedding` is something else.
    ValueError
        When there is no word embedding, or the model does not take ``inputs_embeds``.
    """
    word = _word_embedding(model) if embedding is None else embedding
    if not isinstance(word, nn.Embedding):
        raise TypeError(f"embedding must be a torch.nn.Embedding, found {type(word).__name__}")
    if not any(module is word for module in model.modules()):
        raise ValueError("embedding: expected a module of the model, found another one")
    looked_up: list[tuple[nn.Embedding, Tensor]] = []
    others = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not word]

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Embedding)
        looked_up.append((module, args[0]))

    hooks = [module.register_forward_pre_hook(note) for module in others]
    weight = word.weight
    trial = torch.zeros(1, _TRIAL_LENGTH, weight.shape[1], dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            output = TextNetwork(model)(trial)
    except Exception as error:
        raise ValueError(
            f"model: expected one that takes inputs_embeds [B, T, {weight.shape[1]}] and gives logits "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model: expected logits [B, classes], found {found}")
    position, first = _position_embedding(looked_up)
    trained = [p for p in model.parameters() if p.requires_grad]
    entries = [
        next((i for i, p in enumerate(trained) if table is not None and p is table.weight), None)
        for table in (word, position)
    ]
    return Tables(word, entries[0], position, entries[1], first)


def _word_embedding(model: nn.Module) -> nn.Module:
    getter = getattr(model, "get_input_embeddings", None)
    if callable(getter):
        return cast(nn.Module, getter())
    word = getattr(model, "word", None)
    if isinstance(word, nn.Embedding):
        return word
    raise ValueError(
        "embedding: the model neither has get_input_embeddings() nor a word embedding called word; give "
        "embedding="
    )


def _position_embedding(looked_up: list[tuple[nn.Embedding, Tensor]]) -> tuple[nn.Embedding | None, int]:
    """The table whose consecutive rows were looked up for consecutive tokens, and the first of them."""
    for module, indices in looked_up:
        rows = indices.flatten().tolist()
        if rows == list(range(rows[0], rows[0] + _TRIAL_LENGTH)):
            return module, rows[0]
    return None, 0


@contextlib.contextmanager
def differentiable_layers(model: nn.Module) -> Iterator[None]:
    """Have attention and recurrent layers computed plainly: fused kernels have no second derivative.

    PyTorch's own attention takes its mathematical form, Hugging Face models their ``eager`` implementation,
    and models with recurrent layers do without cuDNN, as long as this lasts.
    """
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", "eager") not in ("eager", None):
            configs[id(config)] = config
    before = [(config, config._attn_implementation) for config in configs.values()]
    cudnn = torch.backends.cudnn.enabled
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        torch.backends.cudnn.enabled = cudnn and not recurrent
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for config, implementation in before:
            config._attn_implementation = implementation
