"""From a victim's gradient to its inputs by arithmetic, or to why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sapag_fast.exact.answer import Answer, DoesNotApplyError
from sapag_fast.exact.factors import Factors, factors_of_batch, factors_of_one
from sapag_fast.exact.first_linear import FirstLinear, find_first_linear
from sapag_fast.exact.labelling import Labelled, labelled
from sapag_fast.exact.likely_labels import likely_labels
from sapag_fast.exact.patch_embedding import PatchEmbedding, find_patch_embedding
from sapag_fast.exact.patches import METHOD, solve_patches
from sapag_fast.exact.reproduce import flows_toward, mean_shows, reproduce
from sapag_fast.runtime.randomness import forked
from sapag_fast.victim.problem import Problem

__all__ = ["FEW_OUTPUTS", "MEANS_ALIKE", "OTHER_LABELS", "STARTS", "Arithmetic"]

FEW_OUTPUTS = "arithmetic gives an input to any gradient of so few outputs: nothing else in it confirms it"
MEANS_ALIKE = (
    "the mean of several inputs of one label has the same gradient here: what flows back to the first layer "
    "hardly depends on the input"
)

OTHER_LABELS = (
    "the gradient is scaled, and that of another label is the same but for a factor: the image is told, the "
    "label is not"
)

STARTS = 1024
"""The most starts of a batch's search for zeros."""
_RIGHT = 1e-2
"""The most that an input's numbers are off, of the largest."""
_WITH_ZEROS = 0.02
"""The least share of zeros in what flows back behind an activation with zero slopes."""
_DIFFERENCE = 1e-4
"""The most by which the gradient at the inputs differs from the target, of its length,"""
_MOST_DIFFERENCE = 1e-2
"""or that much, where so many numbers change when the inputs do by what they are off."""
_BLURRED, _PERTURBED = 4.0, 3
_LIKELY = 10
"""Labels that are tried where any of the classes may be it."""
_SCALED = 1e-3
_SEED = 20240306


class Arithmetic:
    """Solves the victims of a problem one by one; what it finds of one follows from that one alone.

    Random numbers are drawn from generators of its own, and what the network draws is given back.

    Parameters
    ----------
    problem : Problem
        With the targets, without joint labels.
    batch_size : int
    input_shape : sequence of int
    classes : int or None
        Labels may be any of so many classes; None: only those that are known.
    starts : int
        The most starts of a batch's search for zeros.
    """

    def __init__(
        self,
        problem: Problem,
        batch_size: int,
        input_shape: Sequence[int],
        *,
        classes: int | None = None,
        starts: int = STARTS,
    ) -> None:
        self.problem, self.batch_size, self.input_shape = problem, batch_size, tuple(input_shape)
        self.classes, self.starts = classes, starts
        self.like = next(iter(problem.parameters.values()))
        self.first: FirstLinear | None = None
        self.embedding: PatchEmbedding | None = None
        self.reason = ""
        with forked(self.like.device):
            torch.manual_seed(_SEED)
            try:
                self.first = find_first_linear(problem, input_shape)
                self._check_batch(self.first)
            except DoesNotApplyError as refusal:
                self.first, self.reason = None, str(refusal)
                if batch_size == 1:
                    self._look_for_patches()

    def _look_for_patches(self) -> None:
        try:
            self.embedding = find_patch_embedding(self.problem, self.input_shape)
        except DoesNotApplyError as refusal:
            self.reason = f"{self.reason}; {refusal}"

    def solve(self, victim: int, labels: Tensor | None) -> Answer:
        """Solve one victim.

        Parameters
        ----------
        victim : int
        labels : Tensor or None
            ``[B, ...]``, known; None: any of the classes.
        """
        if self.first is None and self.embedding is None:
            return Answer.none(self.reason)
        with forked(self.like.device):
            torch.manual_seed(_SEED)
            try:
                if self.first is not None:
                    return self._solved(self.first, victim, labels)
                assert self.embedding is not None
                return self._patched(self.embedding, victim, labels)
            except DoesNotApplyError as refusal:
                return Answer.none(str(refusal))

    def _check_batch(self, first: FirstLinear) -> None:
        """Refuse batches of which nothing tells one input from the others."""
        if self.batch_size == 1:
            return
        if self.problem.training is not None:
            raise DoesNotApplyError("a batch, and local training of more than one step")
        chance = torch.Generator().manual_seed(_SEED)
        noise = torch.rand(self.batch_size, *self.input_shape, generator=chance, dtype=torch.float64)
        output = self.problem.network.output(
            self.problem.parameters, self.problem.network.fresh_buffers(), noise.to(self.like)
        )
        if self.classes is None or output.dim() != 2:
            return
        flows = flows_toward(self.problem, first.module, noise.to(self.like), output.argmin(-1))
        if float((flows == 0).double().mean()) < _WITH_ZEROS:
            raise DoesNotApplyError(
                "a batch, and an activation behind the first layer without zero slopes (ReLU has them): "
                "nothing tells its inputs apart"
            )

    def _solved(self, first: FirstLinear, victim: int, labels: Tensor | None) -> Answer:
        weight, bias = (self.problem.targets[at] for at in (first.weight, first.bias))
        assert weight is not None
        assert bias is not None
        if self.batch_size == 1:
            answer = self._of(factors_of_one(weight[victim], bias[victim]), first, victim, labels)
            return replace(
                answer, doubt=self._doubt(answer, first) or self._label_doubt(victim, answer, labels)
            )
        why = f"not as many rows with zeros as inputs were found, from {self.starts} starts"
        given = {"starts": self.starts, "seed": _SEED}
        for factors in factors_of_batch(weight[victim], bias[victim], self.batch_size, **given):
            try:
                return self._of(factors, first, victim, labels)
            except DoesNotApplyError as refusal:
                why = str(refusal)
        raise DoesNotApplyError(why)

    def _doubt(self, answer: Answer, first: FirstLinear) -> str:
        """Why the gradient does not confirm the one input."""
        # One output, or two that are opposite: any gradient is a product of an input with something.
        alone = len([target for target in self.problem.targets if target is not None]) == 2
        if alone and first.module.out_features <= 2:
            return FEW_OUTPUTS
        return self._means_alike(answer)

    def _means_alike(self, answer: Answer) -> str:
        """Why the one input might be the mean of several."""
        assert answer.inputs is not None
        assert answer.labels is not None
        shows = mean_shows(self.problem, answer.inputs, answer.labels, _DIFFERENCE)
        return "" if shows else MEANS_ALIKE

    def _patched(self, embedding: PatchEmbedding, victim: int, labels: Tensor | None) -> Answer:
        """One image from its patch embedding."""
        patches = solve_patches(self.problem, victim, embedding, self.input_shape)
        if not bool(patches.errors <= _RIGHT * patches.image.abs().amax()):
            off = float(patches.errors)
            raise DoesNotApplyError(f"the gradients of the positions tell the patches to {off:.1g} only")
        if labels is None and self.classes is None:
            raise DoesNotApplyError("labels are not known")
        tried = labels[None] if labels is not None else likely_labels(self.problem, victim, patches.image)
        why = DoesNotApplyError("")
        for label in tried[:_LIKELY]:
            try:
                answer = self._verified(victim, patches.image, label, patches.errors, METHOD)
            except DoesNotApplyError as refusal:
                why = why if str(why) else refusal
                continue
            doubt = self._means_alike(answer) or self._label_doubt(victim, answer, labels)
            return replace(answer, doubt=doubt)
        raise why

    def _label_doubt(self, victim: int, answer: Answer, given: Tensor | None) -> str:
        """Why the label of the one input may be another: its gradient is the target's up to a factor, too.

        Of two classes the gradients are opposite; which is right is told by a factor of one alone.
        """
        if given is not None or not answer.scaled or self.classes is None:
            return ""
        assert answer.inputs is not None
        taken, image = answer.labels, answer.inputs
        assert taken is not None
        ordered = likely_labels(self.problem, victim, image).view(-1, *taken.shape)
        others = [label for label in ordered[:_LIKELY] if not torch.equal(label, taken)]
        each = (reproduce(self.problem, victim, image, label) for label in others)
        return OTHER_LABELS if any(found.difference <= _MOST_DIFFERENCE for found in each) else ""

    def _of(self, factors: Factors, first: FirstLinear, victim: int, labels: Tensor | None) -> Answer:
        clear = factors.errors <= _RIGHT * factors.fed.abs().amax(1)
        if not bool(clear.all()):
            raise DoesNotApplyError(
                f"{int((~clear).sum())} of {len(clear)} inputs drown in what the first layer's gradient "
                "holds beside them (rounding, noise, or more inputs)"
            )
        merged = len(factors.fed) < self.batch_size
        if merged and not self._tells_apart():
            raise DoesNotApplyError(
                f"the first layer's gradient holds {len(factors.fed)} inputs of {self.batch_size}, and "
                "behind fewer than three outputs different inputs of the same active units merge into "
                "their mean"
            )
        inputs = first.pictures(factors.fed).to(self.like)
        if labels is None and self.classes is None:
            raise DoesNotApplyError("labels are not known")
        possible = torch.arange(self.classes or 0, device=inputs.device) if labels is None else labels
        if self.problem.training is not None:
            known = self._by_trial(victim, inputs, possible)
        else:
            known = labelled(
                factors.flows,
                lambda label: flows_toward(
                    self.problem, first.module, inputs, _alike(possible, label, inputs)
                ),
                len(possible),
                self.batch_size,
                once=labels is not None and len(inputs) == len(labels),
            )
        several = known.counts > 1
        if merged and not mean_shows(
            self.problem, inputs[several], possible[known.choice[several].to(possible.device)], _DIFFERENCE
        ):
            raise DoesNotApplyError(MEANS_ALIKE)
        rows = known.choice.repeat_interleave(known.counts), known.counts
        found = inputs.repeat_interleave(rows[1].to(inputs.device), 0)
        order = rows[0].argsort(stable=True)
        if labels is not None and known.missing == 0:
            order = _order_of(labels, possible[rows[0].to(labels.device)])
        order = order.to(found.device)
        taken = possible[rows[0].to(possible.device)[order]]
        off = factors.errors.repeat_interleave(known.counts).to(found)[order]
        return self._verified(victim, found[order], taken, off, factors.found)

    def _tells_apart(self) -> bool:
        """Whether what flows back of two inputs differs in direction: not through one number."""
        narrowest = min(p.shape[0] for p in self.problem.parameters.values() if p.dim() == 2)
        return self.classes is not None and min(self.classes, narrowest) > 2

    def _by_trial(self, victim: int, inputs: Tensor, possible: Tensor) -> Labelled:
        """The one label whose gradient is nearest the target's."""
        tried = [
            reproduce(self.problem, victim, inputs, _alike(possible, label, inputs)).difference
            for label in range(len(possible))
        ]
        best = min(range(len(tried)), key=tried.__getitem__)
        return Labelled(torch.tensor([best]), torch.ones(1, dtype=torch.long), 0)

    def _verified(self, victim: int, inputs: Tensor, labels: Tensor, off: Tensor, method: str) -> Answer:
        """The answer, if it gives the target gradient."""
        share = len(inputs) / self.batch_size
        found = reproduce(self.problem, victim, inputs, labels, share=share)
        allowed = _DIFFERENCE
        if _DIFFERENCE < found.difference <= _MOST_DIFFERENCE:
            allowed = max(_DIFFERENCE, self._blur(inputs, labels, off))
        if found.difference <= allowed and found.factor < 0:
            raise DoesNotApplyError("the gradient is the opposite of that at what fits the first layer")
        if not (found.difference <= allowed and found.factor > 0):
            raise DoesNotApplyError(
                f"the gradient at what fits the first layer differs by {found.difference:.1g} of the "
                "target's length"
            )
        missing = self.batch_size - len(inputs)
        why = f"{missing} of {self.batch_size} inputs leave no trace in the gradient" if missing else ""
        if abs(found.factor - 1) > _SCALED:
            scaled = f"the gradient is {found.factor:.3g} times that at the inputs (clipped or scaled)"
            why = f"{why}; {scaled}" if why else scaled
        if missing:
            none = inputs.new_full((missing, *inputs.shape[1:]), torch.nan)
            inputs = torch.cat((inputs, none))
            labels = torch.cat((labels, labels.new_full((missing, *labels.shape[1:]), -1)))
        return Answer(inputs, labels, self.batch_size - missing, found, method, why)

    def _blur(self, inputs: Tensor, labels: Tensor, off: Tensor) -> float:
        """By how much the gradient changes, of its length, when inputs change by what they are off."""
        eps = torch.finfo(inputs.dtype).eps
        size = inputs.abs().flatten(1).amax(1)
        by = (off.clamp(min=0) + 2 * eps * size).view(-1, *[1] * (inputs.dim() - 1))
        chance = torch.Generator().manual_seed(_SEED)
        here = [g for g in self.problem.gradients(inputs, labels) if g is not None]
        length = sum(float(g.detach().double().square().sum()) for g in here)
        most = 0.0
        for _ in range(_PERTURBED):
            noise = torch.randn(inputs.shape, generator=chance, dtype=torch.float64).to(inputs)
            there = [g for g in self.problem.gradients(inputs + by * noise, labels) if g is not None]
            pairs = zip(here, there, strict=True)
            moved = sum(float((a - b).detach().double().square().sum()) for a, b in pairs)
            most = max(most, moved / length if length > 0 else float("inf"))
        return _BLURRED * most**0.5


def _alike(possible: Tensor, label: int, inputs: Tensor) -> Tensor:
    """That label for all inputs."""
    return possible[label].expand(len(inputs), *possible.shape[1:])


def _order_of(labels: Tensor, found: Tensor) -> Tensor:
    """The order of inputs whose labels were `found` in which they have the labels given, ``[B, ...]``."""
    left = list(range(len(found)))
    order = []
    for label in labels:
        row = next((row for row in left if torch.equal(found[row], label)), None)
        if row is None:
            raise DoesNotApplyError("the labels given are not those of the inputs that fit the gradient")
        left.remove(row)
        order.append(row)
    return torch.tensor(order)
