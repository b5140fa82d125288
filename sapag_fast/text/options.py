"""What a search for sentences can be told, for commands and audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.search.options import EXACT
from sapag_fast.text.recipe import TextRecipe, choose_text_recipe
from sapag_fast.text.recover import STARTS, recover_text
from sapag_fast.text.recovery import TextRecovery

__all__ = ["TextOptions"]


@dataclass(frozen=True)
class TextOptions:
    """Options of `recover_text` that hold for every victim.

    Attributes
    ----------
    tokens : str or None
        ``bag``, or None: any token may be anywhere.
    embedding : str or None
        Name of the word embedding among the model's modules; None: the model tells.
    restarts, recipe, distance, steps, candidates, start, exact, layers, seed, at_once
        As of `recover_text`.

    Raises
    ------
    TypeError, ValueError
        For values that do not fit.
    """

    tokens: str | None = "bag"
    embedding: str | None = None
    restarts: int = 4
    recipe: str = "text"
    distance: str | None = None
    steps: int | None = None
    candidates: int | None = None
    start: str = "random"
    exact: str = "auto"
    layers: str = "modules"
    seed: int = 0
    at_once: int = 512

    def __post_init__(self) -> None:
        if self.tokens is not None:
            check.check_choice("tokens", self.tokens, ("bag",), other="None")
        check.check_choice("start", self.start, STARTS)
        check.check_choice("exact", self.exact, EXACT)
        for name in ("restarts", "at_once"):
            check.check_count(name, getattr(self, name))
        check.check_seed(self.seed)
        _ = self.settled

    @property
    def settled(self) -> TextRecipe:
        """The recipe in force."""
        return choose_text_recipe(
            self.recipe,
            bag=self.tokens is not None,
            distance=self.distance,
            steps=self.steps,
            candidates=self.candidates,
        )

    def word_embedding(self, model: nn.Module) -> nn.Embedding | None:
        """Find the module that is named, or None where none is.

        Raises
        ------
        ValueError
            Where the model has none of this name, or it is no embedding.
        """
        if self.embedding is None:
            return None
        module = dict(model.named_modules()).get(self.embedding)
        if not isinstance(module, nn.Embedding):
            found = "no such module" if module is None else type(module).__name__
            there = ", ".join(n for n, m in model.named_modules() if isinstance(m, nn.Embedding)) or "none"
            raise ValueError(
                f"embedding: expected the name of a torch.nn.Embedding (the model has {there}), "
                f"found {self.embedding!r}: {found}"
            )
        return module

    def recover(
        self,
        model: nn.Module,
        target: Sequence[Tensor | None],
        length: int | None,
        labels: str | Sequence[int],
    ) -> TextRecovery:
        """Search the sentence behind one gradient, as `recover_text` does."""
        return recover_text(
            model,
            target,
            length,
            embedding=self.word_embedding(model),
            tokens=self.tokens,
            labels=labels,
            restarts=self.restarts,
            recipe=self.recipe,
            distance=self.distance,
            steps=self.steps,
            candidates=self.candidates,
            start=self.start,
            exact=self.exact,
            layers=self.layers,
            seed=self.seed,
            at_once=self.at_once,
        )
