"""Both GPU families on a real device, against the float64 formulas. Runs only where there is a GPU."""

import dataclasses
import math

import pytest
import torch
from awkward_tensors import WAYS, awkward_pair
from gradient_pairs import Gradients
from plain_distances import layers_of, plain_distance
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.distances import operators as ops
from sapag_fast.distances.kind import find_kind, kinds
from sapag_fast.matching.choose import choose_matching
from sapag_fast.models import LeNet, initialise
from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import run_search
from sapag_fast.search.recipe import RECIPES
from sapag_fast.search.run import Search
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

FAMILIES = [
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not ops.has_cuda_kernels(), reason="built without CUDA kernels")
    ),
    pytest.param("triton", marks=pytest.mark.skipif(not ops.has_triton(), reason="triton is not installed")),
]
NATIVE = [name for name in kinds() if find_kind(name).native is not None]
SHAPES = [*Gradients.shapes, (1000, 777), (2049, 1023), (5,), (0, 3)]


def on_gpu(tensors):
    return [t.cuda() for t in tensors]


def error(found, exact):
    size, gap = exact.norm().item(), (found.double() - exact).norm().item()
    return gap if size == 0 else gap / size


@pytest.mark.parametrize("backend", FAMILIES)
@pytest.mark.parametrize("recoveries", [None, 1, 9])
@pytest.mark.parametrize("gap", [1.0, 1e-4])
@pytest.mark.parametrize("kind", NATIVE)
def test_against_float64(backend, recoveries, gap, kind):
    batched = recoveries is not None
    dummy, target = map(on_gpu, Gradients.pair(gap, shapes=SHAPES, recoveries=recoveries))
    doubles = [t.double() for t in dummy], [t.double() for t in target]
    exact, true = sf.distance_and_gradient(*doubles, kind, batched=batched, backend="reference")
    distance = sf.GradientDistance(kind, batched=batched, backend=backend)
    for _ in range(2):  # without the target's sums, then with them
        value, slopes = distance.distance_and_gradient(dummy, target)
        assert torch.allclose(value.double(), exact, rtol=1e-5, atol=0)
        for slope, reference in zip(slopes, true, strict=True):
            assert error(slope, reference) <= 1e-5


@pytest.mark.parametrize("backend", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(backend, dtype):
    dummy, target = map(on_gpu, Gradients.pair(0.5, shapes=SHAPES, recoveries=3, shared=True, dtype=dtype))
    doubles = [t.double() for t in dummy], [t.double() for t in target]
    exact, true = sf.distance_and_gradient(*doubles, batched=True, backend="reference")
    value, slopes = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    assert torch.allclose(value.double(), exact, rtol=1e-5)
    floor = torch.finfo(dtype).smallest_normal
    for slope, reference in zip(slopes, true, strict=True):
        assert error(slope, reference) <= 2 * torch.finfo(dtype).eps + 1e-6 or reference.abs().max() < floor


@pytest.mark.parametrize("backend", FAMILIES)
@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_way_to_lie_in_memory(backend, way):
    """Where the first tensor has no elements, too, V is asked for."""
    layers = (0, 1, 2)
    dummy, target = map(on_gpu, awkward_pair([way, "plain", way], 3))
    for kind in ("sapag", "sapag-global", "tag"):
        exact, slopes = plain_distance([t.cpu() for t in dummy], [t.cpu() for t in target], kind, layers)
        value, found = sf.distance_and_gradient(
            dummy, target, kind, layers=layers_of(kind, layers), backend=backend
        )
        assert value.item() == pytest.approx(float(exact), rel=1e-5)
        size = max(abs(slope).max() for slope in slopes if slope.size)
        for slope, true in zip(found, slopes, strict=True):
            assert (abs(slope.double().cpu().numpy() - true) <= 2e-5 * size).all()


@pytest.mark.parametrize("backend", FAMILIES)
def test_bits_repeat_and_do_not_depend_on_the_batch(backend):
    dummy, target = map(on_gpu, Gradients.pair(0.3, shapes=SHAPES, recoveries=9))
    first, slopes = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    for _ in range(20):
        again, more = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
        assert torch.equal(again, first)
        assert all(torch.equal(a, b) for a, b in zip(more, slopes, strict=True))


@pytest.mark.parametrize("backend", FAMILIES)
def test_non_finite_stays_in_its_recovery(backend):
    dummy, target = map(on_gpu, Gradients.pair(0.3, recoveries=4))
    clean, _ = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    dummy[2][1].view(-1)[5] = math.nan
    value, _ = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    assert math.isnan(value[1])
    assert torch.equal(value[[0, 2, 3]], clean[[0, 2, 3]])


@pytest.mark.parametrize("backend", FAMILIES)
def test_autograd_and_vmap(backend):
    dummy, target = map(on_gpu, Gradients.pair(0.3, recoveries=3))
    value, slopes = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    leaves = [t.clone().requires_grad_() for t in dummy]
    grads = torch.autograd.grad(sf.distance(leaves, target, batched=True, backend=backend).sum(), leaves)
    assert all(torch.allclose(a, b) for a, b in zip(grads, slopes, strict=True))
    mapped = torch.func.vmap(lambda d, t: sf.distance(d, t, backend=backend))(dummy, target)
    assert torch.equal(mapped, value)


@pytest.mark.parametrize("backend", FAMILIES)
def test_a_graph_replays_the_same_bits(backend):
    """No host synchronisation and no hidden copy: a captured call follows its inputs."""
    dummy, target = map(on_gpu, Gradients.pair(0.3, shapes=SHAPES, recoveries=4))
    distance = sf.GradientDistance(batched=True, backend=backend)
    out = [torch.empty_like(t) for t in dummy]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            distance.distance_and_gradient(dummy, target, out)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, slopes = distance.distance_and_gradient(dummy, target, out)
    for scale in (1.0, 1.5):
        for t in dummy:
            t.mul_(scale)
        graph.replay()
        eager, eager_slopes = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
        assert torch.equal(value, eager)
        assert all(torch.equal(a, b) for a, b in zip(slopes, eager_slopes, strict=True))


@pytest.mark.parametrize("backend", FAMILIES)
def test_a_call_does_not_wait_for_the_device(backend):
    dummy, target = map(on_gpu, Gradients.pair(0.3, shapes=SHAPES))
    distance = sf.GradientDistance(backend=backend)
    leaves = [t.clone().requires_grad_() for t in dummy]
    torch.autograd.grad(distance(leaves, target), leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(distance(leaves, target), leaves)
        distance.distance_and_gradient(dummy, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_captured_attack_has_the_eager_ones_bits(optimizer):
    model = initialise(LeNet(image_size=16), "normal.5", seed=0).cuda()
    images = torch.rand(5, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).cuda()
    labels = torch.arange(5, device="cuda")
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y[None]), tuple(model.parameters()))
        for x, y in zip(images, labels, strict=True)
    ]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    problem = Problem(VictimModel(model), F.cross_entropy, sf.GradientDistance(), target, restarts=2)
    starts = torch.rand(10, 1, 1, 16, 16, generator=torch.Generator().manual_seed(1)).cuda()
    known = labels.repeat_interleave(2)[:, None]
    recipe = dataclasses.replace(
        RECIPES["smooth"], optimizer=optimizer, lr=1.0 if optimizer == "lbfgs" else 0.1, steps=60
    )
    results = []
    for graphs in (True, False):
        matching = choose_matching(problem, starts[:6], known[:6], problem.rows()[:6]).matching
        search = Search(
            matching=matching,
            starts=starts,
            labels=known,
            recipe=recipe,
            bases=[make_basis("pixel", (1, 16, 16), device="cuda")],
            bounds=(0.0, 1.0),
            restarts=2,
        )
        results.append(run_search(search, rows=6, graphs=graphs))
    assert torch.equal(results[0].inputs, results[1].inputs)
    assert torch.equal(results[0].evaluations, results[1].evaluations)
    assert (results[0].history[-1] < results[0].history[0]).all()


def test_the_default_backend_is_a_kernel():
    assert ops.choose_backend(None, torch.device("cuda")) in ("cuda", "triton")
