"""Search over whole sentences by their distance: hundreds of neighbours a pass, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sapag_fast.text.neighbours import orders, replacements
from sapag_fast.text.scoring import Scorer

__all__ = ["Climb", "search_sentences"]


@dataclass
class Climb:
    """One victim's descent from sentence to better neighbour.

    In a minimum it goes on to the next start, and once none is left from the best sentence, disturbed.

    Attributes
    ----------
    victim : int
        Whose distances count.
    starts : list of (float, Tensor)
        Distances and sentences ``[T]`` to begin at, the best first. Must not be empty.
    choices : Tensor
        ``[T, C]``, tokens that may stand at each position; C = 0: replacements are not tried.
    required : Tensor or None
        ``[K]``, tokens that must all occur.
    generator : torch.Generator
        On the CPU.
    kick : int
        Replacements and swaps of a disturbance.
    best : Tensor
        ``[T]``, the best sentence so far.
    distance : float
        Its own.
    scored : int
        Sentences whose distances were taken.
    """

    victim: int
    starts: list[tuple[float, Tensor]]
    choices: Tensor
    required: Tensor | None
    generator: torch.Generator
    kick: int
    best: Tensor = field(init=False)
    distance: float = field(init=False)
    scored: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.starts = list(self.starts)
        self.distance, self.best = self.starts[0]
        self._next()

    def _next(self) -> None:
        """Go on elsewhere."""
        if self.starts:
            self.present, self.at = self.starts.pop(0)
        else:
            self.at, self.present = self._disturbed(), float("inf")
        self._look_around()

    def _disturbed(self) -> Tensor:
        sentence = self.best
        for _ in range(self.kick):
            around = self._near(sentence)
            sentence = around[int(torch.randint(len(around), (), generator=self.generator))]
        return sentence

    def _near(self, at: Tensor) -> Tensor:
        """One token replaced, or two swapped."""
        swapped = at[orders(len(at))[0].to(at.device)]
        if not self.choices.shape[1]:
            return swapped
        return torch.cat((replacements(at, self.choices, self.required), swapped))

    def _look_around(self) -> None:
        """List the neighbours of where it is now: near ones first, each kind in random order.

        Before them comes a disturbed sentence itself, since nobody has scored it.
        """
        at = self.at
        kinds = (self._near(at), at[orders(len(at))[1].to(at.device)])
        mixed = [k[torch.randperm(len(k), generator=self.generator).to(at.device)] for k in kinds]
        around = torch.cat(mixed)
        around = around[(around != at).any(1)]
        self.around = torch.cat((at[None], around)) if self.present == float("inf") else around

    @property
    def varied(self) -> bool:
        """Whether there is any other sentence."""
        return len(self.best.unique()) > 1 or self.choices.shape[1] > 1

    def propose(self, count: int) -> Tensor:
        """The next sentences to score, ``[at most count, T]``."""
        while not len(self.around):
            self._next()
        proposed, self.around = self.around[:count], self.around[count:]
        return proposed

    def take(self, sentences: Tensor, distances: Tensor) -> None:
        """Go on from what came of a proposal.

        Parameters
        ----------
        sentences : Tensor
            ``[N, T]``, as proposed.
        distances : Tensor
            ``[N]``.
        """
        self.scored += len(sentences)
        lowest, index = distances.min(0)
        if float(lowest) < self.present:
            self.at, self.present = sentences[index], float(lowest)
            if self.present < self.distance:
                self.best, self.distance = self.at, self.present
            self._look_around()


def search_sentences(
    climbs: Sequence[Climb], scorer: Scorer, *, candidates: int, at_once: int, floor: float
) -> None:
    """Advance all climbs to their ends; what they come to is their ``best`` and ``distance``.

    Parameters
    ----------
    climbs : sequence of Climb
        Each ends at `floor`, after `candidates` sentences, or where it has no other sentence to go to.
    scorer : Scorer
        Gives the distances.
    candidates : int
        Sentences that each climb may score.
    at_once : int
        Of these how many at a pass.
    floor : float
        A distance that is low enough.
    """
    for climb in climbs:
        while climb.distance > floor and climb.scored < candidates and climb.varied:
            proposed = climb.propose(min(at_once, candidates - climb.scored))
            climb.take(proposed, scorer(proposed, climb.victim))
