"""Recipes: the settings that recover inputs, by kind of network, and the rule that picks one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sapag_fast import checks as check
from sapag_fast.search.basis import BASES
from sapag_fast.search.starts import START_KINDS
from sapag_fast.victim.surrogate import Surrogate

__all__ = [
    "LINE_SEARCHES",
    "OPTIMIZERS",
    "RECIPES",
    "Recipe",
    "check_recipe",
    "check_scale",
    "choose_recipe",
]

OPTIMIZERS = ("lbfgs", "adam", "signed-adam")
"""Names that a recipe's optimiser may have."""

LINE_SEARCHES = ("armijo",)
"""Names that its line search may have."""


def check_scale(name: str, scale: object) -> str | float:
    """The scale as it is, or as a plain number.

    Raises
    ------
    TypeError, ValueError
        For what is neither ``auto`` nor a positive number.
    """
    if isinstance(scale, str):
        check.check_choice(name, scale, ("auto",), other="a number > 0")
        return scale
    return check.check_positive(name, scale)


@dataclass(frozen=True)
class Recipe:
    """Everything that an attack can be told, apart from the victim.

    Attributes
    ----------
    name : str
    distance : str
        A distance's kind.
    bandwidth : float or None
        The kernel's bandwidth; None is the kind's own.
    widths : tuple of float
        Restart k searches with the bandwidth multiplied by the k-th, and round again; at most 1. A narrow
        kernel finds its way on trained networks where a wide one is flat, and loses it on others, so that
        restarts are a portfolio of widths as of starts. They are compared by the distance with the bandwidth
        itself, and certificates and `stop_distance` are about that one. For kinds with a bandwidth and layers
        (``sapag``, ``sapag-mean``, ``sapag-sum``).
    optimizer : str
        ``lbfgs``, ``adam`` or ``signed-adam``.
    lr : float
        Step length.
    scale : str or float
        What distances are multiplied with before the penalties are added. ``auto``: each victim's own, by its
        distance at noise (see `search.scale`): penalties and the optimiser's absolute thresholds then mean
        the same on every network.
    shown_scale : float
        The optimiser is shown the whole objective so many times larger. L-BFGS drops pairs, and Adam stops
        steps, that are small in absolute terms.
    history : int
        Pairs of L-BFGS.
    line_search : str or None
        ``armijo``: L-BFGS tries shorter steps where the objective would rise or is not finite; every trial is
        an evaluation.
    milestones : tuple of float
        Fractions of the steps after which Adam's rate is multiplied by 0.1.
    cosine : bool
        Adam's rate falls as half a cosine, to zero at the last step.
    eps : float
        Added to the root of Adam's second moment. Gradients far smaller than it come to a standstill.
    steps : int
        Evaluations of each restart, at most.
    patience : int
        How long a search may come no lower before it has *stalled*: evaluations that have not brought its
        objective down by `progress`. What has stalled ends; what has *arrived* goes on with ``tv_rest``, and
        ends when it stalls or arrives there: easy victims cost few evaluations, and hard ones get `steps`.
        Looked at every 20 evaluations, and with a surrogate in its last stage alone. 0: every search takes
        `steps`.
    progress : float
        The share of its objective by which a search that has not stalled comes down.
    arrived : pair of float
        A search has *arrived* once its distance, in its scale, is at most this share of the penalties, while
        total variation leads and after, and 20 evaluations have not brought its objective down by `progress`:
        the penalties alone decide what is left, and have decided it.
    basis : str or tuple of str
        ``pixel`` or ``dct``; of several, restart k searches in the k-th, and round again.
    box, tv : float
        Weights of the penalties on leaving the bounds and on total variation.
    tv_weights : tuple of float
        Total variation of restart k has its weight multiplied by the k-th, and round again: which weight
        serves a victim cannot be told without the truth, so restarts are a portfolio of weights as of starts.
    tv_until, tv_rest : float
        After this fraction of the steps, or once the search has arrived, total variation is multiplied by
        ``tv_rest``: it leads into the right valley, and then keeps the search from its floor (10 dB on
        digits, 5 on faces; nothing where the search has not arrived by then).
    clip : bool
        Clamp to the bounds after every step (pixel basis only).
    surrogate : Surrogate or None
        Smooth activations in place of piecewise-linear ones, in the candidate's network alone, and how they
        sharpen. At each of its stages the search goes on from the best iterate of the one before.
    starts : tuple of str
        Kinds of start: restart k begins at the k-th, and round again.
    stop_distance : float
        A victim is done once the distance of one of its restarts is at most this: the others stop, and those
        that wait never begin.
    """

    name: str
    distance: str = "sapag"
    bandwidth: float | None = None
    widths: tuple[float, ...] = (1.0,)
    optimizer: str = "lbfgs"
    lr: float = 1.0
    scale: str | float = "auto"
    shown_scale: float = 1.0
    history: int = 100
    line_search: str | None = None
    milestones: tuple[float, ...] = ()
    cosine: bool = False
    eps: float = 1e-8
    steps: int = 300
    patience: int = 0
    progress: float = 0.02
    arrived: tuple[float, float] = (0.1, 0.03)
    basis: str | tuple[str, ...] = "pixel"
    box: float = 1.0
    tv: float = 1e-3
    tv_weights: tuple[float, ...] = (1.0,)
    tv_until: float = 1.0
    tv_rest: float = 1.0
    clip: bool = False
    surrogate: Surrogate | None = None
    starts: tuple[str, ...] = ("grey", "uniform", "blurred", "noise")
    stop_distance: float = 0.0

    def __post_init__(self) -> None:
        check.check_text("recipe: name", self.name)
        self._check_names()
        self._check_numbers()
        for name in ("cosine", "clip"):
            check.check_flag(self._of(name), getattr(self, name))
        if self.surrogate is not None and not isinstance(self.surrogate, Surrogate):
            found = check.shown(self.surrogate)
            raise TypeError(f"{self._of('surrogate')} must be a Surrogate or None, found {found}")

    def _check_names(self) -> None:
        check.check_text(self._of("distance"), self.distance)
        check.check_choice(self._of("optimizer"), self.optimizer, OPTIMIZERS)
        if self.line_search is not None:
            check.check_choice(self._of("line_search"), self.line_search, LINE_SEARCHES)
        bases = (self.basis,) if isinstance(self.basis, str) else self.basis
        for name, values, known in (("basis", bases, BASES), ("starts", self.starts, START_KINDS)):
            for value in self._some(name, values, "names"):
                check.check_choice(self._of(name), value, known)

    def _check_numbers(self) -> None:
        for name in ("lr", "shown_scale"):
            check.check_positive(self._of(name), getattr(self, name))
        check_scale(self._of("scale"), self.scale)
        if self.bandwidth is not None:
            check.check_positive(self._of("bandwidth"), self.bandwidth)
        for name in ("eps", "box", "tv", "tv_rest", "stop_distance"):
            check.check_weight(self._of(name), getattr(self, name))
        for name in ("history", "steps"):
            check.check_count(self._of(name), getattr(self, name))
        check.check_count(self._of("patience"), self.patience, least=0)
        for name in ("progress", "tv_until"):
            check.check_fraction(self._of(name), getattr(self, name))
        for fraction in check.check_sequence(self._of("milestones"), self.milestones, "fractions"):
            check.check_fraction(self._of("milestones"), fraction)
        if len(arrived := check.check_sequence(self._of("arrived"), self.arrived, "numbers")) != 2:
            raise ValueError(f"{self._of('arrived')} must be a pair of numbers, found {self.arrived!r}")
        for share in arrived:
            check.check_weight(self._of("arrived"), share)
        for weight in self._some("tv_weights", self.tv_weights, "numbers"):
            check.check_weight(self._of("tv_weights"), weight)
        for width in self._some("widths", self.widths, "numbers"):
            if check.check_positive(self._of("widths"), width) > 1.0:
                raise ValueError(f"{self._of('widths')} must be at most 1, found {check.shown(width)}")

    def _some(self, name: str, values: object, of: str) -> tuple:
        given = check.check_sequence(self._of(name), values, of)
        if not given:
            raise ValueError(f"{self._of(name)} must hold at least one, found none")
        return given

    def _of(self, name: str) -> str:
        return f"recipe {self.name!r}: {name}"

    @property
    def bases(self) -> tuple[str, ...]:
        """``basis`` as a tuple."""
        return (self.basis,) if isinstance(self.basis, str) else tuple(self.basis)

    @property
    def leads(self) -> bool:
        """Whether total variation has another weight at first than later."""
        return bool(self.tv) and self.tv_rest != 1.0

    def width_of(self, restart: int) -> float:
        """What a restart's bandwidth is multiplied with."""
        return float(self.widths[restart % len(self.widths)])

    def tv_of(self, restart: int = 0, *, leading: bool = True) -> float:
        """Weight of total variation of a restart, while it leads and later."""
        tv = self.tv * self.tv_weights[restart % len(self.tv_weights)]
        return tv if leading else tv * self.tv_rest


RECIPES: dict[str, Recipe] = {
    "smooth": Recipe(
        "smooth",
        line_search="armijo",
        steps=600,
        patience=120,
        tv_until=0.7,
        tv_rest=0.03,
        starts=("grey", "noise", "blurred", "noise"),
    ),
    "smooth-dct": Recipe(
        "smooth-dct",
        basis="dct",
        steps=500,
        patience=120,
        arrived=(0.3, 0.3),
        tv=1e-4,
        starts=("grey", "blurred"),
    ),
    "smooth-batch": Recipe(
        "smooth-batch",
        basis="dct",
        steps=1600,
        patience=200,
        arrived=(0.1, 0.1),
        tv=3e-4,
        tv_until=0.5,
        tv_rest=0.1,
        starts=("grey", "blurred"),
    ),
    "smooth-batch-grey": Recipe(
        "smooth-batch-grey",
        basis="dct",
        steps=1600,
        patience=200,
        tv_until=0.5,
        tv_rest=0.1,
        starts=("grey", "blurred"),
    ),
    "relu": Recipe(
        "relu",
        line_search="armijo",
        tv=3e-3,
        tv_until=0.7,
        tv_rest=0.1,
        surrogate=Surrogate(),
    ),
    "relu-adam": Recipe(
        "relu-adam",
        distance="sapag-global",
        optimizer="signed-adam",
        lr=0.1,
        milestones=(3 / 8, 5 / 8, 7 / 8),
        steps=400,
        box=0.0,
        tv=0.1,
        clip=True,
    ),
}
"""By name. ``smooth`` stands for the four smooth ones: the input's shape and the batch decide. ``relu`` goes
through the surrogate, ``relu-adam`` is the best that was found on the bare network.
"""


def check_recipe(recipe: object) -> None:
    """Refuse what is neither a recipe, nor a recipe's name, nor ``auto``.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(recipe, Recipe):
        return
    if recipe == "text":
        raise ValueError("recipe: 'text' is for sentences, which sapag_fast.recover_text recovers")
    check.check_choice("recipe", recipe, ("auto", *RECIPES), other="a Recipe")


def choose_recipe(
    recipe: str | Recipe, input_shape: Sequence[int], batch_size: int, *, piecewise_linear: bool
) -> Recipe:
    """The recipe to use: `recipe` itself, or by name; ``auto`` looks at the network, ``smooth`` at the input.

    Colour photographs (three channels) are searched in the DCT basis, and so are batches of more than one
    image for smooth networks, where other images than photographs bear more total variation; other inputs in
    their own coordinates. Inputs that are not images get no total variation.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    check_recipe(recipe)
    image = len(input_shape) == 3 and min(input_shape[-2:]) > 1
    name = recipe
    if recipe == "auto":
        name = "relu" if piecewise_linear else "smooth"
    if name == "smooth" and image:
        photograph = input_shape[0] == 3
        if batch_size > 1:
            name = "smooth-batch" if photograph else "smooth-batch-grey"
        elif photograph:
            name = "smooth-dct"
    chosen = RECIPES[name]
    if name == "relu" and image and input_shape[0] == 3:
        chosen = replace(chosen, basis="dct")
    if len(input_shape) < 3:
        chosen = replace(chosen, tv=0.0)
    return chosen
