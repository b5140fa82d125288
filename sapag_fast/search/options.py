"""What a search can be told: one options object for `recover`, audits, the profiler and the command line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind, find_kind
from sapag_fast.distances.layering import LAYER_RULES
from sapag_fast.search.basis import BASES
from sapag_fast.search.box import Bounds, check_bounds, check_within
from sapag_fast.search.priors import require_image_shape
from sapag_fast.search.recipe import OPTIMIZERS, Recipe, check_recipe, check_scale, choose_recipe
from sapag_fast.search.starts import START_KINDS
from sapag_fast.victim.local_training import LocalTraining, checked_rates, training_of
from sapag_fast.victim.normalised import PerChannel, check_statistics
from sapag_fast.victim.surrogate import Surrogate

__all__ = ["EXACT", "SearchOptions", "takes_search_options"]

EXACT = ("auto", "off")
"""Whether arithmetic is tried before the search."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search goes; None: from the recipe.

    Attributes
    ----------
    recipe : str or Recipe
        ``"auto"`` looks at the network and the input; ``"smooth"`` for networks without piecewise-linear
        activations, and ``"relu"`` through the surrogate for those with some, look at the input alone; the
        other names of `RECIPES` look at nothing. The next options override the recipe.
    distance : str, Kind, GradientDistance or None
        A distance's kind, by name or as a `Kind` object, or a `GradientDistance`. The recipe's bandwidth and
        widths are its own kind's; a `GradientDistance` brings its bandwidth, for all restarts.
    layers : str or sequence of int
        Which gradients form a layer of the distance: ``modules`` (those of one submodule), ``shapes`` (a
        vector joins the tensor before it whose first dimension it shares), ``separate``, or a number for
        each. A `GradientDistance` brings its own, and kinds that see the whole gradient as one layer take
        none.
    optimizer : str or None
        ``lbfgs``, ``adam`` or ``signed-adam``.
    steps : int or None
        Evaluations of each restart, at most.
    patience : int or None
        Evaluations without coming lower after which a restart has stalled (see `Recipe`); 0: every restart
        takes all its steps.
    start : str, sequence of str, Tensor or None
        Kinds of start for the restarts in turn (``grey``, ``uniform``, ``blurred``, ``noise``), or a tensor
        ``[R, restarts, B, *input_shape]`` (leading dimensions of 1 may be left out).
    basis : str, sequence of str or None
        ``pixel``, ``dct``, or several for the restarts in turn.
    surrogate : str, bool, Surrogate or None
        ``softplus`` (smooth activations for piecewise-linear ones in the candidate's network alone, never in
        the victim's), False or a `Surrogate`.
    box, tv : float or None
        Weights of the penalties on leaving the bounds and on total variation.
    scale : str, float or None
        What distances are multiplied with before the penalties are added; ``auto``: by each victim's distance
        at noise.
    stop_distance : float or None
        A victim is done once the distance of one of its restarts is at most this.
    bounds : pair of float, pair of sequence of float or None
        Range of the inputs' values, lowest and highest, each one number or one for each channel; None: no
        box. With `mean` and `std` the pictures' range, not that of what the network is fed.
    mean, std : float, sequence of float or None
        Where clients normalise their pictures: the network sees (x - mean) / std, each one number or one for
        each channel. All else is then about pictures: starts, penalties, `bounds`, and what comes out.
    restarts : int
        Searches for each victim: a portfolio of starts, and where the recipe says so of widths, prior weights
        and bases, since none can be chosen without the truth. The one with the lowest distance without
        penalties wins (see `Recovery`).
    exact : str
        ``auto``: a victim whose inputs follow from its gradient by arithmetic (see `recover_exact`) is not
        searched; ``off``: all are.
    stop_certified : bool
        Once a restart of a victim is certified (see `Recovery.certificate`), it alone goes on to its end:
        the victim's others stop, and those that wait never begin.
    local_training : LocalTraining or None
        How the client trained before it shared; the target is then (parameters before - parameters after) /
        its first rate. Candidates are unrolled through the same steps, which explicit mode does not cover.
        The next five are its short form, without momentum and weight decay.
    local_steps : int
        Steps of gradient descent.
    local_lr : float, sequence of float or None
        Their rate, or one for each step or each epoch.
    local_epochs, local_batch_size : int or None
        Passes over all inputs in place of steps, and inputs of a mini-batch (None: all), see `LocalTraining`.
    local_optimizer : str
        ``sgd``.
    averaged_batches : int or None
        Mini-batches whose gradients the client averaged. They are searched as one batch of all inputs, and
        `Recovery.warnings` says when that is right. None: as far as is known, none.
    seed : int
        Of all random numbers.
    max_memory : int or None
        Bytes that the searches may take; None: what is free. A small step is measured to see how many fit.
    at_once : int or None
        Searches at once, whatever memory says. Halved if memory runs out all the same.

    Raises
    ------
    TypeError, ValueError
        For options that do not fit; the message names the option, what was expected and what was found.
    """

    recipe: str | Recipe = "auto"
    distance: str | Kind | GradientDistance | None = None
    layers: str | Sequence[int] = "modules"
    optimizer: str | None = None
    steps: int | None = None
    patience: int | None = None
    start: str | Sequence[str] | Tensor | None = None
    basis: str | Sequence[str] | None = None
    surrogate: str | bool | Surrogate | None = None
    box: float | None = None
    tv: float | None = None
    scale: str | float | None = None
    stop_distance: float | None = None
    bounds: Bounds | None = (0.0, 1.0)
    mean: PerChannel | None = None
    std: PerChannel | None = None
    restarts: int = 1
    exact: str = "auto"
    stop_certified: bool = True
    local_training: LocalTraining | None = None
    local_steps: int = 1
    local_lr: float | Sequence[float] | None = None
    local_epochs: int | None = None
    local_batch_size: int | None = None
    local_optimizer: str = "sgd"
    averaged_batches: int | None = None
    seed: int = 0
    max_memory: int | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        self._keep("bounds", check_bounds(self.bounds))
        mean, std = check_statistics(self.mean, self.std)
        check_within(mean, self.bounds)
        self._keep("mean", mean)
        self._keep("std", std)
        self._check_numbers()
        self._check_local()
        check_recipe(self.recipe)
        self._check_distance()
        self._check_layers()
        check.check_choice("exact", self.exact, EXACT)
        if self.optimizer is not None:
            check.check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.start is not None and not isinstance(self.start, Tensor):
            self._keep_names("start", START_KINDS, "a tensor")
        if self.basis is not None:
            self._keep_names("basis", tuple(BASES), "a sequence of them")
        off = self.surrogate is None or self.surrogate is False
        softplus = isinstance(self.surrogate, str) and self.surrogate == "softplus"
        if not (off or softplus or isinstance(self.surrogate, Surrogate)):
            found = check.shown(self.surrogate)
            raise ValueError(f"surrogate must be 'softplus', False or a Surrogate, found {found}")

    def _check_numbers(self) -> None:
        """Keep numbers as plain ones, numpy's among them."""
        self._keep("restarts", check.check_count("restarts", self.restarts))
        self._keep("seed", check.check_seed(self.seed))
        self._keep("stop_certified", check.check_flag("stop_certified", self.stop_certified))
        for name in ("steps", "max_memory", "at_once", "averaged_batches"):
            if getattr(self, name) is not None:
                self._keep(name, check.check_count(name, getattr(self, name)))
        for name in ("box", "tv", "stop_distance"):
            if getattr(self, name) is not None:
                self._keep(name, check.check_weight(name, getattr(self, name)))
        if self.patience is not None:
            self._keep("patience", check.check_count("patience", self.patience, least=0))
        if self.scale is not None:
            self._keep("scale", check_scale("scale", self.scale))

    def _check_local(self) -> None:
        """Check how the client trained, in either form, and keep plain numbers."""
        training = self.training
        self._keep("local_steps", int(self.local_steps))
        if self.local_lr is not None:
            self._keep("local_lr", checked_rates("local_lr", self.local_lr))
        if self.local_training is None and training is not None:
            self._keep("local_epochs", training.epochs)
            self._keep("local_batch_size", training.batch_size)

    @property
    def training(self) -> LocalTraining | None:
        """How the client trained, in whichever form it was given; None: it shared one gradient."""
        short = (self.local_steps, self.local_lr, self.local_epochs, self.local_batch_size)
        return training_of(self.local_training, *short, self.local_optimizer)

    def _check_distance(self) -> None:
        distance = self.distance
        if distance is None and isinstance(self.recipe, Recipe):
            find_kind(self.recipe.distance, f"recipe {self.recipe.name!r}: distance")
        if distance is None or isinstance(distance, GradientDistance):
            return
        if not isinstance(distance, (str, Kind)):
            found = type(distance).__name__
            raise TypeError(f"distance must be a kind's name, a Kind or a GradientDistance, found {found}")
        find_kind(distance, "distance")

    def _check_layers(self) -> None:
        if isinstance(self.layers, str):
            check.check_choice("layers", self.layers, LAYER_RULES, other="a number for each tensor")
        else:
            self._keep("layers", check.check_integers("layers", self.layers))
        if isinstance(self.distance, GradientDistance) and self.layers != "modules":
            raise ValueError(
                f"layers must be left out where distance is a GradientDistance, which brings its own, "
                f"found {check.shown(self.layers)}"
            )

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _keep_names(self, name: str, known: Sequence[str], other: str) -> None:
        """Keep a sequence as a tuple, which nobody can change behind our back; a name stays as it is."""
        value = getattr(self, name)
        if isinstance(value, (list, tuple)) and value:
            self._keep(name, tuple(value))
        for one in value if isinstance(value, (list, tuple)) and value else (value,):
            check.check_choice(name, one, known, other=other)

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, SearchOptions) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple[object, ...]:
        """All fields; a tensor is equal to itself alone."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(("tensor", id(value)) if isinstance(value, Tensor) else value for value in values)

    @classmethod
    def given(
        cls, options: SearchOptions | None, changes: Mapping[str, Any], function: Callable | None = None
    ) -> SearchOptions:
        """Take what `function` was given: an object, single options that change it, or both.

        Raises
        ------
        TypeError
            For something else than `SearchOptions`, and for a name that is no option.
        """
        if options is not None and not isinstance(options, cls):
            raise TypeError(f"options must be SearchOptions, found {type(options).__name__}")
        names = [field.name for field in fields(cls)]
        for name in changes:
            if name not in names:
                # A mistyped argument of the function's own comes here too.
                known = names if function is None else list(inspect.signature(function).parameters)
                near = difflib.get_close_matches(name, known, 1)
                raise TypeError(
                    f"unknown option {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}"
                    f"Expected one of {', '.join(known)}"
                )
        return cls(**changes) if options is None else replace(options, **changes)

    @property
    def start_kinds(self) -> tuple[str, ...] | None:
        """Kinds of start in place of the recipe's; None where there are none, or a tensor is given."""
        if self.start is None or isinstance(self.start, Tensor):
            return None
        return (self.start,) if isinstance(self.start, str) else tuple(self.start)

    def settled(self, input_shape: Sequence[int], batch_size: int, *, piecewise_linear: bool) -> Recipe:
        """Choose the recipe for inputs of this shape, with these options in place of its values.

        Parameters
        ----------
        input_shape : sequence of int
            Of one input, without the batch.
        batch_size : int
            Inputs behind one gradient.
        piecewise_linear : bool
            Whether piecewise-linear activations run in the network.

        Raises
        ------
        ValueError
            For total variation on inputs that are not images, and layers or widths of kinds without any.
        """
        recipe = choose_recipe(self.recipe, input_shape, batch_size, piecewise_linear=piecewise_linear)
        recipe = self.applied_to(recipe)
        if recipe.tv:
            require_image_shape(input_shape)
        if set(recipe.widths) != {1.0} and not self.kind_of(recipe).has_widths:
            raise ValueError(
                f"recipe {recipe.name!r}: widths must be (1.0,) for the distance {recipe.distance!r}, found "
                f"{check.shown(recipe.widths)}"
            )
        if self.layers != "modules" and self.kind_of(recipe).merged:
            raise ValueError(
                f"layers: the distance {recipe.distance!r} sees the whole gradient as one layer and takes "
                f"none, found {check.shown(self.layers)}"
            )
        return recipe

    def kind_of(self, recipe: Recipe) -> Kind:
        """The distance's kind under a recipe that `settled` returned."""
        if isinstance(self.distance, GradientDistance):
            return self.distance.kind
        return find_kind(recipe.distance if self.distance is None else self.distance, "distance")

    def applied_to(self, recipe: Recipe) -> Recipe:
        """Put these options in place of the recipe's values."""
        recipe = self._with_optimizer(self._with_distance(recipe))
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("steps", "patience", "basis", "box", "tv", "scale", "stop_distance")
            if getattr(self, name) is not None
        }
        if self.start_kinds is not None:
            changes["starts"] = self.start_kinds
        if self.surrogate is not None:
            changes["surrogate"] = self._surrogate(recipe)
        recipe = replace(recipe, **changes)
        if set(recipe.bases) != {"pixel"}:
            # Clamping coordinates of another basis would mean nothing.
            recipe = replace(recipe, clip=False)
        return recipe

    def _with_distance(self, recipe: Recipe) -> Recipe:
        if self.distance is None:
            return recipe
        kind = self.kind_of(recipe).name
        own: dict[str, Any] = {"bandwidth": None} if kind != recipe.distance else {}
        if own or isinstance(self.distance, GradientDistance):
            # Widths are set for the recipe's own kernel.
            own["widths"] = (1.0,)
        return replace(recipe, distance=kind, **own)

    def _with_optimizer(self, recipe: Recipe) -> Recipe:
        if self.optimizer is None or self.optimizer == recipe.optimizer:
            return recipe
        lbfgs = self.optimizer == "lbfgs"
        return replace(
            recipe,
            optimizer=self.optimizer,
            lr=1.0 if lbfgs else 0.1,
            line_search=None,
            milestones=() if lbfgs else (3 / 8, 5 / 8, 7 / 8),
            clip=not lbfgs,
        )

    def _surrogate(self, recipe: Recipe) -> Surrogate | None:
        if self.surrogate is False:
            return None
        if isinstance(self.surrogate, Surrogate):
            return self.surrogate
        return recipe.surrogate or Surrogate()


def takes_search_options(function: Callable) -> Callable:
    """Show the options in the signature of a function that takes them as ``**changes``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = inspect.signature(SearchOptions).parameters.values()
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function
