"""What clients shared, as files: their gradients, or their parameters after a common start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from sapag_fast.files.gradient_file import read_gradient
from sapag_fast.files.regular import shown
from sapag_fast.files.tensors import as_list, load_weights, read_tensors
from sapag_fast.runtime.streams import tell
from sapag_fast.victim.cautions import Caution
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.updates import read_update

__all__ = ["SharedFiles"]


@dataclass(frozen=True)
class SharedFiles:
    """Files of clients, one for each victim.

    Attributes
    ----------
    gradients : sequence of Path
        Gradient files; empty where there are updates.
    before : Path or None
        The parameters that all clients began with.
    after : sequence of Path
        The parameters that each of them sent back.
    lr : float or None
        The clients' learning rate.
    weights : Path or None
        The model's weights, where no `before` holds them.

    Raises
    ------
    ValueError
        For options that do not go together.
    """

    gradients: Sequence[Path] = ()
    before: Path | None = None
    after: Sequence[Path] = ()
    lr: float | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        update = {"--before": self.before, "--after": self.after, "--lr": self.lr}
        given = [name for name, value in update.items() if value not in (None, (), [])]
        if self.gradients and given:
            raise ValueError(f"--gradient, {given[0]}: expected gradients or parameters, found both")
        if given and (missing := [name for name in update if name not in given]):
            raise ValueError(f"{missing[0]} must be given with {given[0]}, found none")
        if not self.gradients and not given:
            raise ValueError("--gradient: expected gradient files, or --before, --after and --lr, found none")
        if self.before is not None and self.weights is not None:
            raise ValueError("--weights: does not go with --before, which holds the weights")

    @property
    def victims(self) -> Sequence[Path]:
        """A file for each victim."""
        return self.gradients or self.after

    def inputs(self) -> dict[str, Sequence[Path]]:
        """All that is read, by option."""
        single = {"--weights": self.weights, "--before": self.before}
        return {
            "--gradient": self.gradients,
            "--after": self.after,
            **{name: [path] for name, path in single.items() if path is not None},
        }

    def settings(self) -> dict[str, object]:
        """What was given, by name."""
        update = {"before": self.before, "after": self.after, "lr": self.lr} if self.before else {}
        return {"weights": self.weights, "gradients": self.gradients, **update}

    def load_before(self, model: nn.Module) -> None:
        """Give the model the parameters that the clients began with, where there are updates.

        Raises
        ------
        ValueError
            Where they do not fit.
        """
        if self.before is None:
            return
        if missing := load_weights(model, self.before, whole=False):
            own = f"{missing[0]}{' and more' if len(missing) > 1 else ''}"
            tell(f"warning: {shown(self.before)} does not hold {own}: the model keeps its own")

    def check_rate(self, training: LocalTraining | None) -> None:
        """Refuse an update that is divided by another rate than the one that its training is searched with.

        Raises
        ------
        ValueError
            Naming both.
        """
        if self.lr is None or training is None:
            return
        first = training.rate[0] if isinstance(training.rate, Sequence) else training.rate
        if first != self.lr:
            raise ValueError(f"--lr: expected the first of --local-lr, {first}, found {self.lr}")

    def read(
        self, model: nn.Module, path: Path
    ) -> tuple[list[Tensor | None], dict[str, str], tuple[Caution, ...]]:
        """Read the target of one victim, with its file's metadata and what is to be known of it.

        Raises
        ------
        ValueError
            Where it does not fit the model; the message names the file.
        """
        if self.before is None:
            return *read_gradient(model, path), ()
        assert self.lr is not None  # it goes with `before`
        before, _ = read_tensors(self.before, "weight")
        after, entries = read_tensors(path, "weight")
        try:
            update = read_update(model, as_list(before) or before, as_list(after) or after, lr=self.lr)
        except (TypeError, ValueError) as error:
            raise ValueError(f"weight file {shown(path)}: {error}") from None
        return update.target, entries, update.cautions
