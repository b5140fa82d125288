"""Gradients that are compared while others are not: layers are the network's, in whatever order they come."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from tool_formulas import gradient_pair

import sapag_fast as sf
from sapag_fast.distances.kind import kinds
from sapag_fast.integrations import aijack, gradattack, lamp, leakpro
from sapag_fast.integrations.inverting_gradients import reconstruction_costs


def _expected(kind, dummy, target, chosen):
    """By the layer numbers of the network, a weight and its bias each."""
    chosen = sorted(chosen)
    owners = [i // 2 for i in chosen]
    numbers = [sorted(set(owners)).index(owner) for owner in owners]
    return sf.distance([dummy[i] for i in chosen], [target[i] for i in chosen], kind, layers=numbers)


def _inverting(kind, dummy, target, chosen):
    return reconstruction_costs([dummy], target, kind, list(chosen))


def _gradattack(kind, dummy, target, chosen):
    return gradattack.GradientMetric(kind, list(chosen))(dummy, target)


def _aijack(kind, dummy, target, chosen):
    ignored = [i for i in range(len(target)) if i not in chosen]
    return aijack.DistanceFunction(kind)(dummy, target, ignored)


def _lamp(kind, dummy, target, chosen):
    mine = [g if i in chosen else None for i, g in enumerate(dummy)]
    return lamp.grad_dist(target, mine, SimpleNamespace(loss=kind, tag_factor=0.01))


def test_the_order_of_positions_is_no_matter():
    """Two orders of the same four positions gave .2231 and .3121: biases had joined other layers."""
    dummy, target = gradient_pair()
    for call in (_inverting, _gradattack):
        values = {
            call("sapag", dummy, target, order).item() for order in itertools.permutations([0, 1, 2, 3])
        }
        assert values == {_expected("sapag", dummy, target, range(4)).item()}


@pytest.mark.parametrize("call", [_inverting, _gradattack, _aijack, _lamp])
@pytest.mark.parametrize("kind", ["sapag", "sapag-mean", "layer-cosine"])
@pytest.mark.parametrize(
    "chosen", [(0, 1), (1, 3), (0, 3), (1, 2, 3), (0, 3, 5), (1, 3, 5), (0, 2, 3, 4), (4, 5)]
)
def test_layers_are_the_network_s(call, kind, chosen):
    """Where a weight is left out, its bias joins no other layer."""
    dummy, target = gradient_pair()
    for position in (1, 3, 5):  # vectors of one length, which only the network tells apart
        dummy[position] = dummy[position].detach()[:6].clone().requires_grad_()
        target[position] = target[position][:6]
    dummy[2], target[2] = dummy[2].detach()[:6].requires_grad_(), target[2][:6]
    dummy[4], target[4] = dummy[4].detach()[:6].requires_grad_(), target[4][:6]
    value, expected = call(kind, dummy, target, chosen), _expected(kind, dummy, target, chosen)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    tensors = [dummy[i] for i in chosen]
    for mine, theirs in zip(
        torch.autograd.grad(value, tensors), torch.autograd.grad(expected, tensors), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", kinds())
def test_all_and_the_first_are_what_they_were(kind):
    dummy, target = gradient_pair()
    plain = sf.distance(dummy, target, kind)
    options = {"l1_weight": 0.01} if kind == "tag" else {}
    for value in (
        gradattack.GradientMetric(kind, **options)(dummy, target),
        aijack.DistanceFunction(kind)(dummy, target),
        leakpro.GradientCosts(kind)(dummy, target)[0],
        leakpro.GradientCosts(kind)(dummy, target, True)[0],
    ):
        assert torch.equal(value, plain)
    first = sf.distance(dummy[:4], target[:4], kind)
    assert torch.equal(gradattack.GradientMetric(kind, "first4")(dummy, target), first)


def test_the_largest_are_of_the_network_s_layers():
    dummy, target = gradient_pair(count=14)
    with torch.no_grad():
        for position in (0, 3, 7, 10):  # these are not among the ten
            target[position].mul_(1e-3)
    chosen = [i for i in range(14) if i not in (0, 3, 7, 10)]
    # Of weight 0, weight 8 and bias 7, 10 nothing is compared but their partners, each a layer of its own.
    expected = _expected("sapag", dummy, target, chosen).item()
    assert gradattack.GradientMetric("sapag", "top10")(dummy, target).item() == expected
    assert leakpro.GradientCosts("sapag")(dummy, target, True).item() == expected
    assert reconstruction_costs([dummy], target, "sapag", "top10").item() == expected


def test_given_layers_number_all_gradients():
    dummy, target = gradient_pair()
    metric = gradattack.GradientMetric("sapag", [4, 1, 0], layers=[0, 0, 1, 1, 0, 2])
    expected = sf.distance([dummy[i] for i in (0, 1, 4)], [target[i] for i in (0, 1, 4)], layers=[0, 0, 0])
    assert metric(dummy, target).item() == expected.item()
    with pytest.raises(ValueError, match="layers: expected one layer number for each of 6 tensors, found 3"):
        gradattack.GradientMetric("sapag", [4, 1, 0], layers=[0, 0, 0])(dummy, target)


@pytest.mark.parametrize(
    "indices", ["def", "top10", "topk-1", "topk-2", "first4", "last5", "batch", [0, 2, -1]]
)
def test_pairs_of_none_are_left_out(indices):
    dummy, target = gradient_pair()
    dummy[2] = target[2] = None
    value = reconstruction_costs([dummy], target, "l2", indices)
    assert value.isfinite()
    if indices in ("def", "top10", "batch"):
        expected = sum((a - g).square().sum() for a, g in zip(dummy, target, strict=True) if g is not None)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        for call in (leakpro.GradientCosts("l2"), gradattack.GradientMetric("l2", "top10")):
            assert call(dummy, target).item() == pytest.approx(expected.item(), rel=1e-5)
        assert leakpro.GradientCosts("l2")(dummy, target, True).item() == pytest.approx(
            expected.item(), rel=1e-5
        )
    for cost_fn in ("l1", "max", "sim", "simlocal", "sapag"):
        assert reconstruction_costs([dummy], target, cost_fn, indices).isfinite()


@pytest.mark.parametrize("indices", ["all", "top10", [0, 1]])
def test_none_without_a_partner_is_named(indices):
    dummy, target = gradient_pair()
    dummy[2] = None
    words = r"{}\[2\] is None but {}\[2\] is a tensor: None must come in pairs"
    with pytest.raises(ValueError, match=words.format("trial_gradients", "input_gradients")):
        gradattack.GradientMetric("l2", indices)(dummy, target)
    with pytest.raises(ValueError, match=words.format("input_gradients", "trial_gradients")):
        gradattack.GradientMetric("l2", indices)(target, dummy)
    with pytest.raises(ValueError, match=words.format("dummy_gradient", "client_gradient")):
        leakpro.GradientCosts()(dummy, target, indices == "top10")
    with pytest.raises(ValueError, match=words.format(r"gradients\[0\]", "input_gradient")):
        reconstruction_costs([dummy], target, "sim", indices)


def test_nothing_left_to_compare_is_named():
    dummy, target = gradient_pair()
    none = [None] * 6
    for call in (
        lambda: reconstruction_costs([none], none, "l2", "top10"),
        lambda: reconstruction_costs([dummy], target, "sim", []),
        lambda: reconstruction_costs([dummy], target, "max", []),
        lambda: gradattack.GradientMetric("l2", "top10")(none, none),
        lambda: gradattack.GradientMetric("l2", [])(dummy, target),
        lambda: leakpro.GradientCosts()(none, none, True),
        lambda: leakpro.l2_distance(none, none),
        lambda: leakpro.l2_distance_weights(none, none),
        lambda: aijack.DistanceFunction()(none, none),
        lambda: lamp.grad_dist(none, none, SimpleNamespace(loss="cos")),
    ):
        with pytest.raises(ValueError, match="expected at least one"):
            call()
