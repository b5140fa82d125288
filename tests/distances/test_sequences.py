"""One tensor, or tensors by name, are never taken apart where a sequence of tensors is expected."""

import pytest
import torch
from torch import nn

import sapag_fast as sf
from sapag_fast.clients import defences
from sapag_fast.distances.functional import distance_and_gradient, gradient_variance
from sapag_fast.distances.kind import kinds


def _pair(*shape):
    generator = torch.Generator().manual_seed(0)
    dummy, target = (torch.randn(shape, generator=generator) for _ in range(2))
    return dummy.requires_grad_(), target


def test_two_bare_vectors_are_refused_and_one_each_has_its_value():
    """The rows of a vector are numbers: each alone is degenerate, and their distance was 0."""
    dummy, target = _pair(1000)
    for kind in kinds():
        with pytest.raises(TypeError, match="dummy: expected a sequence of tensors, found one tensor"):
            sf.GradientDistance(kind)(dummy, target)
    cosine = torch.nn.functional.cosine_similarity(dummy, target, dim=0).item()
    assert sf.GradientDistance("layer-cosine")([dummy], [target]).item() == pytest.approx(
        1 - cosine, rel=1e-5
    )
    gap = 2 - 2 * cosine
    exponent = gap * target.square().sum() / (2 * target.var(correction=0) * 1000)
    value = sf.GradientDistance("sapag")([dummy], [target])
    assert value.item() == pytest.approx(1 - torch.exp(-exponent).item(), rel=1e-5)
    (slope,) = torch.autograd.grad(value, dummy)
    assert slope.any()


_CALLS = {
    "call": lambda d, t: sf.GradientDistance()(d, t),
    "call, target known": lambda d, t: _after_two_calls(d, t),
    "distance_and_gradient": lambda d, t: sf.GradientDistance().distance_and_gradient(d, t),
    "batched": lambda d, t: sf.GradientDistance(batched=True)(d, t),
    "distance": sf.distance,
    "functional": distance_and_gradient,
    "gradient_variance": lambda d, t: gradient_variance(t),
    "degenerate": lambda d, t: sf.GradientDistance().degenerate(t),
    "bound_to": lambda d, t: sf.GradientDistance().bound_to(t),
    "clip_norm": lambda d, t: defences.clip_norm(t, 1.0),
    "compose": lambda d, t: defences.compose(defences.sign)(t),
    "quantise": lambda d, t: defences.quantise(t),
}


def _after_two_calls(dummy, target):
    distance, (mine, theirs) = sf.GradientDistance(), ([_pair(4, 5)[0]], [_pair(4, 5)[1]])
    for _ in range(3):
        distance(mine, theirs)
    distance(dummy, target)


@pytest.mark.parametrize("shape", [(12,), (3, 4), (1, 4), ()])
@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
def test_one_tensor_is_no_sequence(call, shape):
    dummy, target = _pair(*shape)
    with pytest.raises(TypeError, match="expected a sequence of tensors, found one tensor"):
        call(dummy, target)
    with pytest.raises(TypeError, match="expected a sequence of tensors, found one tensor"):
        call([dummy], target)
    with pytest.raises(TypeError, match="expected a sequence of tensors, found one array"):
        call([dummy], target.numpy())


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
def test_of_tensors_by_name_the_values_are_proposed(call):
    dummy, target = _pair(3, 4)
    for named in ({"weight": target}, nn.ParameterDict({"weight": target})):
        with pytest.raises(
            TypeError, match=r"expected a sequence of tensors, found a \w*[dD]ict; its \.values\(\)"
        ):
            call([dummy], named)
    call([dummy[None]], {"weight": target[None]}.values())
    for other in ("ab", 3, None):
        with pytest.raises(TypeError, match="expected a sequence of tensors, found"):
            call([dummy], other)
    for entry in ("ab", 3, [target]):
        with pytest.raises(TypeError, match=r"(target|gradients)\[0\].*a tensor or None"):
            call([dummy], [entry])


def test_outputs_are_a_sequence():
    dummy, target = _pair(3, 4)
    distance = sf.GradientDistance()
    for out in (torch.empty(3, 4), {"weight": torch.empty(3, 4)}, torch.empty(3, 4).numpy()):
        with pytest.raises(TypeError, match="out: expected a sequence of tensors"):
            distance.distance_and_gradient([dummy], [target], out)
