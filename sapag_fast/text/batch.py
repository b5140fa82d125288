"""Several sentences of one length behind one gradient: `recover_sentences`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.runtime.randomness import forked
from sapag_fast.search.starts import recovery_generator
from sapag_fast.text.attention import find_attention
from sapag_fast.text.bag import infer_length
from sapag_fast.text.companions import Companions
from sapag_fast.text.counts import Counted, count_sentences, told_rows
from sapag_fast.text.network import Tables, differentiable_layers, find_tables
from sapag_fast.text.span_search import SpanSearch, pairs_within
from sapag_fast.text.spans import Spans
from sapag_fast.victim.searchable import searchable
from sapag_fast.victim.targets import TargetGradient, checked_target, kept

__all__ = ["SentenceBatch", "recover_sentences"]


@dataclass(frozen=True, eq=False)
class SentenceBatch:
    """What the spans of one gradient tell of B sentences.

    Attributes
    ----------
    tokens : Tensor
        ``[B, T]``, int64; the rows of sentences that were not found are -1 and come last.
    labels : Tensor
        ``[B]``, int64, -1 likewise.
    recovered : int
        How many were found, of B; of an incomplete batch each sentence is told once.
    candidates : tuple of Tensor
        T, the tokens that stand at each position in some sentence, ascending; empty where that does not
        follow.
    difference : float
        What is left of the target beside the found sentences' gradient, relative to the target's length.
    certified : bool
        Whether all B were found, the gradient at them is the target, and every sentence with another of the
        candidates in one place lies outside of the spans.
    reason : str
        What is missing; empty where nothing is.
    """

    tokens: Tensor
    labels: Tensor
    recovered: int
    candidates: tuple[Tensor, ...]
    difference: float
    certified: bool
    reason: str


def recover_sentences(
    model: nn.Module,
    target: TargetGradient,
    length: int | None = None,
    *,
    batch_size: int,
    embedding: nn.Embedding | None = None,
    restarts: int = 5,
    seed: int = 0,
) -> SentenceBatch:
    """Recover B sentences of T tokens behind one gradient of mean cross-entropy, where spans tell them.

    The first linear layers' gradients span what stands where in any of the sentences, as long as these hold
    fewer different tokens, each counted with its position, than a layer has inputs. What belongs to one
    sentence is told by the later layers: each sentence's inputs lie in what their gradients span (DAGER,
    Petrov et al. 2024). Behind causal attention that grows token by token; else a search changes one token at
    a time. Labels and repetitions follow from the gradient's size.

    Parameters
    ----------
    model, target, embedding
        As for `recover_text`; the target is one gradient.
    length : int, optional
        T; None: from the position embedding's gradient.
    batch_size : int
        B.
    restarts : int
        Starts of the search for each token that no sentence accounts for.
    seed : int
        Of these starts.

    Returns
    -------
    SentenceBatch
        Sentences that were found, and what is missing.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    batch_size, seed = check.check_count("batch_size", batch_size), check.check_seed(seed)
    restarts = check.check_count("restarts", restarts)
    model, embedding = (found := searchable(model)).model, found.counterpart(embedding)
    device, parameters = check.check_model(model, None)
    rows = checked_target(kept(target), model, parameters, batched=False, device=device, move=False)
    gradient = [None if row is None else row[0] for row in rows]
    with forked(device), differentiable_layers(model):
        tables = find_tables(model, embedding)
        length = _length(length, tables, gradient)
        return _recovered(model, gradient, tables, (batch_size, length), restarts, seed)


def _length(length: int | None, tables: Tables, gradient: Sequence[Tensor | None]) -> int:
    if length is not None:
        return check.check_count("length", length)
    row = None if tables.position_entry is None else gradient[tables.position_entry]
    if row is None:
        raise ValueError("length: there is no position embedding's gradient to tell it; give length=")
    return infer_length(row, tables.first_position)


def _recovered(
    model: nn.Module,
    gradient: Sequence[Tensor | None],
    tables: Tables,
    size: tuple[int, int],
    restarts: int,
    seed: int,
) -> SentenceBatch:
    batch_size, length = size
    device = tables.word.weight.device
    try:
        spans = Spans(model, gradient, tables.word, length)
        candidates = pairs_within(spans, _tokens(gradient, tables), length)
    except ValueError as error:
        return _nothing(size, device, (), str(error).partition(": ")[2])
    search = SpanSearch(spans, candidates, restarts, recovery_generator(seed, 0, 0))
    if spans.causal:
        sentences = search.prefixes(batch_size)
    else:
        told = _told(model, spans, gradient, search, batch_size)
        sentences = search.climbs(batch_size, told)
    if not len(sentences):
        return _nothing(size, device, candidates, "no sentence lies in what the later layers' gradients span")
    counted = count_sentences(model, tables, sentences, gradient, batch_size)
    tokens, labels = _nothing(size, device, (), "").tokens, torch.full((batch_size,), -1, device=device)
    rows = told_rows(counted, batch_size)
    found = len(rows)
    tokens[:found] = sentences[counted.sentences[rows]]
    labels[:found] = counted.labels[rows]
    reason = _missing(counted, batch_size, found) or search.open_to(sentences)
    return SentenceBatch(tokens, labels, found, candidates, counted.difference, not reason, reason)


def _told(
    model: nn.Module, spans: Spans, gradient: Sequence[Tensor | None], search: SpanSearch, batch_size: int
) -> Tensor:
    """Sentences ``[N, T]`` that attention's queries and keys tell, none where they do not."""
    words, length = torch.cat(search.candidates).unique(), len(search.candidates)
    nothing = torch.empty(0, length, dtype=torch.long, device=words.device)
    attention = find_attention(model, spans.first.layers, spans.table, length) if spans.later else None
    if attention is None:
        return nothing
    try:
        companions = Companions(model, spans, attention, words, length)
        companions.read(gradient)
    except ValueError:
        return nothing
    return search.around(companions, batch_size)


def _nothing(
    size: tuple[int, int], device: torch.device, candidates: tuple[Tensor, ...], reason: str
) -> SentenceBatch:
    unknown = torch.full(size, -1, device=device)
    return SentenceBatch(unknown, unknown[:, 0].clone(), 0, candidates, float("inf"), False, reason)


def _tokens(gradient: Sequence[Tensor | None], tables: Tables) -> Tensor:
    """Those that stand anywhere, where the word embedding's gradient tells it, else all."""
    row = None if tables.word_entry is None else gradient[tables.word_entry]
    if row is None:
        return torch.arange(tables.word.num_embeddings, device=tables.word.weight.device)
    return row.ne(0).any(1).nonzero()[:, 0]


def _missing(counted: Counted, batch_size: int, found: int) -> str:
    if found != batch_size:
        return f"{found} of {batch_size} sentences were found; how often each stands does not follow"
    if not counted.agrees:
        return f"the gradient at the sentences differs from the target by {counted.difference:.2g} of it"
    if not counted.sure:
        return "a sentence leaves too little in the gradient's digits to tell its label"
    return ""
