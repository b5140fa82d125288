"""Each tool's call pattern, against its formula written out in float64."""

from types import SimpleNamespace

import pytest
import torch
from tool_formulas import SHAPES, assert_like_formula, gradient_pair
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.integrations import aijack, dlg, gradattack, lamp, leakpro, plato
from sapag_fast.integrations.inverting_gradients import reconstruction_costs

COUNT = len(SHAPES)


def _square(dummy, target):
    return sum((a - g).square().sum() for a, g in zip(dummy, target, strict=True))


def _cosine(dummy, target):
    flat = [torch.cat([t.flatten() for t in gradients]) for gradients in (dummy, target)]
    return 1 - F.cosine_similarity(*flat, dim=0)


def _weights(scheme):
    if scheme == "linear":
        return torch.arange(COUNT, 0, -1).double() / COUNT
    if scheme == "exp":
        falling = torch.arange(COUNT, 0, -1).double().softmax(0)
        return falling / falling[0]
    return torch.ones(COUNT).double()


def _inverting(cost_fn, scheme, chosen):
    """The cost of Inverting Gradients over the chosen positions."""

    def formula(dummy, target):
        w = _weights(scheme)
        if cost_fn == "sim":
            inner = sum(w[i] * (dummy[i] * target[i]).sum() for i in chosen)
            mine = sum(w[i] * dummy[i].square().sum() for i in chosen).sqrt()
            theirs = sum(w[i] * target[i].square().sum() for i in chosen).sqrt()
            return 1 - inner / mine / theirs
        each = {
            "l2": lambda i: (dummy[i] - target[i]).square().sum() * w[i],
            "l1": lambda i: (dummy[i] - target[i]).abs().sum() * w[i],
            "max": lambda i: (dummy[i] - target[i]).abs().max() * w[i],
            "simlocal": lambda i: (
                1 - F.cosine_similarity(dummy[i].flatten(), target[i].flatten(), 0, 1e-10) * w[i]
            ),
        }[cost_fn]
        return sum(each(i) for i in chosen)

    return formula


@pytest.mark.parametrize("scheme", ["equal", "linear", "exp"])
@pytest.mark.parametrize("cost_fn", ["l2", "l1", "max", "sim", "simlocal"])
def test_inverting_gradients_costs(cost_fn, scheme):
    dummy, target = gradient_pair()
    value = reconstruction_costs([dummy], target, cost_fn=cost_fn, indices="def", weights=scheme)
    assert_like_formula(value, _inverting(cost_fn, scheme, range(COUNT)), dummy, target)
    value += 1.0  # total variation is added in place
    with torch.no_grad():
        scored = reconstruction_costs([dummy], target, cost_fn=cost_fn, weights=scheme)
    assert scored.item() == pytest.approx(value.item() - 1, rel=1e-5)


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [([4, 1], [4, 1]), ("first4", range(4)), ("last5", range(1, COUNT)), ("first50", range(COUNT))],
)
def test_inverting_gradients_positions(indices, chosen):
    dummy, target = gradient_pair()
    value = reconstruction_costs([dummy], target, "sim", indices, "linear")
    assert_like_formula(value, _inverting("sim", "linear", chosen), dummy, target)


@pytest.mark.parametrize(("indices", "of_target"), [("topk-1", True), ("topk-2", False)])
def test_inverting_gradients_largest(indices, of_target):
    dummy, target = gradient_pair(3.0)
    ranked = target if of_target else dummy
    chosen = torch.stack([g.detach().norm() for g in ranked]).topk(4).indices.tolist()
    value = reconstruction_costs([dummy], target, "l2", indices)
    assert_like_formula(value, _inverting("l2", "equal", chosen), dummy, target)


def test_inverting_gradients_takes_several_dummies_and_our_kinds():
    (dummy, target), (other, _) = gradient_pair(), gradient_pair(seed=1)
    value = reconstruction_costs([dummy, other], target, "sapag")
    mean = (sf.distance(dummy, target) + sf.distance(other, target)) / 2
    assert value.item() == pytest.approx(mean.item(), rel=1e-6)
    value = reconstruction_costs([dummy], target, "sim", "batch")
    assert 0 < value.item() < 2


def test_inverting_gradients_names_what_does_not_fit():
    dummy, target = gradient_pair()
    with pytest.raises(ValueError, match=r"cost_fn must be one of l2.*found 'l3'"):
        reconstruction_costs([dummy], target, "l3")
    with pytest.raises(ValueError, match="indices: expected"):
        reconstruction_costs([dummy], target, "l2", "middle")
    with pytest.raises(ValueError, match="weights: 'sapag'"):
        reconstruction_costs([dummy], target, "sapag", weights="exp")
    with pytest.raises(ValueError, match="gradients: expected at least one"):
        reconstruction_costs([], target)


@pytest.mark.parametrize("scheme", ["equal", "linear"])
@pytest.mark.parametrize("cost_fn", ["l2", "l1", "max", "sim", "simlocal"])
def test_plato_costs(cost_fn, scheme):
    class Server:
        _reconstruction_costs = staticmethod(plato.reconstruction_costs(cost_fn, scheme))

    dummy, target = gradient_pair()
    value = Server()._reconstruction_costs([dummy], target)
    assert_like_formula(value, _inverting(cost_fn, scheme, range(COUNT)), dummy, target)


def test_dlg_inner_sum():
    dummy, target = gradient_pair()
    value = dlg.gradient_difference(dummy, target)
    assert_like_formula(value, _square, dummy, target)
    ours = dlg.gradient_difference(iter(dummy), iter(target), "sapag", bandwidth=2.0)
    assert torch.equal(ours, sf.distance(dummy, target, bandwidth=2.0))


@pytest.mark.parametrize(("kind", "formula"), [("cosine", _cosine), ("l2", _square)])
def test_gradattack_metric(kind, formula):
    dummy, target = gradient_pair()
    assert_like_formula(gradattack.GradientMetric(kind)(tuple(dummy), target), formula, dummy, target)

    def first_five(a, g):
        return formula(a[:5], g[:5])

    assert_like_formula(gradattack.GradientMetric(kind, "first5")(dummy, target), first_five, dummy, target)


@pytest.mark.parametrize(("kind", "formula"), [("cosine", _cosine), ("l2", _square)])
def test_aijack_distancefunc(kind, formula):
    dummy, target = gradient_pair()
    dummy[1] = None
    target[3] = None

    def compared(a, g):
        return formula([a[i] for i in (0, 4, 5)], [g[i] for i in (0, 4, 5)])

    value = aijack.DistanceFunction(kind)(dummy, target, [2])
    assert_like_formula(value, compared, dummy, target)
    with pytest.raises(ValueError, match="at least one pair"):
        aijack.DistanceFunction(kind)(dummy, target, range(COUNT))


@pytest.mark.parametrize("loss", ["cos", "dlg", "tag"])
def test_lamp_grad_dist(loss):
    dummy, target = gradient_pair()
    dummy[2] = None
    kept = [0, 1, 3, 4, 5]

    def formula(a, g):
        if loss == "cos":
            cosines = [F.cosine_similarity(a[i].flatten(), g[i].flatten(), dim=0) for i in kept]
            return 1 - torch.stack(cosines).mean()
        value = sum((a[i] - g[i]).square().sum() for i in kept)
        return value if loss == "dlg" else value + 0.3 * sum((a[i] - g[i]).abs().sum() for i in kept)

    value = lamp.grad_dist(target, dummy, SimpleNamespace(loss=loss, tag_factor=0.3))
    assert_like_formula(value, formula, dummy, target)


def test_lamp_zero_gradients_and_unknown_losses():
    """LAMP divides by zero where a gradient is zero; such a pair is as far apart as can be told: 1."""
    dummy, target = gradient_pair()
    target[1] = torch.zeros_like(target[1])
    value = lamp.grad_dist(target, dummy, SimpleNamespace(loss="cos"))
    others = [
        F.cosine_similarity(a.flatten(), g.flatten(), dim=0) for a, g in zip(dummy, target, strict=True)
    ]
    assert value.item() == pytest.approx((1 - torch.stack(others).sum() / COUNT).item(), rel=1e-5)
    slopes = torch.autograd.grad(value, dummy)
    assert all(slope.isfinite().all() for slope in slopes)
    assert not slopes[1].any()
    ours = lamp.grad_dist(target, dummy, SimpleNamespace(loss="sapag"))
    assert torch.equal(ours, sf.distance(dummy, target))
    for loss in ("cos", "dlg", "tag"):  # whatever LAMP's command line admits
        ours = lamp.grad_dist(target, dummy, SimpleNamespace(loss=loss), kind="layer-cosine")
        assert torch.equal(ours, sf.distance(dummy, target, "layer-cosine"))
    with pytest.raises(ValueError, match=r"args.loss must be one of cos"):
        lamp.grad_dist(target, dummy, SimpleNamespace(loss="cosine-similarity"))


@pytest.mark.parametrize("top10norms", [False, True])
def test_leakpro_legacy_costs(top10norms):
    """Called with the dummy gradient first, against the names of the parameters; the ten largest norms are
    the client's."""
    dummy, target = gradient_pair(count=14)
    norms = torch.stack([g.norm() for g in target])
    chosen = norms.topk(10).indices.tolist() if top10norms else range(14)

    def pick(formula):
        return lambda a, g: formula([a[i] for i in chosen], [g[i] for i in chosen])

    def norm(a, g):
        return sum((x - y).norm() for x, y in zip(a, g, strict=True))

    value = leakpro.GradientCosts()(dummy, target, top10norms)
    assert value.shape == (1,)
    assert_like_formula(value, pick(_cosine), dummy, target)
    value += 0.1  # total variation is added in place
    mean = leakpro.l2_distance_weights(dummy, target, top10norms)
    assert_like_formula(mean, pick(lambda a, g: norm(a, g) / len(a)), dummy, target)
    if not top10norms:
        assert_like_formula(leakpro.l2_distance(dummy, target), norm, dummy, target)
    same = [g.clone().requires_grad_() for g in target]
    assert not any(s.any() for s in torch.autograd.grad(leakpro.l2_distance(same, target), same))


class _TheirLoss:
    """What `FusedMatching` needs of LeakPro's class."""

    def __init__(self, loss_type):
        self.loss_type = loss_type

    def _compute_matching_loss(self, reconstructed_values, target_gradients):
        return "theirs"


class _Fused(leakpro.FusedMatching, _TheirLoss):
    pass


class _Sapag(_Fused):
    kind = "sapag"


@pytest.mark.parametrize(
    ("loss_type", "formula", "shape"),
    [("l2", _square, ()), ("cosine", _cosine, (1,))],
)
def test_leakpro_matching_loss(loss_type, formula, shape):
    dummy, target = gradient_pair()
    value = _Fused(loss_type)._compute_matching_loss(dummy, target)
    assert value.shape == shape
    assert_like_formula(value, formula, dummy, target)
    assert torch.equal(_Sapag(loss_type)._compute_matching_loss(dummy, target), sf.distance(dummy, target))
    assert _Fused("fisher")._compute_matching_loss(dummy, target) == "theirs"
    assert _Fused(loss_type).name == f"GradientMatchingLoss({loss_type}, fused)"
    assert _Fused("fisher").name == "GradientMatchingLoss(fisher)"
    assert _Sapag(loss_type).name == "GradientMatchingLoss(sapag, fused)"


def test_caches_follow_the_target():
    """One function serves many victims, and a target that was written to."""
    (dummy, target), (_, other) = gradient_pair(), gradient_pair(seed=3)
    first = reconstruction_costs([dummy], target, "sapag").item()
    assert reconstruction_costs([dummy], other, "sapag").item() != first
    assert reconstruction_costs([dummy], target, "sapag").item() == first
    target[0].mul_(2)
    again = reconstruction_costs([dummy], target, "sapag").item()
    assert again == sf.distance(dummy, target).item() != first


def test_differences_of_parameters_work_like_gradients():
    """FedAvg: what is compared is the change of the parameters over local steps."""
    model = torch.nn.Linear(8, 4)
    x, y = torch.rand(3, 8), torch.tensor([0, 1, 3])

    def change(inputs):
        start = dict(model.named_parameters())
        now = start
        for _ in range(3):
            loss = F.cross_entropy(torch.func.functional_call(model, now, (inputs,)), y)
            slopes = torch.autograd.grad(loss, list(now.values()), create_graph=True)
            now = {name: w - 0.1 * g for (name, w), g in zip(now.items(), slopes, strict=True)}
        return [now[name] - start[name] for name in start]

    target = [t.detach() for t in change(x)]
    guess = torch.rand(3, 8).requires_grad_()
    dummy = change(guess)
    value = reconstruction_costs([dummy], target, "sim")
    (slope,) = torch.autograd.grad(value, guess, retain_graph=True)
    (true,) = torch.autograd.grad(_cosine(dummy, target), guess)
    assert torch.allclose(slope, true, rtol=1e-4, atol=1e-6 * true.abs().max().item())
