"""The model file that the tests hand to the command line; each function is one case."""

from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2, stride=2),
        nn.Sigmoid(),
        nn.Conv2d(6, 6, 5, padding=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(6 * 16, 10),
    )


def partly_frozen():
    net = make()
    net[0].bias.requires_grad_(False)
    return net


def fails():
    raise RuntimeError("no idea")


def stops():
    raise SystemExit(0)


def number():
    return 3


def empty():
    return nn.Flatten()


def features():
    return nn.Conv2d(1, 2, 3)


def evaluated():
    return make().eval()
