"""What a kept distance knows of its target: never stale, never written over."""

import pickle

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import sapag_fast as sf

BACKENDS = ["cpu", "reference"]


def same_as_fresh(distance, dummy, target, backend="cpu"):
    value, slopes = distance.distance_and_gradient(dummy, target)
    exact, true = sf.distance_and_gradient(dummy, target, backend=backend)
    return torch.equal(value, exact) and all(map(torch.equal, slopes, true))


CHANGES = {
    "in place": lambda t: t.mul_(2),
    "data.copy_": lambda t: t.data.copy_(torch.ones_like(t)),
    "data.neg_ of a part": lambda t: t.data.view(-1)[t.numel() // 2].add_(1),
    "data =": lambda t: setattr(t, "data", torch.ones_like(t)),
    "numpy": lambda t: t.numpy().__imul__(3),
    "transposed": lambda t: t.t_().t_().mul_(1.5),
    "another layout of its memory": lambda t: setattr(t, "data", torch.as_strided(t.data, (20, 40), (1, 20))),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("calls", [1, 2])
def test_every_change_of_the_target_is_seen(gradients, calls, change, backend):
    dummy, target = gradients.pair(0.3, shapes=[(40, 30), (40,), (20, 40), (20,)])
    distance = sf.GradientDistance(backend=backend)
    for _ in range(calls):
        distance(dummy, target)
    CHANGES[change](target[2])
    assert same_as_fresh(distance, dummy, target, backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (64,), (5, 7), (0,)])
def test_whatever_the_tensor(shape, dtype):
    target = [torch.ones(4, dtype=dtype), torch.randn(shape).to(dtype)]
    dummy = [t + 1 for t in target]
    distance = sf.GradientDistance("l2")
    distance(dummy, target)
    distance(dummy, target)
    target[1].data.fill_(3)
    assert torch.equal(distance(dummy, target), sf.distance(dummy, target, "l2"))


def test_the_array_behind_from_numpy():
    array = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    target = [torch.from_numpy(array)]
    dummy = [torch.ones(30, 20)]
    distance = sf.GradientDistance()
    distance(dummy, target)
    distance(dummy, target)
    array += 3
    assert same_as_fresh(distance, dummy, target)


def test_a_tensor_with_gaps_between_its_elements():
    whole = torch.randn(8, 10)
    target, dummy = [whole[:, ::3]], [torch.ones(8, 4)]
    distance = sf.GradientDistance()
    first = [distance(dummy, target) for _ in range(2)][1]
    whole[:, 1] += 1  # raises the version, of what shares memory too
    assert torch.equal(distance(dummy, target), first)
    target[0].data.mul_(torch.arange(4.0))
    assert same_as_fresh(distance, dummy, target)


def test_a_storage_that_was_given_back_is_not_looked_at():
    target, dummy = [torch.randn(100_000)], [torch.ones(100_000)]
    distance = sf.GradientDistance()
    distance(dummy, target)
    distance(dummy, target)
    target[0].untyped_storage().resize_(0)
    target[0].untyped_storage().resize_(400_000)
    target[0].fill_(1.0)
    assert distance(dummy, target) == sf.distance(dummy, target)


def test_what_stays_unseen_is_seen_after_forget(gradients):
    dummy, target = gradients.pair(0.3, shapes=[(100, 100)])
    distance = sf.GradientDistance()
    distance(dummy, target)
    distance(dummy, target)
    target[0].data[0] = 5.0  # far from the middle, past torch: see the docstring
    distance.forget()
    assert same_as_fresh(distance, dummy, target)


def test_the_target_of_an_inference_mode_is_not_kept(gradients):
    dummy, target = gradients.pair(0.3)
    distance = sf.GradientDistance()
    with torch.inference_mode():
        unversioned = [t + 1 for t in target]
        distance(dummy, unversioned)
        unversioned[0].mul_(2)
    leaves = [t.clone().requires_grad_() for t in dummy]
    value = distance(leaves, unversioned)
    assert torch.equal(value, sf.distance(dummy, [t.clone() for t in unversioned]))
    (_, slopes) = sf.distance_and_gradient(dummy, unversioned)
    assert all(map(torch.equal, torch.autograd.grad(value, leaves), slopes))


def test_unchanged_targets_are_kept(gradients):
    dummy, target = gradients.pair(0.3)
    distance = sf.GradientDistance()
    value = distance(dummy, target)
    assert torch.equal(distance(dummy, target), value)
    known = distance._known
    assert known.sums is not None
    with torch.inference_mode():
        distance(dummy, target)
    distance([t + 1 for t in dummy], list(target))
    assert distance._known is known
    assert pickle.loads(pickle.dumps(distance))._known is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["sapag", "own"])
def test_what_is_written_to_has_a_new_version(gradients, kind, backend):
    if kind == "own":
        sf.register_distance("own", lambda sums: sums.square.sum(-1))
    dummy, target = gradients.pair(0.3)
    out = [torch.empty_like(t) for t in dummy]
    before = [t._version for t in out]
    distance = sf.GradientDistance(kind, backend=backend)
    for _ in range(2):
        distance.distance_and_gradient(dummy, target, out)
        assert all(t._version > version for t, version in zip(out, before, strict=True))
        before = [t._version for t in out]
    with torch.inference_mode():
        distance.distance_and_gradient(dummy, target, [torch.empty_like(t) for t in dummy])


@pytest.mark.parametrize("written", ["dummy", "target"])
def test_an_earlier_graph_sees_that_its_tensors_were_written_to(gradients, written):
    dummy, target = gradients.pair(0.3)
    leaves = [t.clone().requires_grad_() for t in dummy]
    value = sf.distance(leaves, target)
    out = target if written == "target" else [t.detach() for t in leaves]
    sf.distance_and_gradient(*gradients.pair(0.5, seed=1), out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, leaves, create_graph=True)


def halves(size, shift):
    """Two tensors of one buffer, the second so many elements behind the first."""
    buffer = torch.randn(2 * size)
    return buffer[:size], buffer[shift : shift + size]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [1, 16, 199])
def test_an_output_that_overlaps_is_refused(backend, shift):
    other = torch.randn(200)
    for flip in (False, True):
        read, out = halves(200, shift)[:: -1 if flip else 1]
        for name, pair in (("dummy", ([read], [other])), ("target", ([other], [read]))):
            with pytest.raises(ValueError, match=rf"out\[0\]: expected memory of its own.*{name}\[0\]"):
                sf.distance_and_gradient(*pair, out=[out], backend=backend)


def test_an_output_beside_what_is_read_is_welcome():
    read, out = halves(200, 200)
    other = torch.randn(200)
    _, (slope,) = sf.distance_and_gradient([read], [other])
    sf.distance_and_gradient([read], [other], out=[out])
    assert torch.equal(out, slope)


def test_other_overlaps_are_refused(gradients):
    dummy, target = gradients.pair(0.3, shapes=[(4, 3), (4, 3)])
    out = [torch.empty(4, 3) for _ in dummy]
    distance = sf.GradientDistance()
    distance.distance_and_gradient(dummy, target, out)
    with pytest.raises(ValueError, match=r"out\[1\].*out\[0\]"):
        distance.distance_and_gradient(dummy, target, [out[0], out[0]])
    with pytest.raises(ValueError, match=r"out\[\d\].*dummy\[\d\]"):
        distance.distance_and_gradient(dummy, target, dummy[::-1])
    gaps, constants = [None, dummy[0], None, dummy[1]], [None, target[0], None, target[1]]
    with pytest.raises(ValueError, match=r"out\[3\].*dummy\[1\]"):
        distance.distance_and_gradient(gaps, constants, [None, out[0], None, dummy[0]])
    with pytest.raises(ValueError, match=r"out\[\d\].*target\[\d\]"):
        distance.distance_and_gradient(dummy, target, target)
    with pytest.raises(ValueError, match=r"out\[0\].*dummy\[1\]"):
        distance.distance_and_gradient([dummy[0], dummy[0]], target, [dummy[0], out[1]])
    assert same_as_fresh(distance, dummy, target)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recoveries", [None, 3])
@pytest.mark.parametrize("kind", ["sapag", "cosine", "tag"])
def test_in_place_of_the_dummy_gradient(gradients, kind, recoveries, backend):
    batched = recoveries is not None
    shapes = [(30, 40), (30,), (300, 400), (5,)]
    dummy, target = gradients.pair(0.3, shapes=shapes, recoveries=recoveries)
    options = {"batched": batched, "backend": backend}
    value, slopes = sf.distance_and_gradient(dummy, target, kind, **options)
    found, out = sf.distance_and_gradient(dummy, target, kind, out=dummy, **options)
    assert torch.equal(value, found)
    assert all(map(torch.equal, out, slopes))
    assert all(a is b for a, b in zip(out, dummy, strict=True))


def test_more_recoveries_in_the_same_memory_are_looked_at_again():
    buffer, target = torch.randn(12, 5), [torch.randn(1, 5)]
    distance = sf.GradientDistance(batched=True)
    distance.distance_and_gradient([buffer[:4]], target, [buffer[4:8]])
    with pytest.raises(ValueError, match=r"out\[0\].*dummy\[0\]"):
        distance.distance_and_gradient([buffer[:6]], target, [buffer[4:10]])


def test_a_part_of_the_target_is_another_target():
    dummy, target = torch.randn(4, 3), torch.randn(4, 3)
    distance = sf.GradientDistance()
    for _ in range(3):
        distance([dummy], [target])
    target.data = target.data[:2]
    assert same_as_fresh(distance, [dummy[:2]], [target])


def test_options_are_the_distance_s_own():
    weights = torch.ones(1, dtype=torch.float64)
    dummy, target = [torch.randn(5)], [torch.randn(5)]
    distance = sf.GradientDistance(layer_weights=weights)
    value = distance(dummy, target)
    weights.fill_(-1.0)
    assert torch.equal(distance(dummy, target), value)
    assert torch.equal(distance.copy()(dummy, target), value)


def test_outputs_are_guarded_in_forward_mode(gradients):
    dummy, target = gradients.pair(0.3, shapes=[(4, 3), (3,)])
    out = [torch.empty_like(t) for t in dummy]
    saved = torch.randn(4, 3, requires_grad=True) * out[0]
    with forward_ad.dual_level():
        sf.distance_and_gradient(dummy, target, out=out)
        with pytest.raises(ValueError, match=r"out\[\d\].*target\[\d\]"):
            sf.distance_and_gradient(dummy, target, out=target)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


def test_outputs_that_require_grad(gradients):
    dummy, target = gradients.pair(0.3, shapes=[(4, 3)])
    leaf = torch.zeros(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"out: .* found a leaf that requires grad"):
        sf.distance_and_gradient(dummy, target, out=[leaf])
    value, slopes = sf.distance_and_gradient(dummy, target)
    found = sf.distance_and_gradient(dummy, target, out=[leaf * 1.0])[0]
    assert not found.requires_grad
    assert torch.equal(found, value)
    with torch.no_grad():
        sf.distance_and_gradient(dummy, target, out=[leaf])
    assert torch.equal(leaf, slopes[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_gradients_are_named(backend):
    dense = torch.randn(4, 3)
    for pair, name in (
        (([dense.to_sparse()], [dense]), "dummy"),
        (([dense], [dense.to_sparse()]), "target"),
    ):
        with pytest.raises(TypeError, match=rf"{name}\[0\]: expected a dense tensor, found torch.sparse"):
            sf.distance(*pair, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_that_do_not_fit(gradients, backend):
    dummy, target = gradients.pair(0.3, shapes=[(4, 3), (3,)])
    distance = sf.GradientDistance(backend=backend)
    with pytest.raises(ValueError, match="out: expected 2 tensors, found 1"):
        distance.distance_and_gradient(dummy, target, [torch.empty(4, 3)])
    for wrong in (torch.empty(2, 3), torch.empty(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"out\[1\]: expected shape \[3\]"):
            distance.distance_and_gradient(dummy, target, [torch.empty(4, 3), wrong])
