"""The distance with its gradient, one thread, against what plain PyTorch offers.

``sapag_fast`` is :meth:`GradientDistance.distance_and_gradient`, ``sapag_fast (out=)`` the same into V of the
last call, as a loop has it, ``sapag_fast (autograd)`` the differentiable call with ``torch.autograd.grad``.
All contenders take turns in one run; a triad x = y + 2 z on arrays of the same size gives the bandwidth.
"""

import json

import pytest
import torch

import sapag_fast as sf
from benchmarks import RESULTS
from benchmarks.shared.distance_peers import Eager, Foreach
from benchmarks.shared.gradient_sets import SETS
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns

ROUNDS = {"LeNet": 31, "64 × LeNet": 21, "ResNet-18": 15, "BERT-base": 7}
# Bytes an element that must move from and to memory: g' and g read, V written; a second read where a layer is
# too large to stay in cache between its sums and its V.
LEAST_BYTES, TWO_PASS_BYTES = 12, 20


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradient_pair(name: str) -> tuple[list[torch.Tensor], list[torch.Tensor], bool]:
    shapes, recoveries = SETS[name]
    lead = () if recoveries is None else (recoveries,)
    generator = torch.Generator().manual_seed(0)
    target = [torch.randn(*lead, *shape, generator=generator) for shape in shapes]
    dummy = [t + 0.5 * torch.randn(t.shape, generator=generator) for t in target]
    return dummy, target, recoveries is not None


@pytest.mark.parametrize("name", SETS)
def test_distance_and_gradient(name, benchmark, one_thread):
    dummy, target, batched = gradient_pair(name)
    elements = sum(t.numel() for t in dummy)
    distance = sf.GradientDistance(batched=batched)
    out = [torch.empty_like(t) for t in dummy]
    leaves = [t.clone().requires_grad_() for t in dummy]
    eager = Eager(target, batched)
    # One graph a list of layers; the loop over BERT's would take minutes to compile.
    compiled = torch.compile(eager.distance, dynamic=False) if name != "BERT-base" else None
    x, y, z = (torch.randn(elements) for _ in range(3))

    def through_autograd() -> None:
        torch.autograd.grad(distance(leaves, target).sum(), leaves)

    contenders = {
        "sapag_fast": lambda: distance.distance_and_gradient(dummy, target),
        "sapag_fast (out=)": lambda: distance.distance_and_gradient(dummy, target, out),
        "sapag_fast (autograd)": through_autograd,
        "eager loop": lambda: eager.distance_and_gradient(leaves),
        "triad": lambda: torch.add(y, z, alpha=2.0, out=x),
    }
    if not batched:
        foreach = Foreach(target)
        contenders["_foreach"] = lambda: foreach.distance_and_gradient(dummy)
    if compiled is not None:
        contenders["torch.compile"] = lambda: torch.autograd.grad(compiled(leaves).sum(), leaves)

    # They must all compute the same thing.
    value, slopes = distance.distance_and_gradient(dummy, target)
    peers = [eager.distance_and_gradient(leaves)]
    if not batched:
        peers.append(foreach.distance_and_gradient(dummy))
    for other, other_slopes in peers:
        torch.testing.assert_close(other.detach(), value, rtol=1e-3, atol=1e-6)
        for a, b in zip(other_slopes, slopes, strict=True):
            assert (a - b).norm() <= 1e-2 * b.norm()

    seconds = time_in_turns(contenders, rounds=ROUNDS[name])
    benchmark.pedantic(contenders["sapag_fast (out=)"], rounds=ROUNDS[name], warmup_rounds=1)
    bandwidth = LEAST_BYTES * elements / quantiles(seconds["triad"])["q50"]
    result = {
        "set": name,
        "elements": elements,
        "tensors": len(dummy),
        "seconds": {contender: quantiles(values) for contender, values in seconds.items()},
        "speedup": {
            own: {
                peer: ratio(seconds[peer], seconds[own])
                for peer in ("eager loop", "_foreach", "torch.compile")
                if peer in seconds
            }
            for own in ("sapag_fast", "sapag_fast (out=)", "sapag_fast (autograd)")
        },
        "triad_bytes_per_second": bandwidth,
        "fraction_of_triad": ratio(seconds["triad"], seconds["sapag_fast (out=)"]),
        "bytes_per_element": {"least": LEAST_BYTES, "two_pass": TWO_PASS_BYTES},
        "machine": machine(),
    }
    benchmark.extra_info.update(result)
    RESULTS.mkdir(exist_ok=True)
    slug = name.lower().replace(" × ", "x").replace(" ", "")
    (RESULTS / f"distance_{slug}.json").write_text(json.dumps(result, indent=1) + "\n")
