"""Targets that clients make by several steps of gradient descent (FedAvg)."""

import copy

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.one_by_one import SequentialMatching, SingleMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.recovery.recover import recover
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.victim.local_training import LocalTraining
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

RATE = 0.05


def _shared(model, images, labels, steps, rate=RATE):
    """What a client shares that trains with torch's own optimiser."""
    client = copy.deepcopy(model)
    optimizer = torch.optim.SGD(client.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(client(images), labels).backward()
        optimizer.step()
    pairs = zip(model.parameters(), client.parameters(), strict=True)
    return [(before - after).detach() / rate for before, after in pairs]


@pytest.mark.parametrize("steps", [2, 3])
def test_digits_come_back_from_local_steps(steps):
    model = small_lenet()
    images, labels = small_digits(2)
    rows = [_shared(model, x[None], y[None], steps) for x, y in zip(images, labels, strict=True)]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    found = recover(
        model, target, SHAPE, batched=True, restarts=2, steps=150, local_steps=steps, local_lr=RATE
    )
    assert found.mode == "vmap"
    assert f"{steps} local steps" in found.mode_reason
    assert torch.equal(found.labels[:, 0], labels)
    psnr = -10 * (found.inputs[:, 0] - images).square().flatten(1).mean(1).log10()
    assert (psnr >= 25).all()
    # The same target, taken for one gradient, does not lead there.
    taken = recover(model, target, SHAPE, batched=True, restarts=2, steps=150)
    assert (taken.distance > 10 * found.distance).all()


def _problem(steps, *, joint=False, dtype=torch.float64, recoveries=3):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 5), nn.Sigmoid()
    ).to(dtype)
    model[4].bias.requires_grad_(False)
    generator = torch.Generator().manual_seed(steps)
    target = [
        torch.randn(recoveries, *p.shape, dtype=dtype, generator=generator)
        for p in model.parameters()
        if p.requires_grad
    ]
    problem = Problem(
        VictimModel(model),
        F.cross_entropy,
        GradientDistance("l2"),
        target,
        joint=joint,
        training=LocalTraining(steps=steps, rate=0.3),
    )
    inputs = torch.rand(recoveries, 2, 1, 8, 8, dtype=dtype, generator=generator)
    logits = torch.randn(recoveries, 2, 5, dtype=dtype, generator=generator)
    return problem, inputs, logits if joint else logits.argmax(-1)


def _by_hand(problem, inputs, labels):
    """Distance and its gradients of one recovery: the client's steps written out with plain autograd."""
    client = copy.deepcopy(problem.model)
    weights = dict(client.named_parameters())
    names = [name for name, weight in weights.items() if weight.requires_grad]
    leaf = inputs.clone().requires_grad_()
    known = labels.clone().requires_grad_() if problem.joint else labels
    now, total = dict(weights), None
    for _ in range(problem.training.steps):
        output = torch.func.functional_call(client, now, (leaf,))
        loss = F.cross_entropy(output, known.softmax(-1) if problem.joint else known)
        slopes = torch.autograd.grad(loss, [now[name] for name in names], create_graph=True)
        now = now | {n: now[n] - problem.training.rate * g for n, g in zip(names, slopes, strict=True)}
        total = slopes if total is None else [a + g for a, g in zip(total, slopes, strict=True)]
    for name, gradient in zip(names, total, strict=True):
        change = (weights[name] - now[name]) / problem.training.rate
        assert torch.allclose(change, gradient, rtol=1e-9, atol=1e-12)
    return total, leaf, known


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("way", [VmapMatching, SequentialMatching])
def test_gradients_through_the_steps_are_autograds(way, steps, joint):
    problem, inputs, labels = _problem(steps, joint=joint)
    value, slope, label_slope = way(problem).value_and_gradient(inputs, labels)
    for r in range(inputs.shape[0]):
        total, leaf, known = _by_hand(problem, inputs[r], labels[r])
        expected = sum((a - t[r]).square().sum() for a, t in zip(total, problem.targets, strict=True))
        true = torch.autograd.grad(expected, (leaf, known) if joint else leaf)
        assert value[r].item() == pytest.approx(expected.item(), rel=1e-9)
        assert torch.allclose(slope[r], true[0], rtol=1e-7, atol=1e-10)
        if joint:
            assert torch.allclose(label_slope[r], true[1], rtol=1e-7, atol=1e-10)


def test_one_recovery_and_the_ways_that_refuse():
    problem, inputs, labels = _problem(2, recoveries=1)
    assert isinstance(choose_matching(problem, inputs, labels).matching, SingleMatching)
    problem, inputs, labels = _problem(2)
    choice = choose_matching(problem, inputs, labels)
    assert choice.mode == "vmap"
    assert "after the first, every recovery has weights of its own" in choice.reason


def test_labels_of_a_batch_are_inferred():
    model = small_lenet("kaiming")
    images, labels = small_digits(4)
    target = _shared(model, images, labels, 3)
    found = recover(model, target, SHAPE, batch_size=4, steps=2, local_steps=3, local_lr=RATE)
    assert torch.equal(found.labels[0].sort().values, labels.sort().values)


def test_a_checkpoint_belongs_to_its_local_steps(tmp_path):
    """The state of a search with another rate is not taken up."""
    model = small_lenet()
    images, labels = small_digits(1)
    target = _shared(model, images, labels, 2)
    path = tmp_path / "state.safetensors"
    told = {"steps": 60, "labels": labels, "local_steps": 2, "checkpoint": path}

    def stop(done, lowest):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        recover(model, target, SHAPE, local_lr=RATE, progress=stop, **told)
    assert stopped.value.recovery.evaluations.item() < 60
    assert path.exists()
    with pytest.raises(ValueError, match="belongs to a run with other arguments"):
        recover(model, target, SHAPE, local_lr=2 * RATE, **told)
    resumed = recover(model, target, SHAPE, local_lr=RATE, **told)
    told["checkpoint"] = None
    assert torch.equal(resumed.inputs, recover(model, target, SHAPE, local_lr=RATE, **told).inputs)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"local_steps": 0}, ValueError, "local_steps must be at least 1, found 0"),
        ({"local_steps": 2.0}, TypeError, "local_steps must be an int, found float"),
        ({"local_steps": 2}, ValueError, "local_lr must be given with local_steps=2"),
        ({"local_steps": 2, "local_lr": 0.0}, ValueError, "local_lr must be positive"),
        ({"local_steps": 2, "local_lr": "fast"}, TypeError, "local_lr must be a number, found str"),
    ],
)
def test_arguments_that_do_not_fit(given, error, message):
    model = small_lenet()
    target = [torch.zeros_like(p) for p in model.parameters()]
    with pytest.raises(error, match=message):
        recover(model, target, SHAPE, **given)
