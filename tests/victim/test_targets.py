"""Targets by name, as lists of every kind, as arrays: the same bits, or a message that names the entry."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.separation import separate_equal_labels
from sapag_fast.text import recover_text

SHAPE, LABEL = (1, 6, 6), torch.tensor([2])
INPUT = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))


def _net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), nn.BatchNorm1d(20), nn.Sigmoid(), nn.Linear(20, 12), nn.Linear(12, 4)
    )
    net[4].bias.requires_grad_(False)
    return net.eval()


NET = _net()
TRAINED = [name for name, parameter in NET.named_parameters() if parameter.requires_grad]
GRADIENT = torch.autograd.grad(
    F.cross_entropy(NET(INPUT), LABEL), [p for p in NET.parameters() if p.requires_grad]
)
BY_NAME = dict(zip(TRAINED, GRADIENT, strict=True))
BUFFERS = dict(NET.named_buffers())
EVERY = {name: BY_NAME.get(name, torch.zeros_like(p)) for name, p in NET.named_parameters()}
STATE = {name: EVERY.get(name, BUFFERS.get(name)) for name in NET.state_dict()}


def _found(target, **options):
    return recover(NET, target, SHAPE, **{"steps": 20, "restarts": 1, **options})


EXPECTED = _found(GRADIENT)


@pytest.mark.parametrize(
    "target",
    [
        BY_NAME,
        dict(reversed(BY_NAME.items())),
        BY_NAME | {"4.bias": None},
        EVERY,
        STATE,
        {f"module.{name}": entry for name, entry in STATE.items()},
        {f"_orig_mod.module.{name}": entry for name, entry in BY_NAME.items()},
        [BY_NAME.get(name) for name in EVERY],
        list(EVERY.values()),
        list(STATE.values()),
        [entry.numpy() for entry in STATE.values()],
        {name: entry.numpy() for name, entry in STATE.items()},
        [entry.numpy().astype(">f4") for entry in GRADIENT],
        [np.asfortranarray(entry.numpy()) for entry in GRADIENT],
        [entry.to_sparse() for entry in GRADIENT],
        (entry for entry in GRADIENT),
    ],
)
def test_forms_give_the_same_bits(target):
    found = _found(target)
    assert torch.equal(found.inputs, EXPECTED.inputs)
    assert torch.equal(found.distance, EXPECTED.distance)


def test_many_victims():
    rows = {name: torch.stack([entry, 2 * entry]) for name, entry in BY_NAME.items()}
    expected = _found(list(rows.values()), batched=True, labels=LABEL)
    for target in (rows, [entry.numpy() for entry in rows.values()]):
        assert torch.equal(_found(target, batched=True, labels=LABEL).inputs, expected.inputs)
    found = separate_equal_labels(NET, rows, expected, batched=True)
    assert torch.equal(found.inputs, expected.inputs)  # one image each


def test_none_stands_for_what_was_not_shared():
    expected = _found([None, *GRADIENT[1:]])
    assert torch.equal(_found(BY_NAME | {TRAINED[0]: None}).inputs, expected.inputs)


def test_tied_parameters_go_by_either_name():
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Tanh(), nn.Linear(36, 36), nn.Linear(36, 4))
    net[3].weight = net[1].weight
    gradient = torch.autograd.grad(F.cross_entropy(net(INPUT), LABEL), list(net.parameters()))
    named = dict(zip([name for name, _ in net.named_parameters()], gradient, strict=True))
    expected = recover(net, gradient, SHAPE, steps=5, restarts=1)
    both = named | {"3.weight": named["1.weight"]}
    other = {("3.weight" if name == "1.weight" else name): entry for name, entry in named.items()}
    for target in (both, other, [both[name] for name in net.state_dict()]):
        assert torch.equal(recover(net, target, SHAPE, steps=5, restarts=1).inputs, expected.inputs)


def _without(name):
    return {key: entry for key, entry in BY_NAME.items() if key != name}


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (_without("1.weight"), ValueError, "8 trainable|7 trainable parameters.*1.weight missing.*None"),
        (BY_NAME | {"9.weight": GRADIENT[0]}, ValueError, "9.weight unknown to the model"),
        (BY_NAME | {"9.running_mean": GRADIENT[0]}, ValueError, "9.running_mean unknown to the model"),
        (BY_NAME | {"module.1.bias": GRADIENT[1]}, ValueError, "1.bias and module.1.bias both stand for"),
        (
            BY_NAME | {"1.weight": GRADIENT[0].T},
            ValueError,
            r"'1.weight'\] must .*\[20, 36\], found \[36, 20\]",
        ),
        (BY_NAME | {"1.weight": 3}, TypeError, r"target\['1.weight'\] must be a tensor or None, found int"),
        (
            BY_NAME | {"1.weight": GRADIENT[0].long()},
            TypeError,
            "'1.weight'.*floating point, found torch.int64",
        ),
        ({0: GRADIENT[0]}, TypeError, "dictionary of them by parameter name, found a dict with other keys"),
        ({}, ValueError, "1.weight.*missing"),
        (dict.fromkeys(TRAINED), ValueError, "found only None"),
        (
            GRADIENT[:-1],
            ValueError,
            r"hold 7 tensors.*\(or 8, one for .* parameters, or 11, .*state_dict\), found 6; by name",
        ),
        (
            [*list(EVERY.values())[:5], GRADIENT[0], *GRADIENT[5:]],
            ValueError,
            r"entry 5 stands for 4.bias in a list of 8: expected shape \[12\], found \[20, 36\]",
        ),
        ([np.array("a"), *GRADIENT[1:]], TypeError, "entry 0 must hold floating-point numbers, found .*<U1"),
        (np.zeros((7, 2)), TypeError, "target must be a sequence of tensors, found ndarray"),
        (NET.state_dict(), ValueError, "found numbers close to the model's weights.*update_from"),
        ([p.detach().numpy() for p in NET.state_dict().values()], ValueError, "close to the model's weights"),
    ],
)
def test_what_does_not_fit_is_named(target, error, words):
    with pytest.raises(error, match=words):
        _found(target)


def test_sentences_take_the_same_forms():
    net = make_model("encoder", vocabulary=30, max_length=8, width=16, layers=1, hidden=16).eval()
    tokens = torch.tensor([[5, 9, 7]])
    loss = F.cross_entropy(net(tokens), torch.tensor([1]))
    named = dict(
        zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True)
    )
    options = {"steps": 3, "candidates": 40, "restarts": 1}
    expected = recover_text(net, list(named.values()), 3, **options)
    arrays = {f"module.{name}": entry.numpy() for name, entry in named.items()}
    for model, target in ((net, named), (nn.DataParallel(net), arrays)):
        found = recover_text(model, target, 3, **options)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.distance, expected.distance)
    net.word.sparse = True
    found = recover_text(net, named, 3, embedding=net.word, **options)
    assert torch.equal(found.tokens, expected.tokens)
