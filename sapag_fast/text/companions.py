"""Which tokens stand in one sentence with a given one: what attention leaves in its queries' gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sapag_fast.text.analytic import match_positions
from sapag_fast.text.attention import Attention
from sapag_fast.text.bag import Bag
from sapag_fast.text.network import TextNetwork
from sapag_fast.text.spans import Spans

__all__ = ["Companions"]

_FIT = 1e-5
"""What may be left of an input beside a word's and a position's part, of its norm: rounding."""
_POWER = 0.7
"""Of the sizes whose sum is minimised: below 1, so that few tokens take part."""
_ROUNDS, _SETTLED, _DROPPED = 30, 1e-3, 1e-5
_RIDGE = 1e-9
_ROUNDING = 0.05
"""Part of a word's gradient that is left once its sentences are taken away, at most."""
_ALONE = 0.1
"""The most by which a word's gradient differs from its one sentence's."""
_SPARE = 4
"""Tokens kept beside as many as a sentence may have."""


class Companions:
    """The queries' and keys' gradients, taken apart by words.

    The gradient of the first queries is Σ b_t x_tᵀ, and x_t a word's part and a position's: as long as words
    and positions are fewer than features, what belongs to a word follows. Of each head it is a sum of the
    keys in its sentence, and likewise the keys' of queries. Where a word stands in one sentence alone, few
    words make up this sum; more equations than words in a sentence tell which, position by position.

    Parameters
    ----------
    model, spans
        The network, and what its gradients span.
    attention : Attention
        Of the first layers.
    words : Tensor
        ``[N]``, all that may stand anywhere.
    length : int
        T.

    Raises
    ------
    ValueError
        Where these gradients do not tell: too many words or positions, or inputs that are no sums of theirs.
    """

    def __init__(
        self, model: nn.Module, spans: Spans, attention: Attention, words: Tensor, length: int
    ) -> None:
        self.model, self.spans, self.attention = model, spans, attention
        self.words, self.length = words, length
        others = torch.ones(len(spans.table), dtype=torch.bool, device=words.device)
        others[words] = False
        if attention.head <= 2 * length + 1 or len(words) + length + 1 >= spans.first.features:
            raise ValueError("length: more words or positions than the first layers' gradients can tell")
        if not others.any():
            raise ValueError("words: expected one at least that stands nowhere")
        fed = spans.inputs(words[:, None].expand(-1, length), [spans.first])[0].double()
        reference = others.nonzero()[0].expand(1, length)
        basis = torch.cat((fed[:, 0], spans.inputs(reference, [spans.first])[0][0].double()))
        basis = _completed(basis, fed.flatten(0, 1))
        self.apart = torch.linalg.pinv(basis)
        self.shares = fed @ self.apart
        weights = torch.stack((attention.key.weight, attention.query.weight)).detach().double()
        atoms = (weights @ basis.mT).reshape(-1, attention.head, len(basis))
        self.atoms, free = atoms[..., : len(words)], atoms[..., len(words) :]
        whole, _ = torch.linalg.qr(free, mode="complete")
        self.beside = whole[..., free.shape[2] :].mT
        self.left = self.beside @ self.atoms
        self.inverse = torch.linalg.pinv(free)

    def read(self, target: Sequence[Tensor | None]) -> None:
        """Take the gradient apart that the sentences left.

        Raises
        ------
        ValueError
            Where it lacks the queries' or the keys'.
        """
        trained = [id(p) for p in self.model.parameters() if p.requires_grad]
        rows = []
        for layer in (self.attention.query, self.attention.key):
            row = target[trained.index(id(layer.weight))] if id(layer.weight) in trained else None
            if row is None:
                raise ValueError("target: expected the gradients of the first queries and keys")
            rows.append(row.double())
        self.parts = self._parts(torch.stack(rows))
        self.most = self.parts.norm(dim=(0, 1))

    def _parts(self, gradients: Tensor) -> Tensor:
        """``[2 x heads, head, N + free]`` of the queries' and keys' gradients ``[2, features, inputs]``."""
        return (gradients @ self.apart).reshape(*self.atoms.shape[:2], -1)

    def left_of(self, number: int) -> float:
        """The size of what is left of a word's gradient, zero where that is rounding."""
        left = float(self.parts[:, :, number].norm())
        return left if left > _ROUNDING * float(self.most[number]) else 0.0

    def take(self, sentence: Tensor) -> None:
        """Leave out what a sentence ``[T]`` leaves, as often as one of its words has it."""
        layers = [self.attention.query.weight, self.attention.key.weight]
        columns = []
        with torch.enable_grad():
            logits = TextNetwork(self.model)(self.spans.table[sentence[None]])
            for output in logits.log_softmax(-1)[0]:
                slopes = torch.autograd.grad(output, layers, retain_graph=True)
                columns.append(self._parts(torch.stack(slopes).double()))
        stacked, least, weights = torch.stack(columns, -1), _ALONE, None
        for number in torch.isin(self.words, sentence).nonzero()[:, 0]:
            own, goal = stacked[:, :, number].flatten(0, 1), self.parts[:, :, number].flatten()
            scale = own.norm().clamp(min=1e-300)
            found = torch.linalg.pinv(own / scale, rtol=1e-4) @ goal / scale
            left = float((own @ found - goal).norm() / goal.norm().clamp(min=1e-300))
            if left < least:
                least, weights = left, found
        if weights is not None:
            self.parts = self.parts - stacked @ weights

    def around(self, word: int) -> tuple[Tensor, Tensor]:
        """A sentence ``[T]`` that holds the word of this number, and the tokens that may stand in it."""
        sizes, held, placed = self._shared(word)
        most = min(self.length + _SPARE, len(sizes))
        chosen = sizes.argsort(descending=True)[:most]
        numbers = torch.arange(self.length, device=chosen.device)
        ones = torch.ones(self.length, dtype=held.dtype, device=held.device)
        scales, bag = (torch.ones_like(held[:, 0]), ones), Bag(torch.arange(most), self.length)
        at = numbers
        for _ in range(2):
            rows = (placed / scales[1]).mT.clone()
            rows[0] = -rows[1:].sum(0)
            at = match_positions((held / scales[0][:, None])[chosen], rows, bag)
            # A normalisation weighs a word by its position, and a position by its word.
            alone = scales[0].clone()
            alone[chosen[at]] = self.shares[chosen[at], numbers, chosen[at]]
            beside = self.shares[chosen[at], numbers, len(self.words) + numbers]
            scales = (alone, torch.where(numbers == 0, ones, beside))
        return self.words[chosen[at]], self.words[chosen]

    def _shared(self, word: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sizes ``[N]`` and shares ``[N, 2 x heads]`` of words, and ``[2 x heads, T]`` of positions."""
        goal = self.parts[..., word, None]
        goal = goal / goal.norm(dim=1, keepdim=True).clamp(min=1e-300)
        right, (blocks, rows, count) = self.beside @ goal, self.left.shape
        weight = torch.ones(count, dtype=goal.dtype, device=goal.device)
        shares = goal.new_zeros(blocks, count)
        for _ in range(_ROUNDS):
            kept = weight > _DROPPED
            some = self.left[..., kept] * weight[kept]
            if some.shape[2] < rows:
                solved = torch.linalg.solve(_lifted(some.mT @ some), some.mT @ right)
            else:
                solved = some.mT @ torch.linalg.solve(_lifted(some @ some.mT), right)
            shares = goal.new_zeros(blocks, count)
            shares[:, kept] = weight[kept] * solved[..., 0]
            sizes = shares.norm(dim=0)
            before, weight = weight, (sizes / sizes.max().clamp(min=1e-300)) ** (1 - _POWER / 2)
            if float((weight - before).abs().max()) < _SETTLED:
                break
        free = self.inverse @ (goal - self.atoms @ shares[..., None])
        return shares.norm(dim=0), shares.mT, free[:, : self.length, 0]


def _lifted(gram: Tensor) -> Tensor:
    """With a little more on the diagonal."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    more = _RIDGE * diagonal.mean(-1, keepdim=True).clamp(min=1e-300)
    return gram + torch.diag_embed(more.expand_as(diagonal))


def _completed(basis: Tensor, fed: Tensor) -> Tensor:
    """With a normalisation's shift where inputs ``[..., features]`` need it."""
    for more in (True, False):
        left = fed - fed @ torch.linalg.pinv(basis) @ basis
        if left.norm() <= _FIT * fed.norm():
            return basis
        if more:
            _, vectors = torch.linalg.eigh(left.mT @ left)
            basis = torch.cat((basis, vectors[None, :, -1] * fed.norm(dim=-1).mean()))
    raise ValueError("model: the first linear layers' inputs are no sums of a word's part and a position's")
