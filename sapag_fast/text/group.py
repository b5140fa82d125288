"""Victims whose sentences have the same length, searched together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sapag_fast.matching.choose import choose_matching
from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import Search, run_search
from sapag_fast.search.starts import recovery_generator
from sapag_fast.search.tasks import AttackResult
from sapag_fast.text.attack import TextAttack
from sapag_fast.text.bag import Bag
from sapag_fast.text.certificate import TextCertificate, certify
from sapag_fast.text.continuous import ScaledEmbeddings
from sapag_fast.text.decode import assign_tokens, nearest_tokens
from sapag_fast.text.discrete import Climb, search_sentences
from sapag_fast.text.recipe import CERTIFIED
from sapag_fast.text.recovery import EXACT, SEARCH
from sapag_fast.text.scoring import Scorer
from sapag_fast.text.soft import SoftAssignment, padded_bags

__all__ = ["Group"]

_TRIED = 4  # searches on whose starts the way of batching is chosen


class Group:
    """Continuous and discrete searches for victims of one length T; each stage leaves the best so far.

    Parameters
    ----------
    attack : TextAttack
        What all groups share.
    victims : sequence of int
        A of them.
    length : int
        T.
    bags : mapping or None
        Each victim's bag; None: any token may be anywhere.

    Attributes
    ----------
    best, continuous : list of Tensor
        A sentences ``[T]``: the best one, and the best one that came from a continuous search alone; -1
        before there is one.
    distance, continuous_distance : list of float
        A, of their gradients.
    evaluations : list of int
        A, of the continuous searches.
    certificates : list of TextCertificate
        A, of the best sentences as they were when `certify` was last called.
    source, source_reason : list of str
        A, as in `TextRecovery`.
    mode, mode_reason : str
        How recoveries were batched, and why not in a faster way.
    """

    def __init__(
        self, attack: TextAttack, victims: Sequence[int], length: int, bags: Mapping[int, Bag] | None
    ) -> None:
        self.attack, self.recipe = attack, attack.recipe
        self.victims, self.length, self.bags = list(victims), length, bags
        self.embedding = attack.tables.word.weight.detach()
        self.floor = CERTIFIED.get(self.recipe.distance, 0.0)
        count = len(self.victims)
        unknown = torch.full((length,), -1, device=self.embedding.device)
        self.best, self.continuous = [unknown] * count, [unknown] * count
        self.distance, self.continuous_distance = [float("inf")] * count, [float("inf")] * count
        self.evaluations = [0] * count
        self.source, self.source_reason = [SEARCH] * count, [""] * count
        self.certificates = [TextCertificate() for _ in self.victims]
        self.starts: list[list[tuple[float, Tensor]]] = [[] for _ in self.victims]
        self.nearest: dict[int, Tensor] = {}
        # Twice the same one where there is but one: its sentences come in batches all the same.
        tried = [index % count for index in range(max(2, min(count, _TRIED)))]
        few = torch.tensor([self.victims[index] for index in tried], device=self.embedding.device)
        trial = self.embedding.std() * torch.stack([self._noise(i, k) for k, i in enumerate(tried)])
        problem, labels = attack.problem, attack.labels
        choice = choose_matching(problem, trial, labels[few], few, recoveries=count)
        self.matching, self.mode, self.mode_reason = choice.matching, choice.mode, choice.reason
        self.scorer = Scorer(problem, self.matching, self.embedding, labels, attack.at_once)

    @property
    def unsolved(self) -> list[int]:
        """Those of the A whose distance is above the threshold, and which arithmetic did not settle."""
        return [
            index
            for index, distance in enumerate(self.distance)
            if distance > self.floor and self.source[index] != EXACT
        ]

    @property
    def scored(self) -> list[int]:
        """A, sentences scored."""
        return self.scorer.scored[self.victims].tolist()

    def settle(self, index: int, sentence: Tensor) -> None:
        """Take a sentence ``[T]`` that arithmetic found: its victim is not searched."""
        self.source[index], self.best[index] = EXACT, sentence
        self.distance[index] = float(self.scorer.compare(sentence[None], self.victims[index])[0])

    def refuse(self, index: int, reason: str) -> None:
        """Keep why arithmetic finds no sentence of a victim."""
        self.source_reason[index] = reason

    def begin_at(self, sentences: Sequence[Tensor]) -> None:
        """Score these sentences ``[T]``, one for each victim; the first discrete search begins there."""
        for index, sentence in enumerate(sentences):
            if self.source[index] != EXACT:
                self._meet(index, sentence)

    def search(self, restart: int) -> None:
        """Run a continuous and a discrete search for all whose distance is above the threshold.

        Raises
        ------
        KeyboardInterrupt
            On Ctrl-C, once the best so far is in its place.
        """
        if not self.unsolved:
            return
        if self.bags is None:
            result = self._search_embeddings(restart)
        else:
            result = self._search_shares(restart, self.bags)
        if result.interrupted:
            raise KeyboardInterrupt
        self._search_sentences(restart)

    def certify(self) -> None:
        """Compare every sentence that was found with others; those below the threshold only once."""
        for index, victim in enumerate(self.victims):
            sentence, distance = self.best[index], self.distance[index]
            if distance < float("inf") and not self.certificates[index].compared:
                bag = None if self.bags is None else self.bags[victim]
                self.certificates[index] = certify(self.attack, self.scorer, victim, sentence, distance, bag)

    def _noise(self, index: int, restart: int, width: int | None = None) -> Tensor:
        """A normal start ``[1, T, width]``."""
        generator = recovery_generator(self.attack.seed, self.victims[index], restart)
        shape = (1, self.length, self.embedding.shape[1] if width is None else width)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (self.recipe.spread * noise).to(self.embedding)

    def _continuous(
        self, matching: SoftAssignment | ScaledEmbeddings, starts: Tensor, active: list[int]
    ) -> AttackResult:
        device, dtype = self.embedding.device, self.embedding.dtype
        basis = make_basis("pixel", starts.shape[2:], bounds=None, device=device, dtype=dtype)
        labels = self.attack.labels[matching.victims]
        search = Search(
            matching, starts, labels, recipe=self.recipe.continuous(), bases=(basis,), bounds=None
        )
        result = run_search(search, rows=self.attack.at_once)
        for index, evaluations in zip(active, result.evaluations.tolist(), strict=True):
            self.evaluations[index] += evaluations
        return result

    def _search_shares(self, restart: int, bags: Mapping[int, Bag]) -> AttackResult:
        active = self.unsolved
        chosen = [bags[self.victims[index]] for index in active]
        tokens, present = padded_bags(chosen)
        victims = torch.tensor([self.victims[index] for index in active], device=tokens.device)
        matching = SoftAssignment(self.matching, self.embedding, tokens, present, victims)
        starts = torch.stack([self._noise(index, restart, tokens.shape[1]) for index in active])
        result = self._continuous(matching, starts, active)
        matching.retarget(torch.arange(len(active), device=tokens.device))
        shares = matching.probabilities(result.inputs)[:, 0]
        for index, bag, share in zip(active, chosen, shares, strict=True):
            self._meet(index, assign_tokens(share, bag), continuous=True)
        return result

    def _search_embeddings(self, restart: int) -> AttackResult:
        active = self.unsolved
        victims = torch.tensor([self.victims[index] for index in active], device=self.embedding.device)
        matching = ScaledEmbeddings(self.matching, self.embedding, victims)
        result = self._continuous(matching, torch.stack([self._noise(i, restart) for i in active]), active)
        embeddings = matching.embeddings(result.inputs)[:, 0]
        nearest = nearest_tokens(embeddings, self.embedding, self._positions(), self.recipe.choices)
        for index, choices in zip(active, nearest, strict=True):
            self.nearest[index] = choices
            self._meet(index, choices[:, 0], continuous=True)
        return result

    def _positions(self) -> Tensor | None:
        tables = self.attack.tables
        if tables.position is None:
            return None
        return tables.position.weight.detach()[tables.first_position :][: self.length]

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
                recovery_generator(self.attack.seed, victim, restart),
                self.recipe.kick,
            )
            self.starts[index] = []
        try:
            search_sentences(
                list(climbs.values()),
                self.scorer,
                candidates=self.recipe.candidates,
                at_once=self.recipe.at_once,
                floor=self.floor,
            )
        finally:  # Ctrl-C leaves the best so far
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
