"""Whether a sentence's distance can only be that of the truth: other sentences' distances tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.matching.one_by_one import SingleMatching
from sapag_fast.search.starts import recovery_generator
from sapag_fast.text.attack import TextAttack
from sapag_fast.text.bag import Bag
from sapag_fast.text.recipe import CERTIFIED
from sapag_fast.text.rivals import other_orders, other_tokens
from sapag_fast.text.scoring import Scorer

__all__ = ["CERTIFIED_STATUS", "UNKNOWN", "UP_TO_ORDER", "TextCertificate", "certify"]

CERTIFIED_STATUS, UP_TO_ORDER, UNKNOWN = "certified", "certified up to order", "unknown"
"""What a certificate may say."""

_APART = 1e4
"""Another sentence is told from the found one where its distance is above the threshold, and so many
times that of the found one, which may itself be a wrong one below the threshold."""
_SHARE_OF_ROW, _SHARE_OF_LARGEST = 1e-2, 1e-3
"""Parts of a row, and of the largest row, by which the word embedding's gradient may miss the target's."""


@dataclass(frozen=True)
class TextCertificate:
    """What a sentence's distance says of its truth.

    Attributes
    ----------
    status : str
        ``certified``: the distance is at most its kind's threshold, and that of every other sentence that
        was compared lies far above it. ``certified up to order``: other orders of the same tokens lie there
        too, and the word embedding's gradient tells the tokens. ``unknown``: neither; the sentence may be
        right all the same.
    reason : str
        Why it is not ``certified``; empty where it is.
    compared : int
        Other sentences whose distance was computed.
    closest : float
        The least of their distances; infinite where there are none.
    """

    status: str = UNKNOWN
    reason: str = "no sentence was found"
    compared: int = 0
    closest: float = float("inf")


def certify(
    attack: TextAttack, scorer: Scorer, victim: int, sentence: Tensor, distance: float, bag: Bag | None
) -> TextCertificate:
    """Compare the sentence with others that the network may take for it.

    Parameters
    ----------
    attack : TextAttack
        What is known of all victims.
    scorer : Scorer
        Gives the distances.
    victim : int
        Whose sentence it is.
    sentence : Tensor
        ``[T]``, int64.
    distance : float
        Its own.
    bag : Bag or None
        The victim's.

    Returns
    -------
    TextCertificate
        ``unknown`` with nothing compared where the distance is above the threshold or has none.
    """
    if attack.known.source[victim] == "unknown":
        return TextCertificate(reason=f"its label is unknown: {attack.known.reason[victim]}")
    threshold = CERTIFIED.get(attack.recipe.distance)
    if threshold is None:
        return TextCertificate(
            reason=f"no threshold was measured for the distance {attack.recipe.distance!r}"
        )
    if distance > threshold:
        return TextCertificate(reason=f"the distance {distance:.2g} is above the threshold {threshold:.0e}")
    generator = recovery_generator(attack.seed, f"{victim} compared", 0)
    word = attack.tables.word
    orders = other_orders(sentence, generator)
    tokens = sentence.new_empty(0, len(sentence))
    if bag is None or bag.repeats:
        known = None if bag is None else bag.tokens
        tokens = other_tokens(sentence, word.weight.detach(), known, word.padding_idx, generator)
    others = torch.cat((orders, tokens)).unique(dim=0)
    values = scorer.compare(others, victim).double()
    reordered = (others.sort(1).values == sentence.sort().values).all(1)
    apart = max(threshold, _APART * distance)
    near = values <= apart
    reason = ""
    status = CERTIFIED_STATUS
    if (near & ~reordered).any():
        status, reason = UNKNOWN, "other tokens leave as small a distance"
    elif bag is not None and not _rows_agree(attack, victim, sentence, bag):
        status, reason = UNKNOWN, "the word embedding's gradient is not that of the sentence"
    elif attack.lengths_told and _bears_another(attack, victim, sentence, generator, apart):
        status, reason = UNKNOWN, "a longer sentence leaves as small a distance; give length="
    elif near.any():
        status = UNKNOWN if bag is None else UP_TO_ORDER
        reason = "other orders of the tokens leave as small a distance"
    closest = float(values.min()) if len(values) else float("inf")
    return TextCertificate(status, reason, len(values), closest)


def _rows_agree(attack: TextAttack, victim: int, sentence: Tensor, bag: Bag) -> bool:
    """Whether the sentence gives the target's gradient of the word embedding, whose rows count tokens."""
    assert attack.word_gradient is not None  # where the bag comes from
    target, word = attack.word_gradient[victim][bag.tokens].double(), attack.tables.word
    problem = attack.problem
    inputs = word.weight.detach()[sentence][None].requires_grad_()
    with torch.enable_grad():
        loss = problem.loss(
            problem.parameters, problem.network.fresh_buffers(), inputs, attack.labels[victim]
        )
    slopes = torch.autograd.grad(loss, inputs)[0][0].double()
    standing = (bag.tokens[:, None] == sentence).double()
    if word.scale_grad_by_freq:
        standing = standing / standing.sum(1, keepdim=True).clamp(min=1)
    size = target.norm(dim=1)
    allowed = _SHARE_OF_ROW * size + _SHARE_OF_LARGEST * size.max()
    return bool(((standing @ slopes - target).norm(dim=1) <= allowed).all())


def _bears_another(
    attack: TextAttack, victim: int, sentence: Tensor, generator: torch.Generator, apart: float
) -> bool:
    """Whether the gradient stays where it is when any token more follows."""
    table, positions = attack.tables.word.weight.detach(), attack.tables.position
    rows = len(sentence) + 1 + attack.tables.first_position
    if positions is not None and rows > positions.num_embeddings:
        return False
    token = torch.randint(len(table), (1,), generator=generator).to(sentence.device)
    inputs = table[torch.cat((sentence, token))][None, None]
    matching = SingleMatching(attack.problem, victim)
    return float(matching.value_and_gradient(inputs, attack.labels[victim][None])[0]) <= apart
