"""A wave of an audit: victims that one call of `recover` searches together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.groups import AuditOptions, Group
from sapag_fast.audit.result import Result
from sapag_fast.audit.truth import true_labels
from sapag_fast.files.fault import guarded
from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.files.victims import ListedVictim
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import EXACT, Recovery
from sapag_fast.victim.cautions import silenced, trial_inputs
from sapag_fast.victim.label_inference import Evidence
from sapag_fast.victim.labels import check_inferable
from sapag_fast.victim.losses import CrossEntropy
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.searchable import searchable

__all__ = ["ReadWave", "Wave", "WaveSearch"]


@dataclass(frozen=True)
class Wave:
    """Victims of one group that are searched together.

    Attributes
    ----------
    number : int or None
        Of the wave in the audit, once it has been begun.
    group : Group
    victims : sequence of ListedVictim
    """

    number: int | None
    group: Group
    victims: Sequence[ListedVictim]


@dataclass(frozen=True)
class ReadWave:
    """A wave's victims that can be read, V of them.

    Attributes
    ----------
    victims : sequence of ListedVictim
    targets : sequence of Tensor
        ``[V, *parameter shape]`` for each trained parameter.
    sha256 : dict of str to str
        Of each gradient, by the victim's name, in order.
    faults : dict of str to str
        Why each of the others cannot be read, by name.
    """

    victims: Sequence[ListedVictim]
    targets: Sequence[Tensor]
    sha256: dict[str, str]
    faults: dict[str, str]


class WaveSearch:
    """Reads and searches one wave after the other.

    Parameters
    ----------
    model : nn.Module
        On `device`.
    folder : AuditFolder
        Open.
    options : AuditOptions
    device : torch.device
    """

    def __init__(
        self, model: nn.Module, folder: AuditFolder, options: AuditOptions, device: torch.device
    ) -> None:
        self.model, self.folder, self.options, self.device = model, folder, options, device
        self.searched = searchable(model).model
        self.network = VictimModel(self.searched)

    @torch.no_grad()
    def read(self, wave: Wave) -> ReadWave:
        """Read the gradients of the victims that can be searched; the others' faults are theirs alone."""
        parameters = [p for p in self.searched.parameters() if p.requires_grad]
        count = len(wave.victims)
        targets = [torch.empty(count, *p.shape, dtype=p.dtype, device=self.device) for p in parameters]
        victims: list[ListedVictim] = []
        sha256: dict[str, str] = {}
        faults: dict[str, str] = {}
        for victim in wave.victims:
            row = len(victims)
            with guarded(victim.name, faults):
                gradient = self._whole_gradient(victim)
                for target, tensor in zip(targets, gradient, strict=True):
                    target[row] = tensor
                    if not torch.isfinite(target[row]).all():
                        raise ValueError(f"its gradient is not finite as {target.dtype}")
                self._check_labels(wave.group, victim, [target[row : row + 1] for target in targets])
                sha256[victim.name] = fingerprint((), gradient)
                victims.append(victim)
        return ReadWave(victims, [target[: len(victims)] for target in targets], sha256, faults)

    def search(
        self,
        wave: Wave,
        read: ReadWave,
        on_result: Callable[[str, Result], object],
        progress: Callable[[int, Tensor], object],
    ) -> None:
        """Search the victims once, and write each result as soon as it is there.

        Parameters
        ----------
        wave : Wave
        read : ReadWave
            What `read` made of it.
        on_result : callable
            Given a victim's name and its result, when that is written.
        progress : callable
            As `recover`'s.

        Raises
        ------
        Interrupted
            After Ctrl-C; the wave's checkpoint is written.
        """
        group, search = wave.group, self.options.search

        def finished(position: int, recovery: Recovery) -> None:
            if recovery.source[0] != EXACT:
                self.folder.pin_at_once(group.name, recovery.at_once)
            name = read.victims[position].name
            result = Result.of(recovery, name, read.sha256[name], search)
            self.folder.write(name, result)
            on_result(name, result)

        attack: dict[str, Any] = {
            "batched": True,
            "loss_fn": self.options.loss,
            "batch_size": group.victims[0].batch_size,
            "labels": self._labels(read.victims),
            "checkpoint": self.folder.checkpoint,
            "on_finished": finished,
            "progress": progress,
            "options": search,
            "recipe": group.recipe,
            "mean": group.mean,
            "std": group.std,
            "at_once": search.at_once or self.folder.at_once(group.name),
        }
        with silenced():  # the audit has said it
            recover(self.model, read.targets, group.victims[0].input_shape, **attack)

    def _whole_gradient(self, victim: ListedVictim) -> list[Tensor]:
        gradient = victim.gradient(self.model)
        whole = [tensor for tensor in gradient if tensor is not None]
        if len(whole) < len(gradient):
            raise ValueError("its client withheld a part of the gradient; recover takes it, an audit not")
        return whole

    def _check_labels(self, group: Group, victim: ListedVictim, target: list[Tensor]) -> None:
        """Raise ValueError where one victim would end the search of all for its labels."""
        loss = self.options.loss
        if self.options.labels == "infer" and not loss.plain and group.output is not None:
            tried = trial_inputs(self.network, victim.input_shape, 1)
            loss.infer(Evidence(self.network, target, output=group.output, noise=tried))
        elif self.options.labels == "infer":
            check_inferable(target, group.classes)
        elif self.options.labels == "known":
            labels = true_labels(victim)
            if labels is None:
                raise ValueError("its gradient file does not give the labels")
            classes = group.classes if isinstance(loss, CrossEntropy) else None
            if classes is not None and int(labels.max()) >= classes:
                raise ValueError(f"label {int(labels.max())}: the model has {classes} classes")

    def _labels(self, victims: Sequence[ListedVictim]) -> str | Tensor:
        if self.options.labels != "known":
            return self.options.labels
        known = [labels for victim in victims if (labels := true_labels(victim)) is not None]
        return torch.stack(known).to(self.device)
