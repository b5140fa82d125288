"""Settings of the search for sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sapag_fast import checks as check
from sapag_fast.distances.kind import find_kind
from sapag_fast.search.recipe import Recipe

__all__ = ["CERTIFIED", "TEXT_RECIPES", "TextRecipe", "choose_text_recipe"]

CERTIFIED: dict[str, float] = {"sapag": 1e-8}
"""By kind of distance, from where on down a sentence counts as the truth. On encoders of two layers, trained
and not, with 8 to 32 tokens the truth lies below 1e-10 in float32, and the closest sentence with one swap or
replacement above 1e-3. On other networks that is looked at (`certify`). Kinds that are not here have no such
scale, or none was measured.
"""


@dataclass(frozen=True)
class TextRecipe:
    """Everything that the search for a sentence can be told, apart from the victim.

    Attributes
    ----------
    name : str
        What results call it.
    distance : str
        A kind of distance.
    bandwidth : float or None
        The kernel's bandwidth; None is the kind's own.
    optimizer : str
        ``adam`` or ``lbfgs``, of the continuous search.
    lr : float
        Step length; Adam's falls as half a cosine.
    history : int
        Pairs of L-BFGS.
    eps : float
        Of Adam: near the truth the distance's gradient is far below the usual 1e-8.
    steps : int
        Evaluations of the continuous search in each restart.
    stop_distance : float
        A continuous search ends here, of a distance that has a scale: its sentence is right or nearly so, and
        the discrete search costs less than the rest of the way.
    spread : float
        Deviation of the normal starts: logits with the bag, without it embeddings in units of their table's.
    candidates : int
        Sentences that the discrete search may score in each restart.
    at_once : int
        Of these how many at a pass for one victim.
    choices : int
        Without the bag: nearest tokens that the discrete search tries at each position.
    kick : int
        Random replacements and swaps by which the discrete search leaves a local minimum.
    """

    name: str
    distance: str = "sapag"
    bandwidth: float | None = None
    optimizer: str = "adam"
    lr: float = 0.3
    history: int = 100
    eps: float = 1e-20
    steps: int = 300
    stop_distance: float = 1e-3
    spread: float = 0.1
    candidates: int = 8000
    at_once: int = 128
    choices: int = 8
    kick: int = 3

    def __post_init__(self) -> None:
        check.check_text("recipe: name", self.name)
        check.check_text(self._of("distance"), self.distance)
        check.check_choice(self._of("optimizer"), self.optimizer, ("adam", "lbfgs"))
        if self.bandwidth is not None:
            check.check_positive(self._of("bandwidth"), self.bandwidth)
        for name in ("lr", "spread"):
            check.check_positive(self._of(name), getattr(self, name))
        for name in ("eps", "stop_distance"):
            check.check_weight(self._of(name), getattr(self, name))
        for name in ("history", "steps", "candidates", "at_once", "choices", "kick"):
            check.check_count(self._of(name), getattr(self, name))

    def _of(self, name: str) -> str:
        return f"recipe {self.name!r}: {name}"

    def continuous(self) -> Recipe:
        """The continuous search's recipe."""
        return Recipe(
            self.name,
            distance=self.distance,
            bandwidth=self.bandwidth,
            optimizer=self.optimizer,
            lr=self.lr,
            history=self.history,
            cosine=self.optimizer != "lbfgs",
            eps=self.eps,
            steps=self.steps,
            scale=1.0,
            box=0.0,
            tv=0.0,
            stop_distance=self.stop_distance if self.distance in CERTIFIED else 0.0,
        )


TEXT_RECIPES: dict[str, TextRecipe] = {
    "text": TextRecipe("text"),
    "text-no-bag": TextRecipe("text-no-bag", optimizer="lbfgs", lr=1.0, stop_distance=1e-6, candidates=4000),
}
"""By name; ``text`` without the bag is ``text-no-bag``."""


def choose_text_recipe(
    recipe: str | TextRecipe,
    *,
    bag: bool,
    distance: str | None = None,
    steps: int | None = None,
    candidates: int | None = None,
) -> TextRecipe:
    """Find the recipe, and put recover_text's own arguments in place of its values.

    Parameters
    ----------
    recipe : str or TextRecipe
        By name or itself.
    bag : bool
        Whether the tokens come from the bag.
    distance, steps, candidates
        None: the recipe's.

    Returns
    -------
    TextRecipe
        The recipe in force.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, an unknown distance, and numbers that do not fit.
    """
    if not isinstance(recipe, TextRecipe):
        name = check.check_choice("recipe", recipe, TEXT_RECIPES, other="a TextRecipe")
        recipe = TEXT_RECIPES["text-no-bag" if name == "text" and not bag else name]
    kind = find_kind(recipe.distance if distance is None else distance, "distance").name
    if kind != recipe.distance:
        recipe = replace(recipe, distance=kind, bandwidth=None)
    if steps is not None:
        recipe = replace(recipe, steps=check.check_count("steps", steps))
    if candidates is not None:
        recipe = replace(recipe, candidates=check.check_count("candidates", candidates))
    return recipe
