"""Distances behind tools' bare functions: they know a target again, and keep no victim's gradient alive."""

import gc
import pickle
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from tool_formulas import gradient_pair

import sapag_fast as sf
from sapag_fast.integrations import dlg, lamp, leakpro, plato
from sapag_fast.integrations.inverting_gradients import reconstruction_costs
from sapag_fast.integrations.kept import kept


class _Loss(leakpro.FusedMatching):
    kind = "layer-cosine"


CALLS = {
    "dlg": dlg.gradient_difference,
    "dlg, sapag": lambda d, t: dlg.gradient_difference(d, t, "sapag"),
    "lamp, cos": lambda d, t: lamp.grad_dist(t, d, SimpleNamespace(loss="cos")),
    "lamp, sapag": lambda d, t: lamp.grad_dist(t, d, SimpleNamespace(loss="sapag")),
    "leakpro": leakpro.l2_distance,
    "leakpro, modular": lambda d, t: _Loss()._compute_matching_loss(d, t),
    "inverting": lambda d, t: reconstruction_costs([d], t, "sim"),
    "inverting, first4": lambda d, t: reconstruction_costs([d], t, "sapag", "first4"),
    "plato": lambda d, t: plato.reconstruction_costs("simlocal", "linear")([d], t),
}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_victim_s_gradient_goes_with_its_owner(call, backward):
    dummy, target = gradient_pair()
    for _ in range(4):
        value = call(dummy, target)
        if backward:
            value.backward()
    memory = [weakref.ref(g.untyped_storage()) for g in target]
    tensors = [weakref.ref(g) for g in target]
    del target, value
    gc.collect()
    assert not any(reference() is not None for reference in tensors)
    assert not any(reference() is not None for reference in memory)
    dummy, target = gradient_pair(seed=5)
    assert call(dummy, target).item() == call(dummy, [g.clone() for g in target]).item()


def test_a_target_is_known_again(monkeypatch):
    dummy, target = gradient_pair()
    distance = kept("sapag", bandwidth=1.25)
    values = [distance(dummy, target) for _ in range(3)]
    seen = []
    monkeypatch.setattr(type(distance), "_meet", lambda self, *_: seen.append(1))
    values += [distance(dummy, target) for _ in range(3)]
    assert not seen
    assert len({value.item() for value in values}) == 1
    assert distance._known is None
    assert distance._lent.sums is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[0].mul_(2),
        lambda t: t[4].data.view(-1)[:].mul_(3),
        lambda t: setattr(t[2], "data", t[2].data * 2),
        lambda t: t.__setitem__(1, t[1] * 3),
        lambda t: t[3].numpy().__imul__(2),
    ],
)
def test_changes_of_a_target_are_seen(change):
    dummy, target = gradient_pair()
    for _ in range(3):
        dlg.gradient_difference(dummy, target, "sapag")
    change(target)
    assert torch.equal(dlg.gradient_difference(dummy, target, "sapag"), sf.distance(dummy, target))


def test_targets_with_none_and_with_a_graph():
    dummy, target = gradient_pair()
    dummy[2] = target[2] = None
    target[0].requires_grad_()
    for _ in range(4):
        value = dlg.gradient_difference(dummy, target, "sapag")
        assert torch.equal(value, sf.distance(dummy, target))
        value.backward()
    assert target[0].grad is None


def test_threads_share_a_kept_distance():
    pairs = [gradient_pair(seed=seed) for seed in range(4)]
    expected = [sf.distance(*pair).item() for pair in pairs]
    wrong = []

    def loop(number):
        for _ in range(50):
            value = dlg.gradient_difference(*pairs[number], "sapag")
            value.backward(retain_graph=True)
            wrong.extend([number] * (value.item() != expected[number]))

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pickles_have_no_target():
    dummy, target = gradient_pair()
    distance = kept("cosine")
    for _ in range(3):
        distance(dummy, target)
    again = pickle.loads(pickle.dumps(distance))
    assert again._lent is None
    assert torch.equal(again(dummy, target), distance(dummy, target))


def test_transforms_go_through():
    dummy, target = gradient_pair()
    plain = [g.detach() for g in dummy]
    slopes = torch.func.grad(lambda d: dlg.gradient_difference(d, target, "sapag"))(plain)
    value = dlg.gradient_difference(dummy, target, "sapag")
    for mine, theirs in zip(slopes, torch.autograd.grad(value, dummy), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-8)
