"""The public face of the search for sentences: `recover_text`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.runtime.randomness import seeded
from sapag_fast.text.analytic import match_positions, span_test
from sapag_fast.text.bag import Bag, infer_length, read_bag
from sapag_fast.text.group import Group
from sapag_fast.text.network import Tables, TextNetwork, differentiable_attention, find_tables
from sapag_fast.text.recipe import TextRecipe, choose_text_recipe
from sapag_fast.text.recovery import TextRecovery, certify
from sapag_fast.victim.labels import find_last_layer, infer_labels
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

__all__ = ["STARTS", "recover_text"]

STARTS = ("random", "positions", "span")
"""Names that recover_text's `start` may have."""


def recover_text(
    model: nn.Module,
    target: Iterable[Tensor | None],
    length: int | Sequence[int] | None = None,
    *,
    embedding: nn.Embedding | None = None,
    tokens: str | None = "bag",
    labels: str | Tensor | Sequence[int] = "infer",
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    restarts: int = 4,
    recipe: str | TextRecipe = "text",
    distance: str | None = None,
    steps: int | None = None,
    candidates: int | None = None,
    start: str = "random",
    layers: str | Sequence[int] = "modules",
    seed: int = 0,
    batched: bool = False,
    at_once: int = 512,
    progress: Callable[[int, Tensor], object] | None = None,
) -> TextRecovery:
    """Search the sentences whose gradients are `target`, one sentence behind each gradient.

    The gradients of word and position embedding are left out of the matching: they give tokens and length
    away row by row. All victims are searched together; one whose distance is certified is done.

    Parameters
    ----------
    model : nn.Module
        The victim network, `sapag_fast.models.Encoder` or any that takes ``inputs_embeds=`` and gives logits
        or an object with ``.logits``; in evaluation mode or without dropout. It is left as it is found.
    target : iterable of Tensor or None
        The gradient, one entry for each parameter with ``requires_grad=True`` in the order of
        ``model.parameters()``; with `batched` every entry has a leading dimension V, one row a victim.
    length : int or sequence of int, optional
        Tokens in the sentence, T, or in each victim's; None: from the position embedding's gradient.
    embedding : nn.Embedding, optional
        The word embedding, where the model does not tell.
    tokens : {"bag"} or None
        ``bag``: from the non-zero rows of the word embedding's gradient. None: any token may be anywhere;
        the search goes over continuous embeddings first.
    labels : str, Tensor or sequence of int
        ``"infer"`` (from the last linear layer's gradient, cross-entropy only) or ``[V]``.
    loss_fn : callable, optional
        ``(logits, labels) -> scalar``; cross-entropy if None.
    restarts : int
        Continuous searches of a victim, each followed by a discrete one, until it is certified.
    recipe : str or TextRecipe
        ``"text"``, ``"text-no-bag"`` or a recipe of one's own; the next three arguments override it.
    distance, steps, candidates
        None: from the recipe. A distance's kind; evaluations of each continuous search; sentences scored by
        each discrete one.
    start : str
        ``random``, or an analytic attack whose sentences are tried first: ``positions`` (needs the gradients
        of both embeddings) or ``span`` (see `match_positions` and `span_test`).
    layers : str or sequence of int
        Which gradients form a layer of the distance, as for `recover`.
    seed : int
        Of all random numbers.
    at_once : int
        Searches, and sentences, at once.
    progress : callable, optional
        Given (restarts done, ``[V]`` lowest distances) after every restart.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    place, parameters = check.check_model(model, None)
    targets = check.check_target(target, parameters, batched=batched, device=place, move=False)
    if tokens not in ("bag", None):
        raise ValueError(f"tokens must be 'bag' or None, found {tokens!r}")
    if start not in STARTS:
        raise ValueError(f"unknown start {start!r}; expected one of {', '.join(STARTS)}")
    for name, count in (("restarts", restarts), ("at_once", at_once)):
        check.check_count(name, count)
    settings = choose_text_recipe(
        recipe, bag=tokens == "bag", distance=distance, steps=steps, candidates=candidates
    )
    told = check.check_callable("progress", progress) if progress is not None else lambda done, lowest: None
    loss = F.cross_entropy if loss_fn is None else check.check_callable("loss_fn", loss_fn)
    paired = model_layers(model, layers)
    with (
        seeded(seed, place),
        differentiable_attention(model),
    ):
        tables = find_tables(model, embedding)
        victims = next(entry.shape[0] for entry in targets if entry is not None)
        lengths = _lengths(length, tables, targets, victims)
        distance_of = GradientDistance(settings.distance, bandwidth=settings.bandwidth, layers=paired)
        matched = [None if i in tables.entries else entry for i, entry in enumerate(targets)]
        if all(entry is None for entry in matched):
            raise ValueError("target: nothing to match but the embeddings' gradients")
        draft = Problem(VictimModel(TextNetwork(model)), loss, distance_of, matched)
        known = _labels(labels, draft, loss_fn is None, batched)
        search = partial(Group, draft, tables, known, settings, seed=seed, at_once=at_once)
        groups = []
        for one in sorted(set(lengths)):
            victims_of = [v for v, length_of in enumerate(lengths) if length_of == one]
            bags = _bags(tables, targets, victims_of, one) if tokens == "bag" else None
            groups.append(search(victims=victims_of, length=one, bags=bags))
        for group in groups:
            if start != "random":
                group.begin_at(_analytic(start, model, tables, targets, group))
        for restart in range(restarts):
            for group in groups:
                group.search(restart)
            told(restart + 1, torch.tensor(_by_victim(groups, lambda group: group.distance)))
    return _recovery(groups, known[:, 0], tuple(lengths), settings)


def _by_victim(groups: Sequence[Group], values: Callable[[Group], Iterable]) -> list:
    """What the groups have for their victims, victim by victim."""
    found = {v: value for group in groups for v, value in zip(group.victims, values(group), strict=True)}
    return [found[victim] for victim in sorted(found)]


def _bags(tables: Tables, targets: list[Tensor | None], victims: list[int], length: int) -> dict[int, Bag]:
    gradient = None if tables.word_entry is None else targets[tables.word_entry]
    if gradient is None:
        raise ValueError("tokens='bag': needs the word embedding's gradient, which is not given; give None")
    return {victim: read_bag(gradient[victim], length) for victim in victims}


def _analytic(
    start: str, model: nn.Module, tables: Tables, targets: list[Tensor | None], group: Group
) -> list[Tensor]:
    """The analytic attack's sentence for each victim of the group."""
    found = []
    for victim in group.victims:
        bag = None if group.bags is None else group.bags[victim]
        own = [None if t is None else t[victim] for t in targets]
        if start == "span":
            found.append(span_test(model, own, tables.word, group.length, bag))
            continue
        rows = [None if entry is None else own[entry] for entry in (tables.word_entry, tables.position_entry)]
        if bag is None or rows[0] is None or rows[1] is None:
            raise ValueError("start='positions': needs tokens='bag' and the gradients of both embeddings")
        found.append(match_positions(*rows, bag, tables.first_position))
    return found


def _labels(labels: object, problem: Problem, default_loss: bool, batched: bool) -> Tensor:
    """``[V, 1]``, inferred or given."""
    like = next(iter(problem.parameters.values()))
    if isinstance(labels, str):
        if labels != "infer":
            raise ValueError(f"labels must be 'infer' or a tensor, found {labels!r}")
        return infer_labels(problem, batch_size=1, noise=like.new_empty(0))
    classes = find_last_layer([None if t is None else t[0] for t in problem.targets]).classes
    return check.check_labels(
        labels,
        victims=problem.victims,
        batch_size=1,
        batched=batched,
        classes=classes if default_loss else None,
        device=like.device,
    )


def _recovery(
    groups: Sequence[Group], labels: Tensor, lengths: tuple[int, ...], settings: TextRecipe
) -> TextRecovery:
    def sentences(values: Callable[[Group], Iterable[Tensor]]) -> Tensor:
        return pad_sequence(_by_victim(groups, values), batch_first=True, padding_value=-1)

    distance = _by_victim(groups, lambda group: group.distance)
    bags = None
    if groups[0].bags is not None:
        bags = tuple(_by_victim(groups, lambda group: (group.bags[v] for v in group.victims)))
    return TextRecovery(
        tokens=sentences(lambda group: group.best),
        lengths=lengths,
        labels=labels,
        distance=torch.tensor(distance, dtype=torch.float64),
        certificate=tuple(certify(value, settings.distance) for value in distance),
        bags=bags,
        continuous=sentences(lambda group: group.continuous),
        continuous_distance=torch.tensor(
            _by_victim(groups, lambda group: group.continuous_distance), dtype=torch.float64
        ),
        evaluations=torch.tensor(_by_victim(groups, lambda group: group.evaluations)),
        scored=torch.tensor(_by_victim(groups, lambda group: group.scored)),
        mode=groups[0].mode,
        mode_reason=groups[0].mode_reason,
        recipe=settings,
    )


def _lengths(length: object, tables: Tables, targets: list[Tensor | None], victims: int) -> list[int]:
    """T of every victim."""
    longest = None if tables.position is None else tables.position.num_embeddings - tables.first_position
    if length is None:
        gradient = None if tables.position_entry is None else targets[tables.position_entry]
        if gradient is None:
            raise ValueError("length: there is no position embedding's gradient to tell it; give length=")
        return [infer_length(row, tables.first_position) for row in gradient]
    given = [length] * victims if isinstance(length, int) else list(length)
    if len(given) != victims:
        raise ValueError(f"length: expected one for each of {victims} victims, found {len(given)}")
    for one in given:
        check.check_count("length", one)
        if longest is not None and one > longest:
            raise ValueError(f"length: the model takes at most {longest} tokens, found {one}")
    return given
