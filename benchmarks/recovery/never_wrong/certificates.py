"""Certificates: networks that determine the picture or not, and clients whose gradient is no plain one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.never_wrong.case import Case, Outcome, Victims, judged_pictures
from benchmarks.recovery.never_wrong.networks import BLIND, SEEN, STRANGE
from benchmarks.shared.victims import shared_gradients
from sapag_fast.clients.defences import clip_norm, gaussian_noise
from sapag_fast.models import initialise, make_model
from sapag_fast.recovery.recover import recover

__all__ = ["CASES"]

SHAPE = (1, 28, 28)
COUNT = 2
QUICK = 30
"""Evaluations where no certificate is possible."""
Gradient = Callable[[nn.Module, Tensor, Tensor], Sequence[Tensor]]


def _network(build: Callable[[], nn.Module], name: str, **options: int) -> Callable[[Victims], list[Outcome]]:
    def run(victims: Victims) -> list[Outcome]:
        images, labels = victims.digits(name, COUNT)
        model = build()
        target = shared_gradients(model, images[:, None], labels[:, None])
        found = recover(model, target, SHAPE, batched=True, exact="off", **options)
        return judged_pictures(found, images[:, None])

    return run


def _plain(model: nn.Module, x: Tensor, y: Tensor, loss=F.cross_entropy) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model(x), y), list(model.parameters())))


def _client(share: Gradient, name: str, **options: object) -> Callable[[Victims], list[Outcome]]:
    """Each client holds two digits, of which `share` may take the first alone."""

    def run(victims: Victims) -> list[Outcome]:
        images, labels = victims.digits(name, 2 * COUNT)
        model = make_model("lenet", image_size=28, seed=5)
        rows = [share(model, x, y) for x, y in zip(images.split(2), labels.split(2), strict=True)]
        target = [torch.stack(entries) for entries in zip(*rows, strict=True)]
        found = recover(model, target, SHAPE, batched=True, **options)
        return judged_pictures(found, images[::2, None])

    return run


def _of_first(change: Callable[[list[Tensor]], Sequence[Tensor]]) -> Gradient:
    return lambda model, x, y: change(_plain(model, x[:1], y[:1]))


def _scaled(factor: float) -> Gradient:
    return _of_first(lambda gradient: [factor * g for g in gradient])


def _steps(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Three steps of descent, of which the attacker does not know."""
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        for p, g in zip(model.parameters(), _plain(model, x[:1], y[:1]), strict=True):
            p.data -= 0.1 * g
    moved = [(old - p.detach()) / 0.1 for old, p in zip(before, model.parameters(), strict=True)]
    for old, p in zip(before, model.parameters(), strict=True):
        p.data = old
    return moved


def _sparse(gradient: list[Tensor]) -> list[Tensor]:
    """The largest tenth of each entry."""
    return [g * (g.abs() >= g.abs().flatten().quantile(0.9)) for g in gradient]


def _smoothed(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels, label_smoothing=0.1)

    return _plain(model, x[:1], y[:1], loss)


def _noisy(share: float) -> Gradient:
    return _of_first(
        lambda g: gaussian_noise(g, share, generator=torch.Generator().manual_seed(0), relative=True)
    )


def _other_weights(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return _plain(make_model("lenet", image_size=28, seed=6), x[:1], y[:1])


CLIENTS: dict[str, Gradient] = {
    "half the gradient": _scaled(0.5),
    "1.05 times the gradient": _scaled(1.05),
    "ten times the gradient": _scaled(10.0),
    "the gradient's sign turned": _scaled(-1.0),
    "clipped": _of_first(lambda g: clip_norm(g, max_norm=0.5)),
    "noise of a thousandth": _noisy(1e-3),
    "noise of a tenth": _noisy(0.1),
    "the largest tenth of the entries": _of_first(_sparse),
    "rounded to bfloat16": _of_first(lambda g: [e.bfloat16().float() for e in g]),
    "signs alone": _of_first(lambda g: [e.sign() * e.abs().mean() for e in g]),
    "three local steps, not said": _steps,
    "label smoothing, not said": _smoothed,
    "two pictures, searched as one": _plain,
    "other weights than the client's": _other_weights,
}
"""Of a network that determines its picture: what else the shared gradient may be."""


def _wrong_labels(victims: Victims) -> list[Outcome]:
    name = "wrong labels given"
    images, labels = victims.digits(name, COUNT)
    model = make_model("lenet", image_size=28, seed=5)
    target = shared_gradients(model, images[:, None], labels[:, None])
    found = recover(model, target, SHAPE, batched=True, labels=(labels[:, None] + 3) % 10)
    return judged_pictures(found, images[:, None])


def _one_label(model: nn.Module, size: int, name: str) -> Callable[[Victims], list[Outcome]]:
    """Clients that hold pictures of one label, searched as if each held one."""

    def run(victims: Victims) -> list[Outcome]:
        images, labels = victims.digits(name, 60)
        frequent = labels.bincount().topk(COUNT).indices
        batches = [(labels == label).nonzero().flatten()[:size] for label in frequent]
        rows = [_plain(model, images[batch], labels[batch]) for batch in batches]
        target = [torch.stack(entries) for entries in zip(*rows, strict=True)]
        found = recover(model, target, SHAPE, batched=True)
        return judged_pictures(found, torch.stack([images[batch[:1]] for batch in batches]))

    return run


def _scaled_weights(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


ONE_LABEL: dict[str, nn.Module] = {
    **{
        f"LeNet, {weights} weights": initialise(make_model("lenet", image_size=28, seed=5), weights, seed=5)
        for weights in ("default", "xavier", "normal.1", "kaiming")
    },
    "LeNet of five layers": make_model("lenet4", image_size=28, seed=5),
    "LeNet, weights of a third": _scaled_weights(make_model("lenet", image_size=28, seed=5), 0.3),
    "MLP": make_model("mlp", image_size=28, seed=5),
    "MLP, weights of a third": _scaled_weights(make_model("mlp", image_size=28, seed=5), 0.3),
    "logistic regression": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "logistic regression, weights of zero": _scaled_weights(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 0.0
    ),
}


def _one_label_cases() -> list[Case]:
    group = "certificates: several of one label, searched as one"
    return [
        Case(group, f"{name}, {size} pictures", _one_label(model, size, f"{name} {size}"))
        for name, model in ONE_LABEL.items()
        for size in (2, 5)
    ]


def _case(name: str, build: Callable[[], nn.Module], group: str, **options: int) -> Case:
    return Case(f"certificates: {group}", name, _network(build, name, **options))


CASES: list[Case] = [
    *(_case(name, build, "determined") for name, build in SEEN.items()),
    *(_case(name, build, "known operators, a part unseen") for name, build in BLIND.items()),
    *(_case(name, build, "other operators", steps=QUICK) for name, build in STRANGE.items()),
    *(Case("certificates: clients", name, _client(share, name)) for name, share in CLIENTS.items()),
    Case("certificates: clients", "wrong labels given", _wrong_labels),
    *_one_label_cases(),
]
