"""Which tokens make up a sentence whose layers' inputs lie in what the gradients span."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.text.companions import Companions
from sapag_fast.text.spans import Spans

__all__ = ["SpanSearch", "pairs_within"]

_INSIDE = 5e-2
"""Part of an input's norm that may lie outside of a span all the same: rounding."""
_AT_ONCE = 256
_MOST_PREFIXES = 4096
_MOST_SCORED = 50_000
"""Sentences after which a search gives up."""
_MORE_SCORED = 10_000
"""Likewise, once companions have told sentences."""
_CHANGED = 1e-3
"""Part of a word's gradient by which it has changed at least where it is asked again."""
_KICK = 3
"""Positions at which a search that got stuck draws anew."""


def pairs_within(spans: Spans, tokens: Tensor, length: int) -> tuple[Tensor, ...]:
    """Tokens whose inputs lie in the first layers' span, for each position.

    A sum of word and position embedding lies there, too, where three others do that make up a rectangle
    with it: where tokens stand again elsewhere there may be more than in the sentences.

    Raises
    ------
    ValueError
        Where the span leaves nothing out, or too many tokens lie in it.
    """
    rank, most = len(spans.first.basis), _dimension(spans, length)
    if rank >= most:
        raise ValueError(
            f"target: the first linear layers' gradients have rank {rank}, and the inputs of any tokens "
            f"{most}: too many different tokens for a width of {spans.first.features}"
        )
    shares = []
    for some in tokens.split(_AT_ONCE):
        fed = spans.inputs(some[:, None].expand(-1, length), [spans.first])[0]
        shares.append(spans.first.outside(fed))
    share = torch.cat(shares)
    found = tuple(tokens[share[:, t] < _INSIDE] for t in range(length))
    for t, here in enumerate(found):
        if not len(here):
            raise ValueError(f"target: no token lies in the first layers' span at position {t}")
    return found


def _dimension(spans: Spans, length: int) -> int:
    """Dimension of what any tokens at any positions feed the first layers; a normalisation takes one away."""
    count = 2 * -(-spans.first.features // length)
    words = torch.arange(count * length, device=spans.table.device) % len(spans.table)
    fed = spans.inputs(words.view(count, length), [spans.first])[0].flatten(0, 1).double()
    return int(torch.linalg.matrix_rank(fed, rtol=1e-6))


class SpanSearch:
    """Searches over the candidates of each position.

    Parameters
    ----------
    spans : Spans
        Tell how far a sentence lies outside.
    candidates : sequence of Tensor
        T, tokens.
    restarts : int
        Starts for each token that no sentence accounts for.
    generator : torch.Generator
        On the CPU.
    """

    def __init__(
        self, spans: Spans, candidates: tuple[Tensor, ...], restarts: int, generator: torch.Generator
    ) -> None:
        self.spans, self.candidates, self.restarts, self.generator = spans, candidates, restarts, generator
        self.scored = 0

    def _mean(self, sentences: Tensor) -> Tensor:
        self.scored += len(sentences)
        return torch.cat([self.spans.mean(some) for some in sentences.split(_AT_ONCE)])

    def _inside(self, sentences: Tensor) -> Tensor:
        if not self.spans.later:
            return torch.zeros(len(sentences), dtype=torch.bool)
        return torch.cat([self.spans.worst(some) for some in sentences.split(_AT_ONCE)]) < _INSIDE

    def prefixes(self, batch_size: int) -> Tensor:
        """Sentences ``[N, T]`` of which every beginning lies inside, where attention is causal."""
        found = self.candidates[0][:, None]
        for here in self.candidates:
            if found.shape[1] > 1 or here is not self.candidates[0]:
                found = torch.cat(
                    (
                        found.repeat_interleave(len(here), 0),
                        here.repeat(len(found))[:, None],
                    ),
                    1,
                )
            found = found[self._inside(found)][:_MOST_PREFIXES]
        return found

    def around(self, companions: Companions, batch_size: int) -> Tensor:
        """Different sentences ``[N, T]`` inside, `batch_size` at most, each with a word of its own.

        What such a word's companions tell is mended at the first position, of which they tell least: to one
        of the companions, and once that tells no more, to any. What a sentence leaves is taken away, and
        words that it shares with one other are this one's alone.
        """
        found: list[Tensor] = []
        for first in (None, self.candidates[0]):
            tried: dict[int, float] = {}
            before = -1
            while before < len(found) < batch_size:
                before = len(found)
                for number in range(len(companions.words)):
                    left = companions.left_of(number)
                    known = abs(left - tried.get(number, 0.0)) <= _CHANGED * left
                    if known or len(found) == batch_size or self.scored >= _MOST_SCORED:
                        continue
                    tried[number] = left
                    at, some = companions.around(number)
                    at = self._mended(at, some if first is None else first)
                    if bool(self._inside(at[None])):
                        at = self._settled(at, some)
                    known = any(torch.equal(at, sentence) for sentence in found)
                    if not known and bool(self._inside(at[None])):
                        found.append(at)
                        companions.take(at)
        return torch.stack(found) if found else torch.empty(0, len(self.candidates), dtype=torch.long)

    def _mended(self, at: Tensor, first: Tensor) -> Tensor:
        """With the best of these tokens at the first position."""
        around = at.repeat(len(first) + 1, 1)
        around[1:, 0] = first
        return around[self._mean(around).argmin()]

    def _settled(self, at: Tensor, some: Tensor) -> Tensor:
        """The best of those around a sentence inside: another token in one place may lie there, too."""
        few = SpanSearch(self.spans, (some,) * len(at), self.restarts, self.generator)
        at, _ = few._descended(at, len(at))
        self.scored += few.scored
        return at

    def climbs(self, batch_size: int, before: Tensor) -> Tensor:
        """Different sentences ``[N, T]`` inside, `batch_size` at most, as far as any are found, after these.

        A search holds on to a token that no sentence accounts for, first where there are as many candidates
        as sentences: each of them stands there in one.
        """
        found = list(before)
        most = self.scored + _MORE_SCORED if found else _MOST_SCORED
        order = sorted(range(len(self.candidates)), key=lambda t: abs(len(self.candidates[t]) - batch_size))
        for t in order:
            for token in self.candidates[t] if self.spans.later else ():
                if len(found) == batch_size or self.scored >= most:
                    break
                if not any(sentence[t] == token for sentence in found):
                    sentence = self._climbed(t, token, most)
                    if sentence is not None:
                        found.append(sentence)
        return torch.stack(found) if found else before

    def _climbed(self, fixed: int, token: Tensor, most: int) -> Tensor | None:
        """A sentence inside with this token at this position; None: none was found."""
        best, lowest = self._drawn(fixed, token), float("inf")
        for _ in range(self.restarts):
            if self.scored >= most:
                return None
            at = best.clone()
            if lowest < float("inf"):
                some = torch.randperm(len(at), generator=self.generator)[:_KICK].to(at.device)
                at[some] = self._drawn(fixed, token)[some]
            at, value = self._descended(at, fixed)
            if value < lowest:
                best, lowest = at, value
            if bool(self._inside(best[None])):
                return best
        return None

    def _drawn(self, fixed: int, token: Tensor) -> Tensor:
        picked = [
            here[int(torch.randint(len(here), (), generator=self.generator))] for here in self.candidates
        ]
        picked[fixed] = token
        return torch.stack(picked)

    def _descended(self, at: Tensor, fixed: int) -> tuple[Tensor, float]:
        """Sweep over the positions, each time to the best token of one, until none helps."""
        value, settled = float(self._mean(at[None])), 0
        while settled < len(at):
            for t in torch.randperm(len(at), generator=self.generator).tolist():
                settled += 1
                around = self._changed(at, t)
                if t == fixed or not len(around):
                    continue
                lowest, index = self._mean(around).min(0)
                if float(lowest) < value:
                    at, value, settled = around[index], float(lowest), 0
        return at, value

    def _changed(self, sentence: Tensor, t: int) -> Tensor:
        others = self.candidates[t][self.candidates[t] != sentence[t]]
        changed = sentence.repeat(len(others), 1)
        changed[:, t] = others
        return changed

    def neighbours(self, sentence: Tensor) -> Tensor:
        """Sentences with another of the candidates in one place, ``[N, T]``."""
        return torch.cat([self._changed(sentence, t) for t in range(len(sentence))])

    def open_to(self, sentences: Tensor) -> str:
        """Say whether a sentence lies inside that differs from one of these by one token; empty: none."""
        for sentence in sentences:
            around = self.neighbours(sentence)
            for other in around[self._inside(around)] if len(around) else around:
                if not (sentences == other).all(1).any():
                    return "the spans do not tell the sentences from others with the same tokens"
        return ""
