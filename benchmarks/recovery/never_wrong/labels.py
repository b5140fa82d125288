"""Labels: heads and activations, and gradients whose scale is not the mean's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.never_wrong.case import Case, Outcome, Victims, judged_labels
from benchmarks.shared.victims import shared_gradients
from sapag_fast import data
from sapag_fast.clients.defences import clip_norm, gaussian_noise
from sapag_fast.clients.training import train_to
from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover

__all__ = ["CASES"]

SHAPE = (1, 28, 28)
COUNT = 6
CLASSES = 12
SIZES = (1, 2, 4, 8)
TRAINED_ON = 1200
"""Of the bundled digits; victims come after."""
Change = Callable[[list[Tensor]], Sequence[Tensor]]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "SiLU": nn.SiLU,
    "LayerNorm": lambda: nn.LayerNorm(24),
    "no activation": nn.Identity,
}


def perceptron(head: nn.Module, activation: nn.Module | None = None) -> nn.Module:
    """24 features and a head."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 24), activation or nn.Tanh(), head)


def drawn_labels(size: int, classes: int) -> Tensor:
    """``[COUNT, size]``: all different in half of the batches, where there are classes enough."""
    rows = [torch.randint(classes, (size,)) for _ in range(COUNT - COUNT // 2)]
    distinct = size <= classes
    rows += [torch.randperm(classes)[:size] if distinct else rows[0] for _ in range(COUNT // 2)]
    if size > 1:
        rows[0][1] = rows[0][0]
    return torch.stack(rows)


def _inferred(
    name: str, build: Callable[[], nn.Module], size: int, *, change: Change = list, classes: int = CLASSES
) -> Callable[[Victims], list[Outcome]]:
    """Infer the labels of batches; `change` is what the client does to each gradient."""

    def run(victims: Victims) -> list[Outcome]:
        images, _ = victims.digits(name, COUNT * size)
        model, labels = build(), drawn_labels(size, classes)
        target = shared_gradients(model, images.view(COUNT, size, *SHAPE), labels)
        changed = [change([entry[row] for entry in target]) for row in range(COUNT)]
        stacked = [torch.stack(entries) for entries in zip(*changed, strict=True)]
        found = recover(model, stacked, SHAPE, batched=True, batch_size=size, steps=1, exact="off")
        return judged_labels(found, labels)

    return run


def _head_cases() -> list[Case]:
    cases = []
    for activation, make in ACTIVATIONS.items():
        for bias in (True, False):
            for size in SIZES:
                name = f"{activation}, {'bias' if bias else 'no bias'}, B = {size}"

                def build(make: Callable[[], nn.Module] = make, bias: bool = bias) -> nn.Module:
                    return perceptron(nn.Linear(24, CLASSES, bias=bias), make())

                cases.append(Case("labels: heads", name, _inferred(name, build, size)))
    return cases


class _Summed(nn.Module):
    """Two heads whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(24, CLASSES), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x.square())


class _Then(nn.Module):
    """A head, and a function of its output."""

    def __init__(self, after: Callable[[Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        self.fc, self.after = nn.Linear(24, CLASSES, bias=bias), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.fc(x))


class _Averaged(nn.Module):
    """A head on each of four parts of the features, and the mean of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.unflatten(1, (4, 6))).mean(1)


def _convolved() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, 4), nn.Tanh(), nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def _normed() -> nn.Module:
    return perceptron(nn.utils.parametrizations.weight_norm(nn.Linear(24, CLASSES)))


def _frozen(part: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = perceptron(nn.Linear(24, CLASSES))
        getattr(model[-1], part).requires_grad_(False)
        return model

    return build


HEADS: dict[str, Callable[[], nn.Module]] = {
    "two heads added": lambda: perceptron(_Summed()),
    "classes in another order": lambda: perceptron(_Then(lambda o: o.roll(1, -1))),
    "a temperature": lambda: perceptron(_Then(lambda o: o / 3)),
    "outputs negated": lambda: perceptron(_Then(torch.neg)),
    "outputs negated, no bias": lambda: perceptron(_Then(torch.neg, bias=False)),
    "logits made probabilities": lambda: perceptron(_Then(lambda o: o.softmax(-1))),
    "log-probabilities": lambda: perceptron(_Then(lambda o: o.log_softmax(-1))),
    "mean of a head's outputs": lambda: perceptron(_Averaged()),
    "head of rank 3": lambda: perceptron(nn.Sequential(nn.Linear(24, 3), nn.Linear(3, CLASSES))),
    "convolution as head": _convolved,
    "weight norm": _normed,
    "two features": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 2), nn.Tanh(), nn.Linear(2, CLASSES)),
    "head's bias not trained": _frozen("bias"),
    "head's weight not trained": _frozen("weight"),
    "hardly any weights in the head": lambda: _times(perceptron(nn.Linear(24, CLASSES)), 1e-6),
    "a head of large weights": lambda: _times(perceptron(nn.Linear(24, CLASSES)), 50.0),
}


def _times(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(factor)
    return model


def _other_head_cases() -> list[Case]:
    named = ((f"{head}, B = {size}", build, size) for head, build in HEADS.items() for size in (1, 4))
    cases = [Case("labels: other heads", n, _inferred(n, build, size)) for n, build, size in named]
    for bias in (True, False):
        for size in (1, 3):
            name = f"two classes, {'bias' if bias else 'no bias'}, B = {size}"

            def build(bias: bool = bias) -> nn.Module:
                return perceptron(nn.Linear(24, 2, bias=bias))

            cases.append(Case("labels: other heads", name, _inferred(name, build, size, classes=2)))
    return cases


def _noisy(share: float) -> Change:
    return lambda g: gaussian_noise(g, share, generator=torch.Generator().manual_seed(0), relative=True)


def _sparse(gradient: list[Tensor]) -> list[Tensor]:
    return [g * (g.abs() >= g.abs().flatten().quantile(0.8)) for g in gradient]


CHANGES: dict[str, Change] = {
    "the mean": list,
    "half": lambda g: [e / 2 for e in g],
    "a rate of 0.01": lambda g: [0.01 * e for e in g],
    "a rate of 0.9": lambda g: [0.9 * e for e in g],
    "1.5 times": lambda g: [1.5 * e for e in g],
    "four times, as a sum of 4": lambda g: [4 * e for e in g],
    "clipped to 1": lambda g: clip_norm(g, max_norm=1.0),
    "clipped to 0.01": lambda g: clip_norm(g, max_norm=0.01),
    "sign turned": lambda g: [-e for e in g],
    "noise of a hundredth": _noisy(0.01),
    "noise of a third": _noisy(0.3),
    "the largest fifth": _sparse,
    "rounded to float16": lambda g: [e.half().float() for e in g],
    "signs": lambda g: [e.sign() for e in g],
}
"""What a client may do to its gradient."""


@cache
def _lenet(*, trained: bool) -> nn.Module:
    model = make_model("lenet", image_size=28, seed=4)
    if trained:
        images, labels = (part[:TRAINED_ON] for part in data.digits())
        model = train_to(model, images, labels, epochs=4)[0]
    return model


def _scale_cases() -> list[Case]:
    cases = []
    for what, change in CHANGES.items():
        for size in (1, 4, 8):
            for trained in (False, True):
                name = f"{what}, {'trained' if trained else 'untrained'} LeNet, B = {size}"

                def build(trained: bool = trained) -> nn.Module:
                    return _lenet(trained=trained)

                run = _inferred(name, build, size, change=change, classes=10)
                cases.append(Case("labels: scales", name, run))
    return cases


def _several(steps: int, size: int, told: int) -> Callable[[Victims], list[Outcome]]:
    """Clients of several steps on a batch of their own each; `told` of these are said."""

    def run(victims: Victims) -> list[Outcome]:
        model, outcomes = _lenet(trained=False), []
        name = f"{steps} steps of {size}, told {told}"
        images, _ = victims.digits(name, COUNT * size * steps)
        for own in images.view(COUNT, steps, size, *SHAPE):
            labels = torch.randint(10, (steps, size))
            share = _descended(model, own, labels)
            options = {"local_steps": told, "local_lr": 0.1} if told > 1 else {}
            found = recover(model, share, SHAPE, batch_size=size, steps=1, exact="off", **options)
            outcomes += judged_labels(found, labels[:1])
        return outcomes

    return run


def _descended(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """(parameters before - after) / rate."""
    before = [p.detach().clone() for p in model.parameters()]
    for x, y in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(x), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.data -= 0.1 * g
    shared = [(old - p.detach()) / 0.1 for old, p in zip(before, model.parameters(), strict=True)]
    for old, p in zip(before, model.parameters(), strict=True):
        p.data = old
    return shared


def _step_cases() -> list[Case]:
    shapes = ((2, 1, 1), (3, 1, 1), (2, 2, 1), (2, 4, 1), (2, 1, 2), (2, 2, 2), (3, 4, 3))
    words = {False: "not told", True: "told as on one batch"}
    return [
        Case(
            "labels: several steps",
            f"{steps} steps, another batch of {size} in each, {words[told > 1]}",
            _several(steps, size, told),
        )
        for steps, size, told in shapes
    ]


CASES: list[Case] = [*_head_cases(), *_other_head_cases(), *_scale_cases(), *_step_cases()]
