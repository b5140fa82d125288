"""What commands that recover sentences share: which options go with ``--text``, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from torch import nn

from sapag_fast.text.network import find_tables
from sapag_fast.text.options import TextOptions
from sapag_fast.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["taken_from", "text_options_of", "tokenizer_for", "with_text"]

_OF_SENTENCES = ("tokenizer", "length", "tokens", "candidates", "start", "embedding")
_OF_BOTH = (
    *(
        "model_reference",
        "weights",
        "gradients",
        "before",
        "after",
        "lr",
        "truth",
        "device",
        "seed",
        "output",
        "overwrite",
    ),
    *("text", "labels", "restarts", "recipe", "distance", "layers", "steps", "exact", "at_once"),
)
_OF_LOSSES = ("loss", "label_smoothing", "class_weights", "pos_weight")
_USUAL_LOSS = "cross-entropy"


def with_text(options: MutableMapping[str, Any]) -> bool:
    """Whether sentences are asked for; takes out of the options what then has no meaning.

    Raises
    ------
    ValueError
        For an option that was given and goes with the other kind of data alone.
    """
    context = click.get_current_context()
    text = options.pop("text")
    for parameter in context.command.params:
        name = parameter.name or ""
        default = context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE
        other = name not in _OF_SENTENCES + _OF_BOTH if text else name in _OF_SENTENCES
        if other and not default and not (text and options[name] == _USUAL_LOSS):
            if text and name in _OF_LOSSES:
                raise ValueError(_loss_refused(parameter.opts[0], options[name]))
            kind = "does not go with --text" if text else "is for sentences: give --text"
            raise ValueError(f"{parameter.opts[0]}: {kind}")
        if other:
            options.pop(name, None)
    if text and options["labels"] == "joint":
        raise ValueError("--labels: with --text expected 'infer' or true labels, found 'joint'")
    return text


def _loss_refused(option: str, value: object) -> str:
    return (
        f"{option}: expected none, or --loss {_USUAL_LOSS}, with --text, found {value}: results of sentences "
        "hold one class each, and their certificates were measured with plain cross-entropy; "
        "sapag_fast.recover_text takes other losses as loss_fn="
    )


def text_options_of(options: Mapping[str, Any]) -> TextOptions:
    """Take those of a command's options that are the search's."""
    names = {field.name for field in fields(TextOptions)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    if given.get("recipe") == "auto":
        del given["recipe"]
    if given.get("tokens") == "any":
        given["tokens"] = None
    return TextOptions(**given)


def tokenizer_for(path: Path | None, model: nn.Module, options: TextOptions) -> Tokenizer | None:
    """Read the tokenizer, where one is given: one of the model's vocabulary."""
    word = find_tables(model, options.word_embedding(model)).word
    return None if path is None else load_tokenizer(path, word.num_embeddings)


def taken_from(values: tuple[int, ...] | None, victims: int, name: str) -> list[int | None]:
    """Deal the numbers of an option out to the victims: one for all, or one for each.

    Raises
    ------
    ValueError
        For another number of them.
    """
    if values is None or len(values) == 1:
        return [None if values is None else values[0]] * victims
    if len(values) != victims:
        raise ValueError(
            f"{name}: expected one number, or one for each of {victims} victims, found {len(values)}"
        )
    return list(values)
