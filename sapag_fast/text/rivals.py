"""Sentences that a network may take for the one that was found: other orders of its tokens, other tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

import torch
from torch import Tensor

__all__ = ["other_orders", "other_tokens"]

_MOST_ORDERS = 64
_ALL_SWAPS = 8
"""Up to this length every swap is among the orders."""
_OF_A_KIND = 8
"""Orders of one kind at most, in long sentences; of swaps of neighbours three times as many."""
_NEAREST = 1
"""Tokens with the nearest embeddings that are tried at each position, beside some at random."""
_MOST_REPLACED = 32
"""Positions at which tokens are replaced, at most."""
_LONGEST_ENDS = 3
"""Tokens with which a sentence may begin and end, so that windows of one more close to a circle."""


def other_orders(sentence: Tensor, generator: torch.Generator) -> Tensor:
    """List other orders of a sentence's tokens that some network cannot tell from it.

    Swaps show a sum over tokens. What a network reads in both directions, in blocks, in windows or around a
    circle may bear no swap, but a reversal, an exchange of blocks or of segments with the same ends, or a
    rotation.

    Parameters
    ----------
    sentence : Tensor
        ``[T]``, int64.
    generator : torch.Generator
        On the CPU; draws where there are too many of a kind.

    Returns
    -------
    Tensor
        ``[N, T]``, N at most 64, each once and none the sentence itself.
    """
    length = len(sentence)
    orders = [
        *_some(_swaps(length), generator, _MOST_ORDERS if length <= _ALL_SWAPS else 3 * _OF_A_KIND),
        *_some(list(islice(_same_ends(sentence.tolist()), _MOST_ORDERS)), generator),
        *_some(_folds(length), generator),
        *_reversals(length),
        *_some(_rotations(length), generator),
        *_blocks(length),
    ]
    while length > 1 and len(orders) < _MOST_ORDERS:
        kind = int(torch.randint(4, (), generator=generator))
        if kind == 0:
            orders.append(torch.randperm(length, generator=generator).tolist())
        elif kind == 1:
            orders.append(_swapped(length, *_drawn(length, 2, generator)))
        else:
            orders.append(_moved(length, _drawn(length + 1, 3, generator), reverse=kind == 2))
    if not orders:
        return sentence.new_empty(0, length)
    index = torch.tensor(orders[:_MOST_ORDERS], device=sentence.device)
    found = sentence[index].unique(dim=0)
    return found[(found != sentence).any(1)]


def other_tokens(
    sentence: Tensor, table: Tensor, bag: Tensor | None, padding: int | None, generator: torch.Generator
) -> Tensor:
    """List sentences that have another token in one place, or in the places where a circle opens.

    Parameters
    ----------
    sentence : Tensor
        ``[T]``, int64.
    table : Tensor
        ``[vocabulary, H]``, the word embedding.
    bag : Tensor or None
        ``[K]``, tokens of which one is tried at each position, beside those of any kind.
    padding : int or None
        A token that is tried at each position.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor
        ``[N, T]``: at each of 32 positions at most the tokens with the nearest embeddings and some at random;
        of a sentence that ends as it begins, also those that go through the same circle from elsewhere.
    """
    positions = torch.randperm(len(sentence), generator=generator)[:_MOST_REPLACED].to(sentence.device)
    apart = torch.cdist(table[sentence[positions]].float(), table.float())
    near = apart.topk(min(_NEAREST + 1, len(table)), largest=False).indices
    tried = [near, _any_of(torch.arange(len(table), device=sentence.device), len(positions), generator)]
    if bag is not None:
        tried.append(_any_of(bag, len(positions), generator))
    if padding is not None:
        tried.append(near.new_full((len(positions), 1), padding))
    choices = torch.cat(tried, 1)
    found = sentence.repeat(choices.numel(), 1)
    rows = torch.arange(len(found), device=sentence.device)
    found[rows, positions.repeat_interleave(choices.shape[1])] = choices.flatten()
    found = torch.cat((found, *(other[None] for other in _closed(sentence)))).unique(dim=0)
    return found[(found != sentence).any(1)]


def _any_of(tokens: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``[count, 1]``, drawn with repetition."""
    return tokens[torch.randint(len(tokens), (count, 1), generator=generator).to(tokens.device)]


def _some(orders: list[list[int]], generator: torch.Generator, most: int = _OF_A_KIND) -> list[list[int]]:
    if len(orders) <= most:
        return orders
    return [orders[i] for i in torch.randperm(len(orders), generator=generator)[:most].tolist()]


def _drawn(count: int, size: int, generator: torch.Generator) -> list[int]:
    """Some different numbers below `count`, ascending."""
    return sorted(torch.randperm(count, generator=generator)[:size].tolist())


def _swapped(length: int, i: int, j: int) -> list[int]:
    order = list(range(length))
    order[i], order[j] = j, i
    return order


def _moved(length: int, cuts: list[int], *, reverse: bool) -> list[int]:
    """Two adjacent segments exchanged, or what lies between the outer cuts reversed."""
    order, first, last = list(range(length)), cuts[0], cuts[-1]
    middle = cuts[len(cuts) // 2]
    inside = order[first:last][::-1] if reverse else order[middle:last] + order[first:middle]
    return order[:first] + inside + order[last:]


def _swaps(length: int) -> list[list[int]]:
    """All of them where the sentence is short, else those of neighbours."""
    if length <= _ALL_SWAPS:
        return [_swapped(length, i, j) for j in range(length) for i in range(j)]
    return [_swapped(length, i, i + 1) for i in range(length - 1)]


def _folds(length: int) -> list[list[int]]:
    """Swaps of places that lie on each other when the sentence is folded or halved."""
    half = length // 2
    return [_swapped(length, i, j) for i in range(half) for j in (length - 1 - i, i + half)]


def _reversals(length: int) -> list[list[int]]:
    order, half = list(range(length)), length // 2
    return [
        order[::-1],
        order[:half][::-1] + order[half:],
        order[:half] + order[half:][::-1],
        order[:half][::-1] + order[half:][::-1],
        order[:1] + order[1:][::-1],
        order[:-1][::-1] + order[-1:],
        order[::2] + order[1::2],
    ]


def _rotations(length: int) -> list[list[int]]:
    order = list(range(length))
    return [order[i:] + order[:i] for i in range(1, length)]


def _blocks(length: int) -> list[list[int]]:
    """The first two blocks of a size exchanged, and the first and the last one."""
    order, found = list(range(length)), []
    for size in (2, 3, 4, 8, length // 2, length // 3, length // 4):
        if size and 2 * size <= length:
            found.append(order[size : 2 * size] + order[:size] + order[2 * size :])
            found.append(order[-size:] + order[size : length - size] + order[:size])
    return found


def _same_ends(tokens: list[int]) -> Iterator[list[int]]:
    """Segments that begin alike and end alike exchanged: all pairs of neighbours stay."""
    order = list(range(len(tokens)))
    at: dict[int, list[int]] = {}
    for i, token in enumerate(tokens):
        at.setdefault(token, []).append(i)
    for places in at.values():
        for first, third in combinations(places, 2):
            for second in range(first + 1, third + 1):
                for fourth in at[tokens[second]]:
                    if fourth > third:
                        left, middle, right = order[first:second], order[second:third], order[third:fourth]
                        yield order[:first] + right + middle + left + order[fourth:]


def _closed(sentence: Tensor) -> list[Tensor]:
    """A sentence that ends as it begins, begun elsewhere: its windows stay, its tokens do not."""
    found = []
    for ends in range(1, _LONGEST_ENDS + 1):
        around = len(sentence) - ends
        if around > ends and torch.equal(sentence[:ends], sentence[around:]):
            for start in range(1, around):
                turned = sentence[:around].roll(-start)
                found.append(torch.cat((turned, turned[:ends])))
    return found
