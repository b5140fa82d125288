"""Victims whose sentences have the same length, searched together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sapag_fast.matching.choose import choose_matching
from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import AttackResult, run_attack
from sapag_fast.search.starts import recovery_generator
from sapag_fast.text.bag import Bag
from sapag_fast.text.continuous import ScaledEmbeddings
from sapag_fast.text.decode import assign_tokens, nearest_tokens
from sapag_fast.text.discrete import Climb, search_sentences
from sapag_fast.text.network import Tables
from sapag_fast.text.recipe import CERTIFIED, TextRecipe
from sapag_fast.text.scoring import Scorer
from sapag_fast.text.soft import SoftAssignment, padded_bags
from sapag_fast.victim.problem import Problem

__all__ = ["Group"]

_TRIED = 4  # searches on whose starts the way of batching is chosen


class Group:
    """Continuous and discrete searches for victims of one length T; each stage leaves the best so far.

    Parameters
    ----------
    problem : Problem
        In word embeddings, with the targets of all victims.
    tables : Tables
    labels : Tensor
        ``[all victims, 1]``.
    settings : TextRecipe
    victims : sequence of int
        A of them.
    length : int
        T.
    bags : mapping or None
        Each victim's bag; None: any token may be anywhere.
    seed : int
    at_once : int
        Searches, and sentences, at once.

    Attributes
    ----------
    best, continuous : list of Tensor
        A sentences ``[T]``: the best one, and the best one that came from a continuous search alone.
    distance, continuous_distance : list of float
        A, of their gradients.
    evaluations : list of int
        A, of the continuous searches.
    mode, mode_reason : str
        How recoveries were batched.
    """

    def __init__(
        self,
        problem: Problem,
        tables: Tables,
        labels: Tensor,
        settings: TextRecipe,
        *,
        victims: Sequence[int],
        length: int,
        bags: Mapping[int, Bag] | None,
        seed: int,
        at_once: int,
    ) -> None:
        self.tables, self.labels, self.settings = tables, labels, settings
        self.victims, self.length, self.bags = list(victims), length, bags
        self.seed, self.at_once = seed, at_once
        self.embedding = tables.word.weight.detach()
        self.floor = CERTIFIED.get(settings.distance, 0.0)
        count = len(self.victims)
        unknown = torch.full((length,), -1, device=self.embedding.device)
        self.best, self.continuous = [unknown] * count, [unknown] * count
        self.distance, self.continuous_distance = [float("inf")] * count, [float("inf")] * count
        self.evaluations = [0] * count
        self.starts: list[list[tuple[float, Tensor]]] = [[] for _ in self.victims]
        self.nearest: dict[int, Tensor] = {}
        # Twice the same one where there is but one: its sentences come in batches all the same.
        tried = [index % count for index in range(max(2, min(count, _TRIED)))]
        few = torch.tensor([self.victims[index] for index in tried], device=self.embedding.device)
        trial = self.embedding.std() * torch.stack([self._noise(i, k) for k, i in enumerate(tried)])
        self.matching = choose_matching(problem, trial, labels[few], few, recoveries=count)
        self.mode, self.mode_reason = self.matching.mode, self.matching.reason
        self.scorer = Scorer(problem, self.matching, self.embedding, labels, at_once)

    @property
    def unsolved(self) -> list[int]:
        """Which of the A are not certified yet."""
        return [index for index, distance in enumerate(self.distance) if distance > self.floor]

    @property
    def scored(self) -> list[int]:
        """A, sentences scored."""
        return self.scorer.scored[self.victims].tolist()

    def begin_at(self, sentences: Sequence[Tensor]) -> None:
        """Score these sentences ``[T]``, one for each victim; the first discrete search begins there."""
        for index, sentence in enumerate(sentences):
            self._meet(index, sentence)

    def search(self, restart: int) -> None:
        """A continuous and a discrete search for all that are not certified."""
        if not self.unsolved:
            return
        if self.bags is None:
            self._search_embeddings(restart)
        else:
            self._search_shares(restart)
        self._search_sentences(restart)

    def _noise(self, index: int, restart: int, width: int | None = None) -> Tensor:
        """A normal start ``[1, T, width]``."""
        generator = recovery_generator(self.seed, self.victims[index], restart)
        shape = (1, self.length, self.embedding.shape[1] if width is None else width)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (self.settings.spread * noise).to(self.embedding)

    def _attack(
        self, matching: SoftAssignment | ScaledEmbeddings, starts: Tensor, active: list[int]
    ) -> AttackResult:
        recipe = self.settings.attack()
        device, dtype = self.embedding.device, self.embedding.dtype
        result = run_attack(
            matching,
            starts,
            self.labels[matching.victims],
            recipe=recipe,
            steps=recipe.steps,
            basis=make_basis("pixel", starts.shape[2:], bounds=None, device=device, dtype=dtype),
            bounds=None,
            rows=self.at_once,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        for index, evaluations in zip(active, result.evaluations.tolist(), strict=True):
            self.evaluations[index] += evaluations
        return result

    def _search_shares(self, restart: int) -> None:
        active = self.unsolved
        bags = [self.bags[self.victims[index]] for index in active]
        tokens, present = padded_bags(bags)
        victims = torch.tensor([self.victims[index] for index in active], device=tokens.device)
        matching = SoftAssignment(self.matching, self.embedding, tokens, present, victims)
        starts = torch.stack([self._noise(index, restart, tokens.shape[1]) for index in active])
        result = self._attack(matching, starts, active)
        matching.retarget(torch.arange(len(active), device=tokens.device))
        shares = matching.probabilities(result.inputs)[:, 0]
        for index, bag, share in zip(active, bags, shares, strict=True):
            self._meet(index, assign_tokens(share, bag), continuous=True)

    def _search_embeddings(self, restart: int) -> None:
        active = self.unsolved
        victims = torch.tensor([self.victims[index] for index in active], device=self.embedding.device)
        matching = ScaledEmbeddings(self.matching, self.embedding, victims)
        result = self._attack(matching, torch.stack([self._noise(i, restart) for i in active]), active)
        found = matching.embeddings(result.inputs)[:, 0]
        nearest = nearest_tokens(found, self.embedding, self._positions(), self.settings.choices)
        for index, choices in zip(active, nearest, strict=True):
            self.nearest[index] = choices
            self._meet(index, choices[:, 0], continuous=True)

    def _positions(self) -> Tensor | None:
        if self.tables.position is None:
            return None
        first = self.tables.first_position
        return self.tables.position.weight.detach()[first : first + self.length]

    def _meet(self, index: int, sentence: Tensor, *, continuous: bool = False) -> None:
        """Score a sentence, and begin a descent there."""
        distance = float(self.scorer(sentence[None], self.victims[index])[0])
        self.starts[index].append((distance, sentence))
        if distance < self.distance[index]:
            self.distance[index], self.best[index] = distance, sentence
        if continuous and distance < self.continuous_distance[index]:
            self.continuous_distance[index], self.continuous[index] = distance, sentence

    def _search_sentences(self, restart: int) -> None:
        climbs = {}
        for index in self.unsolved:
            victim = self.victims[index]
            choices, required = self._choices(index)
            climbs[index] = Climb(
                victim,
                sorted(self.starts[index], key=lambda start: start[0]),
                choices,
                required,
                recovery_generator(self.seed, victim, restart),
                self.settings.kick,
            )
            self.starts[index] = []
        search_sentences(
            list(climbs.values()),
            self.scorer,
            candidates=self.settings.candidates,
            at_once=self.settings.at_once,
            floor=self.floor,
        )
        for index, climb in climbs.items():
            if climb.distance < self.distance[index]:
                self.distance[index], self.best[index] = climb.distance, climb.best

    def _choices(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Tokens that may stand at each position ``[T, C]``, and those that must all occur."""
        if self.bags is None:
            return self.nearest[index], None
        bag = self.bags[self.victims[index]]
        choices = bag.tokens.expand(self.length, -1)
        return choices if bag.repeats else choices[:, :0], bag.tokens
