"""Distances of whole sentences, hundreds at a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.victim.problem import Problem

__all__ = ["Scorer"]


class Scorer:
    """Distance of any sentence's gradient to any victim's.

    Parameters
    ----------
    problem : Problem
        In embeddings ``[B, T, H]``.
    matching : Matching
        How the attack evaluates it. Where that is explicitly, each victim gets a matching of its own: with
        one target for all sentences nothing is gathered, and no graph of the gradients is kept.
    embedding : Tensor
        ``[vocabulary, H]``.
    labels : Tensor
        ``[V, 1]``.
    rows : int
        Sentences at a pass.

    Attributes
    ----------
    scored : Tensor
        ``[V]``, int64: how many sentences were scored for each victim.
    """

    def __init__(
        self, problem: Problem, matching: Matching, embedding: Tensor, labels: Tensor, rows: int
    ) -> None:
        self.problem, self.matching = problem, matching
        self.embedding, self.labels, self.rows = embedding.detach(), labels, rows
        self.own: dict[int, ExplicitMatching] = {}
        self.scratch: dict[int, dict[str, Tensor]] = {}
        self.scored = torch.zeros(problem.victims, dtype=torch.long)

    def __call__(self, sentences: Tensor, victim: int) -> Tensor:
        """Distances ``[N]`` (inf where not finite) of sentences ``[N, T]`` to the target of `victim`."""
        self.scored[victim] += len(sentences)
        return self.compare(sentences, victim)

    def compare(self, sentences: Tensor, victim: int) -> Tensor:
        """As a call, but not counted as the search's."""
        if not len(sentences):
            return self.embedding.new_empty(0)
        parts = [self._pass(some, victim) for some in sentences.split(self.rows)]
        return torch.cat(parts).nan_to_num(nan=torch.inf)

    def _pass(self, sentences: Tensor, victim: int) -> Tensor:
        inputs = self.embedding[sentences][:, None]
        labels = self.labels[victim].expand(len(sentences), *self.labels.shape[1:])
        if not isinstance(self.matching, ExplicitMatching):
            self.matching.retarget(torch.full((len(sentences),), victim, device=sentences.device))
            return self.matching.value_and_gradient(inputs, labels)[0]
        matching = self._matching(victim)
        if matching.assignment.rows != len(sentences):
            matching.retarget(torch.zeros(len(sentences), dtype=torch.long, device=sentences.device))
        # One victim comes after the other: all can use the same memory.
        matching.scratch = self.scratch
        return matching.value(inputs, labels)

    def _matching(self, victim: int) -> ExplicitMatching:
        if victim not in self.own:
            draft = self.problem
            targets = [None if t is None else t[victim : victim + 1] for t in draft.targets]
            problem = Problem(draft.network, draft.loss_fn, draft.distance, targets)
            self.own[victim] = ExplicitMatching(problem, recoveries=self.rows)
        return self.own[victim]
