"""A small BERT-style encoder that classifies a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["Encoder", "EncoderOptions"]


@dataclass(frozen=True)
class EncoderOptions:
    """What an `Encoder` is made of.

    Attributes
    ----------
    vocabulary : int
        Rows of the word embedding.
    max_length : int
        Rows of the position embedding: the longest sentence.
    classes : int
        Outputs.
    activation : str, module class, module or function
        Of each token's network, as `make_activation` takes it.
    width, layers, heads, hidden : int
        H, the number of encoder layers, of heads in each, and of units in each token's network (None: 4 H).
    dropout : float
        After embeddings, attention and both networks, in training mode.
    padding : int, optional
        The token that fills up short sentences: no other token attends to it, its embedding is zero.

    Raises
    ------
    ValueError
        When `heads` does not divide `width`, or `padding` is not a token.
    """

    vocabulary: int = 1000
    max_length: int = 64
    classes: int = 2
    activation: Activation = nn.GELU
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int | None = None
    dropout: float = 0.0
    padding: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "max_length", "classes", "width", "layers", "heads"):
            check.check_count(name, getattr(self, name))
        if self.hidden is not None:
            check.check_count("hidden", self.hidden)
        check.check_fraction("dropout", self.dropout)
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of the width {self.width}, found {self.heads}")
        if self.padding is not None:
            check.check_count("padding", self.padding, least=0, most=self.vocabulary - 1)


class _EncoderLayer(nn.Module):
    """Self-attention and a network for each token, each followed by a residual sum and normalisation.

    Attention is linear layers and plain matrix products: fused attention has no second derivative.
    """

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        self.heads = options.heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = make_activation(options.activation)
        self.output_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """``[B, T, H]``; `padded`, bool ``[B, T]``, tells which tokens no other one may look at."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        if padded is not None:
            scores = scores.masked_fill(padded[:, None, None, :], float("-inf"))
        mixed = (self.dropout(scores.softmax(-1)) @ value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.dropout(self.out(mixed)))
        return self.output_norm(x + self.dropout(self.down(self.activation(self.up(x)))))


class Encoder(nn.Module):
    """Word and position embeddings, encoder layers, and a linear classifier on the first token.

    Source: Devlin et al., "BERT" (2019): normalisation after each residual sum and after the embeddings;
    without segment embeddings and without the pooling layer. Output ``[B, classes]``.

    Parameters
    ----------
    options : EncoderOptions, optional
        Sizes and parts; None: the usual ones.
    """

    def __init__(self, options: EncoderOptions | None = None) -> None:
        super().__init__()
        options = options or EncoderOptions()
        width = options.width
        self.word = nn.Embedding(options.vocabulary, width, padding_idx=options.padding)
        self.position = nn.Embedding(options.max_length, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)
        self.layers = nn.ModuleList(_EncoderLayer(options) for _ in range(options.layers))
        self.fc = nn.Linear(width, options.classes)

    def forward(self, inputs: Tensor | None = None, *, inputs_embeds: Tensor | None = None) -> Tensor:
        """Classify sentences.

        Parameters
        ----------
        inputs : Tensor
            Tokens ``[B, T]``, integers, or what takes the place of their word embeddings, ``[B, T, H]``.
        inputs_embeds : Tensor
            The latter by the name that Hugging Face models give it.

        Returns
        -------
        Tensor
            Logits ``[B, classes]``.

        Raises
        ------
        ValueError
            Unless exactly one is given, of a shape that fits.
        """
        given = inputs if inputs_embeds is None else inputs_embeds
        if given is None or (inputs is not None and inputs_embeds is not None):
            raise ValueError("inputs, inputs_embeds: expected exactly one of them")
        continuous = given.is_floating_point()
        width, longest = self.word.embedding_dim, self.position.num_embeddings
        if given.dim() != 2 + continuous or (continuous and given.shape[2] != width):
            found = f"{given.dtype} {list(given.shape)}"
            raise ValueError(f"inputs: expected tokens [B, T] or embeddings [B, T, {width}], found {found}")
        if given.shape[1] > longest:
            raise ValueError(f"inputs: expected at most {longest} tokens, found {given.shape[1]}")
        padding = self.word.padding_idx
        padded = None if continuous or padding is None else given == padding
        # Every sentence its own positions: a table that is shared by the batch could be taken for its rows.
        positions = torch.arange(given.shape[1], device=given.device).expand(given.shape[0], -1)
        embedded = (given if continuous else self.word(given)) + self.position(positions)
        x = self.dropout(self.embedding_norm(embedded))
        for layer in self.layers:
            x = layer(x, padded)
        return self.fc(x[:, 0])
