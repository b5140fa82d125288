"""The model file that the tests hand to the command line; each function is one case."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sapag_fast.models import make_model


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


def encoder():
    return make_model("encoder", vocabulary=80, max_length=12, width=32, layers=1, hidden=48)


class DroppingEncoder(nn.Module):
    """An encoder whose words pass BatchNorm and dropout, in training mode."""

    def __init__(self):
        super().__init__()
        self.inner = encoder()
        self.norm, self.drop = nn.BatchNorm1d(32, track_running_stats=False), nn.Dropout(0.3)

    def get_input_embeddings(self):
        return self.inner.word

    def forward(self, tokens=None, *, inputs_embeds=None):
        words = self.inner.word(tokens) if inputs_embeds is None else inputs_embeds
        return self.inner(inputs_embeds=self.drop(self.norm(words.mT).mT))


class Mean(nn.Module):
    """Blind to the order of its tokens, whose embedding goes by a name of its own."""

    def __init__(self):
        super().__init__()
        self.table, self.hidden, self.fc = nn.Embedding(80, 16), nn.Linear(16, 12), nn.Linear(12, 2)

    def forward(self, tokens=None, *, inputs_embeds=None):
        words = self.table(tokens) if inputs_embeds is None else inputs_embeds
        return self.fc(self.hidden(words.mean(1)).tanh())


def tagger():
    """Three logits, of which each is one label."""
    net = make()
    net[5] = nn.Linear(6 * 16, 3)
    return net


def judge():
    """One logit."""
    net = make()
    net[5] = nn.Linear(6 * 16, 1)
    return net


def dropping():
    """Dropout and BatchNorm, in training mode."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2, stride=2),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * 16, 10),
    )


def parallel():
    return nn.DataParallel(make())


def halved():
    return make().bfloat16()


def scripted():
    return torch.jit.script(make())


class Reentrant(nn.Module):
    """Computes the activations of its first part anew."""

    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, inputs):
        return self.net[1:](checkpoint(self.net[0], inputs, use_reentrant=True))
