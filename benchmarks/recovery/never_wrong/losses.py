"""Losses: those with a name, those of one's own, and those that the attacker does not know of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.never_wrong.case import (
    ANNOUNCED,
    RIGHT,
    SILENT,
    Case,
    Outcome,
    Victims,
    judged_labels,
)
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.victim.losses import BinaryCrossEntropy, CrossEntropy

__all__ = ["CASES"]

SHAPE = (1, 28, 28)
COUNT = 4
WEIGHTS = tuple(1.0 + 0.5 * k for k in range(10))
Function = Callable[[Tensor, Tensor], Tensor]
Targets = Callable[[int, int], Tensor]
"""From B and the number of outputs."""


def network(outputs: int, *, bias: bool = True) -> nn.Module:
    """784 pixels, 32 features behind a tanh, and a head."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Tanh(), nn.Linear(32, outputs, bias=bias))


def _classes(size: int, outputs: int) -> Tensor:
    return torch.randint(outputs, (size,))


def _yes_or_no(size: int, outputs: int) -> Tensor:
    return torch.randint(2, (size, outputs)).float()


def _real(size: int, outputs: int) -> Tensor:
    return torch.randn(size, outputs)


def _mixed(size: int, outputs: int) -> Tensor:
    one, other = (F.one_hot(_classes(size, outputs), outputs) for _ in range(2))
    return 0.7 * one + 0.3 * other


def _loss(
    name: str,
    function: Function,
    told: Any,
    targets: Targets,
    *,
    size: int = 1,
    outputs: int = 10,
    labels: str = "infer",
    steps: int = 1,
    bias: bool = True,
) -> Case:
    """A client's loss `function`, and what the attacker is `told` of it."""

    def run(victims: Victims) -> list[Outcome]:
        images, _ = victims.digits(name, COUNT * size)
        outcomes = []
        for own in images.split(size):
            model, truth = network(outputs, bias=bias), targets(size, outputs)
            gradient = torch.autograd.grad(function(model(own), truth), list(model.parameters()))
            given = truth if labels == "given" else labels
            options = {"batch_size": size, "loss_fn": told, "steps": steps, "exact": "off"}
            found = recover(model, gradient, SHAPE, labels=given, **options)
            judged = _judged_joint if labels == "joint" else judged_labels
            outcomes += judged(found, truth[None])
        return outcomes

    return Case("losses", name, run)


def _judged_joint(found: Recovery, labels: Tensor) -> list[Outcome]:
    """Labels that were searched are as good as the match, which has to say so where it is none."""
    outcome = judged_labels(found, labels)[0]
    if outcome.verdict == SILENT and (reason := found.label_reason[0]):
        return [Outcome(ANNOUNCED, f"joint: {reason}")]
    return [outcome]


def _smoothed(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, label_smoothing=0.1)


def _weighted(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, weight=torch.tensor(WEIGHTS))


def _summed(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="sum")


def _focal(output: Tensor, labels: Tensor) -> Tensor:
    each = F.cross_entropy(output, labels, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def _on_one_hot(function: Function) -> Function:
    return lambda output, labels: function(output, F.one_hot(labels, output.shape[1]).float())


def _softmax_in_bce(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(output.softmax(-1), labels)


def _bce_weighted(output: Tensor, labels: Tensor) -> Tensor:
    return BCE(output, labels, pos_weight=torch.full((output.shape[1],), 3.0))


BCE, CE = F.binary_cross_entropy_with_logits, F.cross_entropy

TOLD: list[Case] = [
    *(
        _loss(f"{what}, B = {size}", function, told, _classes, size=size)
        for size in (1, 2, 4, 8)
        for what, function, told in (
            ("cross-entropy", CE, "cross-entropy"),
            ("label smoothing", _smoothed, CrossEntropy(label_smoothing=0.1)),
            ("class weights", _weighted, CrossEntropy(weight=WEIGHTS)),
        )
    ),
    _loss("smoothing, two classes", _smoothed, CrossEntropy(label_smoothing=0.1), _classes, outputs=2),
    _loss("bce, one logit, B = 1", BCE, "bce", _yes_or_no, outputs=1),
    _loss("bce, one logit, B = 4", BCE, "bce", _yes_or_no, outputs=1, size=4),
    _loss("bce, one logit, B = 8", BCE, "bce", _yes_or_no, outputs=1, size=8),
    _loss("bce, ten logits, B = 1", BCE, "bce", _yes_or_no),
    _loss("bce, ten logits, B = 4", BCE, "bce", _yes_or_no, size=4),
    _loss("bce without a bias", BCE, "bce", _yes_or_no, bias=False),
    _loss("bce with pos_weight", _bce_weighted, BinaryCrossEntropy(pos_weight=[3.0] * 10), _yes_or_no),
    _loss("mse, one output", F.mse_loss, "mse", _real, outputs=1),
    _loss("mse, ten outputs", F.mse_loss, "mse", _real),
    _loss("mse, B = 4", F.mse_loss, "mse", _real, size=4),
    _loss("mse without a bias", F.mse_loss, "mse", _real, bias=False),
    _loss("joint cross-entropy", CE, "cross-entropy", _classes, labels="joint", steps=300),
    _loss("joint bce", BCE, "bce", _yes_or_no, labels="joint", steps=300),
    _loss("joint mse", F.mse_loss, "mse", _real, labels="joint", steps=300),
]
"""The attacker knows the loss by its name."""

OWN: list[Case] = [
    _loss(f"{what}, labels {labels}", function, function, targets, labels=labels, steps=steps)
    for what, function, targets in (
        ("a callable for bce", lambda o, y: BCE(o, y), _yes_or_no),
        ("a callable for mse", lambda o, y: F.mse_loss(o, y), _real),
        ("softmax in bce", _softmax_in_bce, lambda b, k: F.one_hot(_classes(b, k), k).float()),
        ("focal loss", _focal, _classes),
        ("multi-margin loss", F.multi_margin_loss, _classes),
    )
    for labels, steps in (("infer", 1), ("joint", 20), ("given", 1))
]
"""The attacker has the loss as a function."""

UNTOLD: list[Case] = [
    _loss(f"{what} taken for cross-entropy, B = {size}", function, None, _classes, size=size)
    for size in (1, 4)
    for what, function in (
        ("label smoothing", _smoothed),
        ("class weights", _weighted),
        ("a sum", _summed),
        ("focal loss", _focal),
        ("bce on one class", _on_one_hot(BCE)),
        ("mse on one class", _on_one_hot(F.mse_loss)),
        ("multi-margin loss", F.multi_margin_loss),
        ("softmax in bce", _on_one_hot(_softmax_in_bce)),
    )
] + [
    _loss("two classes mixed, taken for cross-entropy", CE, None, _mixed),
    _loss("bce with pos_weight, taken for bce", _bce_weighted, "bce", _yes_or_no),
    _loss("half of bce, taken for bce", lambda o, y: BCE(o, y) / 2, "bce", _yes_or_no),
    _loss("bce with the sign turned, taken for bce", lambda o, y: -BCE(o, y), "bce", _yes_or_no),
    _loss("half of mse, taken for mse", lambda o, y: F.mse_loss(o, y) / 2, "mse", _real),
    _loss("bce, targets between 0 and 1", BCE, "bce", lambda b, k: torch.rand(b, k)),
    _loss("L1, taken for mse", F.l1_loss, "mse", _real),
    _loss("other smoothing than said", _smoothed, CrossEntropy(label_smoothing=0.4), _classes),
    _loss("other weights than said", CE, CrossEntropy(weight=WEIGHTS, label_smoothing=0.1), _classes, size=4),
]
"""The attacker is mistaken in the loss."""


class _Positions(nn.Module):
    """Nine logits for each of five positions, ``[B, 9, 5]``; each sees those before it where it is causal."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 9)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).tanh()
        return self.head(x.cumsum(1) if self.causal else x).mT


def _segmenting() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.Sigmoid(), nn.Conv2d(8, 9, 3, 1, 1))


def _hidden(labels: Tensor) -> Tensor:
    """All but every third position is ignored."""
    labels[..., torch.arange(labels.shape[-1]) % 3 > 0] = -100
    return labels


SEQUENCES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[], Tensor]]] = {
    "causal language model": (
        lambda: _Positions(causal=True), (5, 6), lambda: torch.randint(9, (1, 5)),
    ),
    "masked language model": (
        lambda: _Positions(causal=False), (5, 6), lambda: _hidden(torch.randint(9, (1, 5))),
    ),
    "segmentation": (_segmenting, (1, 6, 6), lambda: torch.randint(9, (1, 6, 6))),
}  # fmt: skip


def _sequence(name: str, given: str) -> Case:
    """An output for each position; the distance at the truth is 0, so a small one is a match."""
    build, shape, targets = SEQUENCES[name]

    def run(victims: Victims) -> list[Outcome]:
        outcomes = []
        for _ in range(2):
            model, inputs, labels = build(), torch.rand(1, *shape), targets()
            gradient = torch.autograd.grad(CE(model(inputs), labels), list(model.parameters()))
            told = labels if given == "given" else given
            found = recover(model, gradient, shape, labels=told, steps=200, exact="off")
            matched = float(found.distance[0]) < 1e-4 and torch.equal(found.labels[0], labels)
            reason = found.certificate[0].reason
            said = "matched" if matched else f"unknown: {reason}"
            outcomes.append(Outcome(RIGHT if matched else ANNOUNCED if reason else SILENT, said))
        return outcomes

    return Case("losses: sequences", f"{name}, labels {given}", run)


CASES: list[Case] = [
    *(Case("losses: told", case.name, case.run) for case in TOLD),
    *(Case("losses: one's own", case.name, case.run) for case in OWN),
    *(Case("losses: mistaken", case.name, case.run) for case in UNTOLD),
    *(_sequence(name, given) for name in SEQUENCES for given in ("given", "infer", "joint")),
]
