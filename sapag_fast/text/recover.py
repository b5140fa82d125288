"""The public face of the search for sentences: `recover_text`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import find_kind
from sapag_fast.distances.layering import model_layers
from sapag_fast.runtime.randomness import forked, seeded
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.options import EXACT
from sapag_fast.text.attack import TextAttack
from sapag_fast.text.bag import infer_length, read_bag
from sapag_fast.text.exact import begin_at, read_off
from sapag_fast.text.group import Group
from sapag_fast.text.network import Tables, TextNetwork, differentiable_layers, find_tables
from sapag_fast.text.recipe import TextRecipe, choose_text_recipe
from sapag_fast.text.recovery import TextRecovery
from sapag_fast.victim.cautions import Caution, CautionWarning, find_cautions
from sapag_fast.victim.label_inference import Evidence
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.losses import CrossEntropy, Loss, find_loss
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import LossFunction, Problem
from sapag_fast.victim.searchable import Searchable, causes_named, low_precision, searchable
from sapag_fast.victim.targets import TargetGradient, checked_target, kept

__all__ = ["STARTS", "recover_text"]

STARTS = ("random", "positions", "span")
"""Names that recover_text's `start` may have."""


def recover_text(
    model: nn.Module,
    target: TargetGradient,
    length: int | Sequence[int] | None = None,
    *,
    embedding: nn.Embedding | None = None,
    tokens: str | None = "bag",
    labels: str | Tensor | Sequence[int] = "infer",
    loss_fn: str | Loss | LossFunction | None = None,
    restarts: int = 4,
    recipe: str | TextRecipe = "text",
    distance: str | None = None,
    steps: int | None = None,
    candidates: int | None = None,
    start: str = "random",
    exact: str = "auto",
    layers: str | Sequence[int] = "modules",
    seed: int = 0,
    batched: bool = False,
    at_once: int = 512,
    progress: Callable[[int, Tensor], object] | None = None,
) -> TextRecovery:
    """Recover the sentences whose gradients are `target`, one behind each: read off, else by searches.

    Parameters
    ----------
    model : nn.Module
        `Encoder` or any that takes ``inputs_embeds=``, in evaluation mode or without dropout.
    target : iterable or mapping of Tensor, ndarray or None
        The gradient, in the forms of `recover`'s; with `batched` ``[V, ...]``, a row a victim.
    length : int or sequence of int, optional
        Tokens T, of all or each; None: from the position embedding's gradient.
    embedding : nn.Embedding, optional
        Of words, where the model does not tell it.
    tokens : {"bag"} or None
        ``bag``: from the non-zero rows of the word embedding's gradient. None: any may be anywhere.
    labels : str, Tensor or sequence of int
        ``"infer"`` (from the last linear layer's gradient), ``[V]``, or ``[V, 1, ...]`` for other losses.
    restarts, at_once : int
        Continuous searches of a victim, a discrete one after each; searches (or sentences) at once.
    recipe : str or TextRecipe
        ``text``, ``text-no-bag`` or one's own; `distance`, `steps` and `candidates` override its values.
    start : {"random", "positions", "span"}
        Whose sentences a search tries first: none's, `match_positions`' or `span_test`'s.
    exact : {"auto", "off"}
        ``auto``: what follows by arithmetic (`match_positions`, `span_test`) is not searched; ``off``.
    progress : callable, optional
        Called with (restarts done, ``[V]`` lowest distances) after every restart.
    loss_fn, layers, seed, batched : as for `recover`.

    Returns
    -------
    TextRecovery
        The best sentence of each victim.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument and what was expected.
    Interrupted
        On Ctrl-C; its ``recovery`` is the TextRecovery so far.
    """
    model, embedding = (found := searchable(model)).model, found.counterpart(embedding)
    batched, seed = check.check_flag("batched", batched), check.check_seed(seed)
    device, targets, told = _targets(found, target, batched)
    restarts, at_once = check.check_count("restarts", restarts), check.check_count("at_once", at_once)
    loss, bag = _checked_loss(tokens, start, exact, loss_fn, progress), tokens == "bag"
    settled = choose_text_recipe(recipe, bag=bag, distance=distance, steps=steps, candidates=candidates)
    with causes_named(), seeded(seed, device), differentiable_layers(model):
        tables = find_tables(model, embedding)
        lengths = _lengths(length, tables, targets)
        problem = _problem(model, loss, settled, layers, targets, tables)
        trial = _trial(problem, tables, lengths[0])
        cautions = _warned((*find_cautions(problem.network, trial[0], model), *told))
        known = _labels(labels, problem, loss, trial, batched)
        rows = _word_gradient(tables, targets) if bag else None
        attack = TextAttack(problem, tables, known, rows, length is None, settled, seed, at_once, cautions)
        groups = _groups(attack, lengths)
        return _searched(groups, restarts, progress, partial(_begin, exact, start, model, targets))


def _targets(
    found: Searchable, target: TargetGradient, batched: bool
) -> tuple[torch.device, list[Tensor | None], tuple[Caution, ...]]:
    """Where to work, the target gradients ``[V, ...]``, and what half precision has rounded."""
    device, parameters = check.check_model(found.model, None)
    given = kept(target)
    targets = checked_target(given, found.model, parameters, batched=batched, device=device, move=False)
    return device, targets, found.cautions or low_precision(given)


def _warned(cautions: tuple[Caution, ...]) -> tuple[Caution, ...]:
    """The same ones, of which the caller of `recover_text` has been warned."""
    for caution in cautions:
        warnings.warn(caution.message, CautionWarning, stacklevel=3)
    return cautions


def _checked_loss(tokens: object, start: object, exact: object, loss_fn: object, progress: object) -> Loss:
    """Find the loss, once the other options fit."""
    if tokens is not None:
        check.check_choice("tokens", tokens, ("bag",), other="None")
    check.check_choice("start", start, STARTS)
    check.check_choice("exact", exact, EXACT)
    if progress is not None:
        check.check_callable("progress", progress)
    return find_loss(loss_fn)


def _lengths(
    length: int | Sequence[int] | None, tables: Tables, targets: Sequence[Tensor | None]
) -> list[int]:
    """T of every victim."""
    victims = next(entry.shape[0] for entry in targets if entry is not None)
    longest = None if tables.position is None else tables.position.num_embeddings - tables.first_position
    if length is None:
        gradient = None if tables.position_entry is None else targets[tables.position_entry]
        if gradient is None:
            raise ValueError("length: there is no position embedding's gradient to tell it; give length=")
        return [infer_length(row, tables.first_position) for row in gradient]
    if isinstance(length, Integral):
        given = [check.check_count("length", length)] * victims
    else:
        given = list(check.check_integers("length", length, least=1))
    if len(given) != victims:
        raise ValueError(f"length: expected one for each of {victims} victims, found {len(given)}")
    for one in given:
        if longest is not None and one > longest:
            raise ValueError(f"length: the model takes at most {longest} tokens, found {one}")
    return given


def _problem(
    model: nn.Module,
    loss: Loss,
    recipe: TextRecipe,
    layers: str | Sequence[int],
    targets: Sequence[Tensor | None],
    tables: Tables,
) -> Problem:
    """The matching's problem, in word embeddings and without the embeddings' gradients."""
    matched = [None if i in tables.entries else entry for i, entry in enumerate(targets)]
    if all(entry is None for entry in matched):
        raise ValueError("target: expected more than the embeddings' gradients, found no other one to match")
    numbers = None if find_kind(recipe.distance, "distance").merged else model_layers(model, layers)
    distance = GradientDistance(recipe.distance, bandwidth=recipe.bandwidth, layers=numbers)
    return Problem(VictimModel(TextNetwork(model)), loss.function, distance, matched)


@torch.no_grad()
def _trial(problem: Problem, tables: Tables, length: int) -> tuple[Tensor, Tensor]:
    """One sentence's word embeddings ``[1, T, K]``, of the first tokens, and the output on them."""
    words = tables.word.weight.detach()
    inputs = words[torch.arange(length, device=words.device) % len(words)][None]
    network = problem.network
    with forked(words.device):
        return inputs, network.output(network.parameters, network.fresh_buffers(), inputs)


def _labels(
    labels: str | Tensor | Sequence[int],
    problem: Problem,
    loss: Loss,
    trial: tuple[Tensor, Tensor],
    batched: bool,
) -> KnownLabels:
    """``[V, 1, ...]``, inferred or given."""
    like = next(iter(problem.parameters.values()))
    inputs, output = trial
    loss.check_output(output)
    if isinstance(labels, str):
        if labels != "infer":
            raise ValueError(f"labels must be 'infer' or a tensor, found {labels!r}")
        return loss.infer(Evidence(problem.network, problem.targets, output=output, noise=inputs))
    classes = output.shape[-1]
    given = check.check_labels(
        labels,
        victims=problem.victims,
        batch_size=1,
        batched=batched,
        classes=classes if isinstance(loss, CrossEntropy) else None,
        device=like.device,
    )
    return KnownLabels.alike(loss.fitted(given, output), "given")


def _word_gradient(tables: Tables, targets: Sequence[Tensor | None]) -> Tensor:
    """``[V, vocabulary, H]``, whose rows tell the bags."""
    gradient = None if tables.word_entry is None else targets[tables.word_entry]
    if gradient is None:
        raise ValueError("tokens='bag': needs the word embedding's gradient, which is not given; give None")
    return gradient


def _groups(attack: TextAttack, lengths: Sequence[int]) -> list[Group]:
    """The victims of each length, shortest first."""
    rows = attack.word_gradient
    bags = None if rows is None else {v: read_bag(rows[v], length) for v, length in enumerate(lengths)}
    groups = []
    for length in sorted(set(lengths)):
        victims = [victim for victim, own in enumerate(lengths) if own == length]
        groups.append(Group(attack, victims, length, bags))
    return groups


def _begin(
    exact: str, start: str, model: nn.Module, targets: Sequence[Tensor | None], groups: Sequence[Group]
) -> None:
    """Read off what follows from the gradients, and have the others begin where `start` says."""
    if exact == "auto":
        read_off(model, targets, groups)
    begin_at(start, model, targets, groups)


def _searched(
    groups: Sequence[Group],
    restarts: int,
    progress: Callable[[int, Tensor], object] | None,
    begin: Callable[[Sequence[Group]], None],
) -> TextRecovery:
    """What the groups have found once they began and all searches have ended, or when Ctrl-C comes."""
    try:
        begin(groups)
        for restart in range(restarts):
            for group in groups:
                group.search(restart)
                group.certify()
            if progress is not None:
                progress(restart + 1, torch.tensor(_by_victim(groups, lambda group: group.distance)))
    except KeyboardInterrupt:
        raise Interrupted(_recovery(groups)) from None
    return _recovery(groups)


def _by_victim(groups: Sequence[Group], values: Callable[[Group], Iterable]) -> list:
    """What the groups have for their victims, victim by victim."""
    by_victim = {v: value for group in groups for v, value in zip(group.victims, values(group), strict=True)}
    return [by_victim[victim] for victim in sorted(by_victim)]


def _recovery(groups: Sequence[Group]) -> TextRecovery:
    def sentences(values: Callable[[Group], Iterable[Tensor]]) -> Tensor:
        return pad_sequence(_by_victim(groups, values), batch_first=True, padding_value=-1)

    attack, bags = groups[0].attack, groups[0].bags
    distance = _by_victim(groups, lambda group: group.distance)
    return TextRecovery(
        tokens=sentences(lambda group: group.best),
        lengths=tuple(_by_victim(groups, lambda group: [group.length] * len(group.victims))),
        labels=attack.labels[:, 0],
        label_source=attack.known.source,
        label_reason=attack.known.reason,
        source=tuple(_by_victim(groups, lambda group: group.source)),
        source_reason=tuple(_by_victim(groups, lambda group: group.source_reason)),
        distance=torch.tensor(distance, dtype=torch.float64),
        certificates=tuple(_by_victim(groups, lambda group: group.certificates)),
        bags=None if bags is None else tuple(bags[victim] for victim in sorted(bags)),
        continuous=sentences(lambda group: group.continuous),
        continuous_distance=torch.tensor(
            _by_victim(groups, lambda group: group.continuous_distance), dtype=torch.float64
        ),
        evaluations=torch.tensor(_by_victim(groups, lambda group: group.evaluations)),
        scored=torch.tensor(_by_victim(groups, lambda group: group.scored)),
        mode=groups[0].mode,
        mode_reason=groups[0].mode_reason,
        recipe=attack.recipe,
        warnings=attack.cautions,
    )
