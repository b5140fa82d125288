"""Parameters before and after become the gradient between them, whatever form they have."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.victim.cautions import CautionWarning

INPUT, LABEL = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 1])
RATE = 0.5


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4))


def _trained(model, steps=1, rate=RATE):
    client = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in client.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(client(INPUT), LABEL).backward()
        optimizer.step()
    return client


def _gradient(model):
    client = copy.deepcopy(model)
    trained = [p for p in client.parameters() if p.requires_grad]
    return torch.autograd.grad(F.cross_entropy(client(INPUT), LABEL), trained)


MODEL = _net()
BEFORE, AFTER = copy.deepcopy(MODEL.state_dict()), _trained(MODEL).state_dict()
EXPECTED = _gradient(MODEL)


def _prefixed(state, prefix="module."):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BEFORE, AFTER),
        (_prefixed(BEFORE), _prefixed(AFTER, "_orig_mod.")),
        ([t.numpy() for t in BEFORE.values()], [t.numpy() for t in AFTER.values()]),
        (list(MODEL.parameters()), [AFTER[name] for name, _ in MODEL.named_parameters()]),
        (BEFORE, {name: np.asarray(tensor) for name, tensor in AFTER.items()}),
    ],
)
def test_one_step_is_the_gradient(before, after):
    target = sf.update_from(MODEL, before, after, lr=RATE)
    for ours, theirs in zip(target, EXPECTED, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_wrapped_models_and_several_steps():
    after = _trained(MODEL, steps=3).state_dict()
    target = sf.update_from(nn.DataParallel(MODEL), BEFORE, after, lr=RATE)
    client, total = copy.deepcopy(MODEL), None
    for _ in range(3):
        gradient = _gradient(client)
        total = gradient if total is None else [a + b for a, b in zip(total, gradient, strict=True)]
        client = _trained(client)
    for ours, theirs in zip(target, total, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_it_is_what_recover_takes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Sigmoid(), nn.Linear(20, 4))
    image, label = INPUT[:1], LABEL[:1]
    gradient = torch.autograd.grad(F.cross_entropy(model(image), label), list(model.parameters()))
    after = [p.detach() - RATE * g for p, g in zip(model.parameters(), gradient, strict=True)]
    target = sf.update_from(model, list(model.parameters()), after, lr=RATE)
    found = sf.recover(model, target, (1, 6, 6), restarts=2, steps=100)
    assert found.labels[0].tolist() == [2]
    assert F.mse_loss(found.inputs[0], image) < 1e-3


def test_frozen_parameters_and_entries_that_are_not_there():
    model = _net()
    model[4].bias.requires_grad_(False)
    after = _trained(model).state_dict()
    target = sf.update_from(model, BEFORE, after, lr=RATE)
    assert len(target) == 5
    without = {name: tensor for name, tensor in after.items() if name != "4.bias"} | {"1.bias": None}
    assert sf.update_from(model, BEFORE, without, lr=RATE)[1] is None
    with pytest.raises(ValueError, match=r"after: 4.bias differs from before, and is frozen.*requires_grad"):
        sf.update_from(model, BEFORE, AFTER, lr=RATE)


def test_what_is_to_be_known_is_said():
    with pytest.warns(CautionWarning, match="other weights than before.*load before into the model"):
        sf.update_from(_trained(MODEL), BEFORE, AFTER, lr=RATE)
    small = {name: BEFORE[name] + (AFTER[name] - BEFORE[name]) * 1e-5 for name in BEFORE}
    with pytest.warns(CautionWarning, match="parameters are rounded, by about .*%"):
        sf.update_from(MODEL, BEFORE, small, lr=1e-5 * RATE)
    with pytest.warns(CautionWarning, match="running statistics of 2 changed.*model.train"):
        sf.update_from(_net().eval(), BEFORE, AFTER, lr=RATE)


def test_half_precision():
    model = _net().bfloat16()
    before = copy.deepcopy(model.state_dict())
    after = {name: tensor - RATE * tensor.sign() for name, tensor in before.items()}
    after["2.num_batches_tracked"] += 1
    target = sf.update_from(model, before, after, lr=RATE)
    assert {entry.dtype for entry in target} == {torch.float32}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"lr": 0}, ValueError, "lr must be positive"),
        ({"before": {}}, ValueError, "before must have an entry.*1.weight.*missing"),
        ({"after": AFTER | {"9.weight": INPUT}}, ValueError, "after.*9.weight unknown to the model"),
        (
            {"after": AFTER | {"1.weight": INPUT}},
            ValueError,
            r"after\['1.weight'\] must have shape \[12, 36\]",
        ),
        ({"after": AFTER | {"1.bias": torch.ones(12).int()}}, TypeError, "after.*floating point"),
        ({"after": list(AFTER.values())[:-1]}, ValueError, "after must hold 6 tensors"),
        ({"after": BEFORE}, ValueError, "after must be other parameters than before, found the same"),
        ({"after": 3}, TypeError, "after must be a state_dict or a list of tensors, found int"),
    ],
)
def test_what_does_not_fit_is_named(changed, error, words):
    call = {"before": BEFORE, "after": AFTER, "lr": RATE, **changed}
    with pytest.raises(error, match=words):
        sf.update_from(MODEL, call["before"], call["after"], lr=call["lr"])
