"""What a search of inputs comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapag_fast.recovery.cautions import joined_cautions
from sapag_fast.recovery.certificate import Certificate, Certifier
from sapag_fast.recovery.identifiability import Identifiability
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.tasks import AttackResult
from sapag_fast.victim.cautions import Caution

__all__ = ["EXACT", "SEARCH", "Recovery", "Restarts", "joined", "winners"]

EXACT, SEARCH = "exact", "search"
"""Where inputs come from."""


@dataclass(frozen=True)
class Restarts:
    """What each of K restarts of R victims came to.

    Attributes
    ----------
    inputs : Tensor
        ``[R, K, B, *input_shape]``.
    distance : Tensor
        ``[R, K]``, without penalties, of the network itself; inf where no iterate was finite, or none was
        made.
    matched : Tensor
        ``[R, K]``, as the search saw it, with the distance's own bandwidth: with a surrogate, the
        surrogate's at its last β; inf where no iterate was finite, or the search ended before that.
    evaluations : Tensor
        ``[R, K]``, int64.
    history : Tensor
        ``[evaluations of a restart, R, K]``, the distance that the search saw, with the restart's own width,
        nan after it stopped.
    """

    inputs: Tensor
    distance: Tensor
    matched: Tensor
    evaluations: Tensor
    history: Tensor


@dataclass(frozen=True, repr=False)
class Recovery:
    """What `recover` found for R victims: of each the restart with the lowest distance, as the search saw it.

    With a surrogate that is the surrogate's at its last β, which tells better than the network's own which
    restart is nearer to the truth: between two candidates a unit may change its sign, and the network's own
    gradient with it.

    Attributes
    ----------
    inputs : Tensor
        ``[R, B, *input_shape]``, not clamped to the bounds.
    labels : Tensor
        ``[R, B]`` (labels given with more dimensions, and those of other losses than cross-entropy, are
        ``[R, B, ...]``).
    label_source : tuple of str
        R of ``given``, ``joint`` (searched), ``inferred`` (from a gradient that fits what the method assumes:
        then exact), ``estimated`` (their counts rest on an estimate, or the gradient fits nearly) and
        ``unknown`` (the gradient does not fit: labels are a guess).
    label_reason : tuple of str
        R, why not surer; empty where nothing is to be said.
    soft_labels : Tensor or None
        ``[R, B, ...]``, the targets to which joint labels have come (probabilities, or real numbers), of
        which `labels` is made; None for labels that were not searched. Their distance from the network's own
        output follows the gradient's length, which a client may have changed.
    source : tuple of str
        R of ``search`` and ``exact``: the inputs follow from the gradient by arithmetic, without a search
        (its one restart then has them, and no evaluations).
    source_reason : tuple of str
        R, why arithmetic does not give the inputs, or what is to be said of it; empty where it was not tried.
    distance : Tensor
        ``[R]``, without penalties, of the network itself (with a surrogate too); inf where no iterate was
        finite.
    certificate : tuple of Certificate
        R; what the distance says of success.
    evaluations : Tensor
        ``[R]``, int64, over all restarts of the victim.
    status : tuple of str
        R of ``finished``, ``non-finite`` (the winning restart ended on a non-finite value and kept its best
        finite iterate) or ``interrupted``.
    history : Tensor
        ``[evaluations of a restart, R]``, the winner's distance at each evaluation, as the search saw it, nan
        after it stopped.
    winner : Tensor
        ``[R]``, int64, which restart it is; the recipe tells its start, width, basis and prior weight.
    restarts : Restarts
        All of them.
    mode : str
        How the recoveries were batched: ``explicit``, ``single``, ``vmap`` or ``sequential``.
    mode_reason : str
        Why not explicitly.
    at_once : int
        Searches that ran at once.
    scale : Tensor
        ``[R]``, what each victim's distance was multiplied with beside the penalties (see `Recipe`).
    recipe : Recipe
        The settings in force.
    warnings : tuple of Caution
        What speaks against the recovery although nothing went wrong: dropout that is active, other
        randomness, BatchNorm in training mode, averaged mini-batches, a box that is too small, rounding that
        takes a gradient's digits. One of each kind.
    """

    inputs: Tensor
    labels: Tensor
    label_source: tuple[str, ...]
    label_reason: tuple[str, ...]
    soft_labels: Tensor | None
    source: tuple[str, ...]
    source_reason: tuple[str, ...]
    distance: Tensor
    certificate: tuple[Certificate, ...]
    evaluations: Tensor
    status: tuple[str, ...]
    history: Tensor
    winner: Tensor
    restarts: Restarts
    mode: str
    mode_reason: str
    at_once: int
    scale: Tensor
    recipe: Recipe
    warnings: tuple[Caution, ...] = ()

    def __repr__(self) -> str:
        # A few figures: the tensors would fill screens.
        victims, inputs = self.distance.shape[0], "x".join(map(str, self.inputs.shape[1:]))
        shown = [f"{distance:.2g} ({certificate.status})" for distance, certificate in self._best()]
        more = f", {victims - len(shown)} more" if victims > len(shown) else ""
        return f"Recovery({victims} victim(s) of {inputs}; distances {', '.join(shown)}{more})"

    def _best(self) -> list[tuple[float, Certificate]]:
        return list(zip(self.distance[:4].tolist(), self.certificate[:4], strict=True))


def winners(
    result: AttackResult,
    *,
    restarts: int,
    recipe: Recipe,
    certifier: Certifier,
    labels_from: tuple[tuple[str, ...], tuple[str, ...]],
    checks: Mapping[int, Identifiability] | None = None,
    first: int = 0,
) -> Recovery:
    """Take of each victim (its `restarts` tasks lie side by side) the restart that matches best.

    Where no restart has come to the surrogate's last stage, the network's own distance decides; `first` is
    the number of the first victim, `checks` are by number. `labels_from` holds source and reason of all
    victims' labels.
    """
    victims = result.distance.shape[0] // restarts
    by_victim = (victims, restarts)
    matched, by_network = result.matched.view(by_victim), result.distance.view(by_victim)
    best = torch.where(matched.isfinite().any(1, keepdim=True), matched, by_network).argmin(1)
    winner = best + torch.arange(victims, device=best.device) * restarts
    ended = torch.tensor(result.ended).view(by_victim).all(1).tolist()
    status = tuple(
        "non-finite" if not finite else "finished" if whole else "interrupted"
        for finite, whole in zip(result.finite[winner].tolist(), ended, strict=True)
    )
    source, reason = (entries[first : first + victims] for entries in labels_from)
    distance = result.distance[winner]
    known = checks or {}
    certificates = (certifier.certificate(v, d, known.get(v)) for v, d in enumerate(distance.tolist(), first))
    return Recovery(
        inputs=result.inputs[winner],
        labels=result.labels[winner],
        label_source=source,
        label_reason=reason,
        soft_labels=None,
        source=(SEARCH,) * victims,
        source_reason=("",) * victims,
        distance=distance,
        certificate=tuple(certificates),
        evaluations=result.evaluations.view(by_victim).sum(1),
        status=status,
        history=result.history[:, winner],
        winner=best,
        restarts=Restarts(
            inputs=result.inputs.unflatten(0, by_victim),
            distance=by_network,
            matched=matched,
            evaluations=result.evaluations.view(by_victim),
            history=result.history.unflatten(1, by_victim),
        ),
        mode=result.mode,
        mode_reason=result.mode_reason,
        at_once=result.rows,
        scale=result.scale.view(by_victim)[:, 0],
        recipe=recipe,
    )


def joined(found: Recovery, again: Recovery, victims: Tensor) -> Recovery:
    """Join what two searches found of the same victims.

    What `again` found of some victims (``[W]``, int64, their positions) becomes further restarts of theirs in
    `found`; those of the other victims never began. The shorter of the two histories ends in nan.
    """
    length = max(len(found.history), len(again.history))

    def lengthened(history: Tensor) -> Tensor:
        end = history.new_full((length - len(history), *history.shape[1:]), torch.nan)
        return torch.cat((history, end))

    def further(first: Tensor, second: Tensor, filler: float, dim: int = 1) -> Tensor:
        shape = list(first.shape)
        shape[dim] = second.shape[dim]
        new = first.new_full(shape, filler)
        new.index_copy_(dim - 1, victims, second)
        return torch.cat((first, new), dim)

    ours, theirs = found.restarts, again.restarts
    closer = again.distance < found.distance[victims]
    better = victims[closer]
    rows = closer.nonzero().flatten()
    moved = dict(zip(better.tolist(), rows.tolist(), strict=True))

    def taken(first: Tensor, second: Tensor, dim: int = 0) -> Tensor:
        kept = second.index_select(dim, rows)
        return first.clone().index_copy_(dim, better, kept)

    certificate, status, source = list(found.certificate), list(found.status), list(found.source)
    for row in rows.tolist():
        victim = int(victims[row])
        status[victim], source[victim] = again.status[row], again.source[row]
        if found.label_source[victim] != "unknown":  # the second search takes them as given
            certificate[victim] = again.certificate[row]
    return replace(
        found,
        inputs=taken(found.inputs, again.inputs),
        source=tuple(source),
        distance=taken(found.distance, again.distance),
        certificate=tuple(certificate),
        evaluations=found.evaluations.index_add(0, victims, again.evaluations),
        status=tuple(status),
        history=taken(lengthened(found.history), lengthened(again.history), 1),
        winner=taken(found.winner, again.winner + ours.distance.shape[1]),
        restarts=Restarts(
            inputs=further(ours.inputs, theirs.inputs, torch.nan),
            distance=further(ours.distance, theirs.distance, torch.inf),
            matched=further(ours.matched, theirs.matched, torch.inf),
            evaluations=further(ours.evaluations, theirs.evaluations, 0),
            history=further(lengthened(ours.history), lengthened(theirs.history), torch.nan, 2),
        ),
        warnings=joined_cautions(found.warnings, again.warnings, moved),
    )
