"""The distance inside torch: autograd once and twice, torch.func, torch.compile, operators."""

import pytest
import torch
from built_in_kinds import NATIVE

import sapag_fast as sf

SMALL = [(4, 3), (4,), (2, 4), (2,)]


def leaves(tensors):
    return [t.clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", NATIVE)
def test_gradcheck_and_gradgradcheck(gradients, kind, backend):
    dummy, target = gradients.pair(0.5, shapes=SMALL, dtype=torch.float64)
    scale = max(t.abs().max().item() for t in target)
    dummy, target = [t / scale for t in dummy], [t / scale for t in target]
    # Layers of one size: finite differences of a tiny layer would see only their own rounding.
    dummy = [a / g.norm() for a, g in zip(dummy, target, strict=True)]
    target = [g / g.norm() for g in target]

    def function(*tensors):
        return sf.distance(tensors, target, kind, backend=backend)

    assert torch.autograd.gradcheck(function, leaves(dummy))
    assert torch.autograd.gradgradcheck(function, leaves(dummy))


def test_gradcheck_batched_with_a_shared_target(gradients):
    dummy, target = gradients.pair(0.5, shapes=[(4, 3), (4,)], recoveries=3, shared=True, dtype=torch.float64)

    def function(*tensors):
        return sf.distance([100 * t for t in tensors], [100 * t for t in target], batched=True)

    assert torch.autograd.gradcheck(function, leaves(dummy))
    assert torch.autograd.gradgradcheck(function, leaves(dummy))


@pytest.mark.parametrize("kind", NATIVE)
def test_backward_hands_over_v(gradients, kind):
    dummy, target = gradients.pair(0.3, recoveries=5)
    value, slopes = sf.distance_and_gradient(dummy, target, kind, batched=True)
    mine = leaves(dummy)
    result = sf.distance(mine, target, kind, batched=True)
    assert torch.equal(result, value)
    grads = torch.autograd.grad(result.sum(), mine)
    assert all(torch.equal(a, b) for a, b in zip(grads, slopes, strict=True))


def test_other_incoming_gradients_scale_v(gradients):
    dummy, target = gradients.pair(0.3, recoveries=5)
    _, slopes = sf.distance_and_gradient(dummy, target, batched=True)
    mine, factor = leaves(dummy), torch.arange(5.0)
    grads = torch.autograd.grad(sf.distance(mine, target, batched=True), mine, factor)
    for grad, slope in zip(grads, slopes, strict=True):
        assert torch.equal(grad, slope * factor.view(-1, *[1] * (slope.dim() - 1)))
    mine = leaves([t[0] for t in dummy])
    grads = torch.autograd.grad(3 * sf.distance(mine, [t[0] for t in target]), mine)
    assert all(torch.allclose(a, 3 * s[0]) for a, s in zip(grads, slopes, strict=True))


def test_retained_graph_after_its_gradient_was_overwritten(gradients):
    dummy, target = gradients.pair(0.3)
    mine = leaves(dummy)
    result = sf.distance(mine, target)
    first = torch.autograd.grad(result, mine, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()
    second = torch.autograd.grad(result, mine)
    assert all(torch.equal(a, b) for a, b in zip(kept, second, strict=True))


def test_result_is_fresh_and_writable(gradients):
    dummy, target = gradients.pair(0.3)
    mine = leaves(dummy)
    result = sf.distance(mine, target)
    result += 1.0
    result.mul_(2.0)
    grads = torch.autograd.grad(result, mine)
    _, slopes = sf.distance_and_gradient(dummy, target)
    assert all(torch.allclose(a, 2 * b) for a, b in zip(grads, slopes, strict=True))
    plain = sf.distance(dummy, target)
    plain += 1
    assert not plain.requires_grad


def test_through_a_model():
    """The use it is made for: the derivative of the distance with respect to the input, twice backward."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 3)).double()
    x, y = torch.randn(2, 6, dtype=torch.float64), torch.tensor([0, 2])

    def gradient(x):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, list(model.parameters()), create_graph=True)

    target = [g.detach() for g in gradient(torch.randn(2, 6, dtype=torch.float64))]
    results = []
    for backend in ("cpu", "reference"):
        point = x.clone().requires_grad_()
        results.append(torch.autograd.grad(sf.distance(gradient(point), target, backend=backend), point)[0])
    assert torch.allclose(*results, rtol=1e-9)


def test_generators_and_tuples(gradients):
    dummy, target = gradients.pair(0.3)
    assert torch.equal(sf.distance((t for t in dummy), tuple(target)), sf.distance(dummy, target))


def test_no_gradient_reaches_the_target(gradients):
    dummy, target = gradients.pair(0.3)
    theirs = leaves(target)
    result = sf.distance(dummy, theirs)
    assert not result.requires_grad


def test_cache_follows_the_target(gradients):
    dummy, target = gradients.pair(0.3)
    distance = sf.GradientDistance()
    first = distance(dummy, target)
    assert torch.equal(distance(dummy, target), first)
    target[0].mul_(2)  # the same tensor with new values
    assert torch.equal(distance(dummy, target), sf.distance(dummy, target))
    other = [t + 1 for t in target]
    assert torch.equal(distance(dummy, other), sf.distance(dummy, other))
    with torch.inference_mode():
        unversioned = [t + 2 for t in target]
    assert torch.equal(distance(dummy, unversioned), sf.distance(dummy, unversioned))


@pytest.mark.parametrize("kind", ["sapag", "cosine", "tag", "sapag-mean"])
def test_vmap_folds_into_recoveries(gradients, kind):
    dummy, target = gradients.pair(0.3, recoveries=4)
    value, slopes = sf.distance_and_gradient(dummy, target, kind, batched=True)
    mapped = torch.func.vmap(lambda d, t: sf.distance(d, t, kind))(dummy, target)
    assert torch.equal(mapped, value)
    grads = torch.func.vmap(torch.func.grad(lambda d, t: sf.distance(d, t, kind)))(dummy, target)
    assert all(torch.equal(a, b) for a, b in zip(grads, slopes, strict=True))
    shared = torch.func.vmap(lambda d: sf.distance(d, [t[0] for t in target], kind))(dummy)
    assert torch.equal(shared, sf.distance(dummy, [t[:1] for t in target], kind, batched=True))


def test_vmap_of_a_batched_distance_and_other_dimensions(gradients):
    dummy, target = gradients.pair(0.3, recoveries=6)
    value = sf.distance(dummy, target, batched=True)
    split = [t.unflatten(0, (2, 3)) for t in dummy]
    targets = [t.unflatten(0, (2, 3)) for t in target]
    mapped = torch.func.vmap(lambda d, t: sf.distance(d, t, batched=True))(split, targets)
    assert torch.equal(mapped.flatten(), value)
    moved = [t.movedim(0, 1) for t in split]
    again = torch.func.vmap(lambda d, t: sf.distance(d, t, batched=True), in_dims=(1, 0))(moved, targets)
    assert torch.equal(again.flatten(), value)
    one = [t[:1] for t in target]
    shared = torch.func.vmap(lambda d: sf.distance(d, one, batched=True))(split)
    assert torch.equal(shared.flatten(), sf.distance(dummy, one, batched=True))
    nested = torch.func.vmap(torch.func.vmap(sf.distance))(split, targets)
    assert torch.equal(nested.flatten(), value)


def test_vmap_over_targets_alone(gradients):
    dummy, target = gradients.pair(0.3, recoveries=3)
    alone = [t[0] for t in dummy]
    mapped = torch.func.vmap(lambda t: sf.distance(alone, t))(target)
    expected = torch.stack([sf.distance(alone, [t[r] for t in target]) for r in range(3)])
    assert torch.equal(mapped, expected)


def test_second_derivatives_through_torch_func(gradients):
    dummy, target = gradients.pair(0.5, shapes=SMALL, dtype=torch.float64)
    direction = [torch.ones_like(t) for t in dummy]

    def slope(d):
        return torch.func.grad(lambda e: sf.distance(e, target))(d)

    def reference_slope(d):
        return torch.func.grad(lambda e: sf.distance(e, target, backend="reference"))(d)

    _, pull = torch.func.vjp(slope, dummy)
    _, expected = torch.func.vjp(reference_slope, dummy)
    for a, b in zip(pull(direction)[0], expected(direction)[0], strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_vmap_over_an_option_is_refused(gradients):
    dummy, target = gradients.pair(0.3, shapes=[(3, 2)], recoveries=2)
    rows = torch.ones(2, 1)
    with pytest.raises(ValueError, match="variance"):
        torch.func.vmap(lambda d, v: sf.distance(d, [t[0] for t in target], variance=v))(dummy, rows)


@pytest.mark.parametrize("kind", ["sapag", "tag"])
@pytest.mark.parametrize("batched", [False, True])
def test_compile(gradients, kind, batched):
    dummy, target = gradients.pair(0.3, shapes=SMALL, recoveries=3 if batched else None)

    def function(*tensors):
        return 2 * sf.distance([t * 1.5 for t in tensors], target, kind, batched=batched)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for f in (function, compiled):
        mine = leaves(dummy)
        value = f(*mine)
        results.append((value, torch.autograd.grad(value.sum(), mine)))
    assert torch.allclose(results[0][0], results[1][0])
    assert all(torch.allclose(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_opcheck(gradients):
    dummy, target = gradients.pair(0.3, shapes=SMALL, recoveries=3)
    layer_of, layers = (0, 0, 1, 1), 2
    found_sums = torch.ops.sapag_fast.target_sums(target, layer_of, layers, True)
    pair = (dummy, target, layer_of, layers, True)
    numbers = (0, 1.0, 0.0, None, None)
    out = [torch.empty_like(t) for t in dummy]
    calls = {
        "target_sums": (target, layer_of, layers, True),
        "difference_sums": pair,
        "apply": (*pair, torch.rand(3, 2, 5, dtype=torch.float64)),
        "distance": (*pair, *numbers, found_sums),
        "distance_and_gradient": (*pair, *numbers, None),
        "distance_and_gradient_out": (*pair, *numbers, found_sums, out),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(torch.ops.sapag_fast, name).default, arguments)


def test_operators_check_their_own_arguments(gradients):
    dummy, target = gradients.pair(0.3, shapes=SMALL)
    with pytest.raises(ValueError, match="found layer 2 of 2"):
        torch.ops.sapag_fast.target_sums(target, (0, 0, 1, 2), 2, False)
    with pytest.raises(ValueError, match="coefficients: expected shape"):
        torch.ops.sapag_fast.apply(dummy, target, (0, 0, 1, 1), 2, False, torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="kind: unknown number 99"):
        torch.ops.sapag_fast.distance(dummy, target, (0, 0, 1, 1), 2, False, 99, 1.0, 0.0, None, None, None)
    with pytest.raises(ValueError, match="target_sums: expected contiguous float64"):
        torch.ops.sapag_fast.distance(
            dummy, target, (0, 0, 1, 1), 2, False, 0, 1.0, 0.0, None, None, torch.zeros(1, 2, 3)
        )


def test_half_precision_result_is_float32(gradients):
    dummy, target = gradients.pair(0.3, dtype=torch.bfloat16)
    mine = leaves(dummy)
    result = sf.distance(mine, target)
    assert result.dtype == torch.float32
    grads = torch.autograd.grad(2 * result, mine)
    assert all(g.dtype == torch.bfloat16 for g in grads)
