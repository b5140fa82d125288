"""The CPU kernels where memory is awkward: odd sizes, offsets, strides, halves, threads, instruction sets."""

import os
import subprocess
import sys

import pytest
import torch
from built_in_kinds import NATIVE

import sapag_fast as sf
from sapag_fast.distances import operators as ops
from sapag_fast.distances.formulas import value_and_coefficients
from sapag_fast.distances.kind import find_kind
from sapag_fast.distances.layering import layer_sizes, layering, shapes_of
from sapag_fast.distances.sums import GradientSums, difference_sums, target_sums

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 4095, 4096, 4097, 32767, 32769, 140001]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def one_layer(*tensors):
    return layering(shapes_of(tensors, False), False, (0,) * len(tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_sums_of_every_length(n, dtype):
    dummy, target = noise(n, seed=1, dtype=dtype), noise(n, seed=2, dtype=dtype) + 1
    found = one_layer(target)
    exact = difference_sums([dummy], [target], found, False)
    assert torch.allclose(
        ops.difference_sums("cpu", [dummy], [target], found, False), exact, rtol=1e-12, atol=1e-9
    )
    exact = target_sums([target], found, False)
    assert torch.allclose(ops.target_sums("cpu", [target], found, False), exact, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_apply_of_every_length(n, dtype):
    dummy, target = noise(n, seed=1, dtype=dtype), noise(n, seed=2, dtype=dtype)
    c = torch.tensor([[[0.5, -0.25, 2.0, 0.125, -3.0]]], dtype=torch.float64)
    (found,) = ops.apply("cpu", [dummy], [target], one_layer(target), False, c)
    a, g = dummy.double(), target.double()
    exact = 0.5 * (a - g) - 0.25 * g + 2 * a + 0.125 - 3 * (a - g).sign()
    assert found.dtype == dtype
    assert torch.allclose(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_round_as_torch_does(dtype):
    """Every finite half comes back from the kernel unchanged, and results round to nearest even."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    zero = torch.zeros_like(patterns)
    identity = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]], dtype=torch.float64)
    finite = torch.where(patterns.isfinite(), patterns, 0)
    (same,) = ops.apply("cpu", [finite], [zero], one_layer(zero), False, identity)
    assert torch.equal(same, finite)
    identity[..., 2] = 1 / 3
    (third,) = ops.apply("cpu", [finite], [zero], one_layer(zero), False, identity)
    assert torch.equal(third, (finite.float() * torch.tensor(1 / 3)).to(dtype))
    (broken,) = ops.apply("cpu", [patterns], [zero], one_layer(zero), False, identity)
    assert torch.equal(broken.isnan(), ~patterns.isfinite())  # 0·inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 2, 3, 5])
def test_misaligned_views(offset, dtype):
    n = 5000
    base_a, base_g = noise(n + 8, seed=1, dtype=dtype), noise(n + 8, seed=2, dtype=dtype)
    dummy, target = base_a[offset : offset + n], base_g[8 - offset : 8 - offset + n]
    value, (slope,) = sf.distance_and_gradient([dummy], [target])
    other, (other_slope,) = sf.distance_and_gradient([dummy.clone()], [target.clone()])
    assert torch.equal(value, other)
    assert torch.equal(slope, other_slope)


def test_odd_recoveries_lie_misaligned():
    dummy, target = [noise(5, 4097, seed=1)], [noise(5, 4097, seed=2)]
    value, (slope,) = sf.distance_and_gradient(dummy, target, batched=True)
    for r in range(5):
        alone, (alone_slope,) = sf.distance_and_gradient([dummy[0][r].clone()], [target[0][r].clone()])
        assert torch.equal(value[r], alone)
        assert torch.equal(slope[r], alone_slope)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.transpose(0, 1),
        lambda t: t[:, ::2],
        lambda t: t.flip(0),
        lambda t: t[:1].expand(6, -1, -1),
        lambda t: t.permute(2, 0, 1),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_non_contiguous_input(view, batched):
    dummy, target = view(noise(6, 6, 8, seed=1)), view(noise(6, 6, 8, seed=2))
    for mine, theirs in ((dummy, target), (dummy.contiguous(), target), (dummy, target.contiguous())):
        value, (slope,) = sf.distance_and_gradient([mine], [theirs], batched=batched)
        plain, (plain_slope,) = sf.distance_and_gradient(
            [dummy.contiguous()], [target.contiguous()], batched=batched
        )
        assert torch.allclose(value, plain, rtol=1e-6)
        assert torch.allclose(slope, plain_slope, rtol=1e-5, atol=1e-7)


def test_channels_last_needs_no_copy_and_keeps_its_layout():
    dummy = noise(8, 6, 5, 5, seed=1).to(memory_format=torch.channels_last)
    target = noise(8, 6, 5, 5, seed=2).to(memory_format=torch.channels_last)
    value, (slope,) = sf.distance_and_gradient([dummy], [target])
    assert slope.stride() == dummy.stride()
    plain, (plain_slope,) = sf.distance_and_gradient([dummy.contiguous()], [target.contiguous()])
    assert torch.allclose(value, plain, rtol=1e-6)
    assert torch.allclose(slope, plain_slope, rtol=1e-5, atol=1e-8)


def test_out_is_written_and_returned(gradients):
    dummy, target = gradients.pair(0.4)
    _, fresh = sf.distance_and_gradient(dummy, target)
    out = [torch.full_like(t, torch.nan) for t in dummy]
    _, slopes = sf.distance_and_gradient(dummy, target, out=out)
    assert all(a is b for a, b in zip(slopes, out, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(fresh, out, strict=True))
    with pytest.raises(ValueError, match=r"out\[2\]: expected shape"):
        sf.distance_and_gradient(dummy, target, out=[*out[:2], out[2][:1], *out[3:]])


def test_none_pairs(gradients):
    dummy, target = gradients.pair(0.4, shapes=[(6, 4), (6,), (5, 6), (5,)])
    value, slopes = sf.distance_and_gradient(
        [dummy[0], None, dummy[2], None], [target[0], None, target[2], None]
    )
    plain, plain_slopes = sf.distance_and_gradient([dummy[0], dummy[2]], [target[0], target[2]])
    assert slopes[1] is None
    assert slopes[3] is None
    assert torch.equal(value, plain)
    assert torch.equal(slopes[2], plain_slopes[1])


def test_large_layers_stream_and_share_threads():
    """Above the cache and streaming sizes the walk is another one; the numbers are not."""
    shapes = [(700, 901), (3000, 1501), (17,), (1500, 33)]
    target = [noise(*s, seed=i) for i, s in enumerate(shapes)]
    dummy = [g + 0.1 * noise(*g.shape, seed=9 + i) for i, g in enumerate(target)]
    distance = sf.GradientDistance()
    first, slopes = distance.distance_and_gradient(dummy, target)  # target's sums in the same sweep
    second, again = distance.distance_and_gradient(dummy, target)  # target's sums cached
    exact, true = sf.distance_and_gradient(
        [t.double() for t in dummy], [t.double() for t in target], backend="reference"
    )
    assert torch.equal(first, second)
    assert first.item() == pytest.approx(exact.item(), rel=1e-6)
    for slope, repeated, reference in zip(slopes, again, true, strict=True):
        assert torch.equal(slope, repeated)
        assert (slope.double() - reference).norm() <= 1e-6 * reference.norm()


@pytest.mark.parametrize("recoveries", [None, 3])
def test_same_bits_for_every_number_of_threads(recoveries):
    lead = () if recoveries is None else (recoveries,)
    shapes = [(300, 500), (300,), (1100, 1000), (77,)]
    target = [noise(*lead, *s, seed=i) for i, s in enumerate(shapes)]
    dummy = [g + 0.1 * noise(*g.shape, seed=9 + i) for i, g in enumerate(target)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(sf.distance_and_gradient(dummy, target, batched=recoveries is not None))
    finally:
        torch.set_num_threads(before)
    for value, slopes in results[1:]:
        assert torch.equal(value, results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(slopes, results[0][1], strict=True))


@pytest.mark.parametrize("name", NATIVE)
def test_compiled_formulas_are_those_of_distances_py(gradients, name):
    """csrc/kinds.h writes the coefficients out; distances.py leaves them to autograd."""
    for gap in (3.0, 0.1, 1e-6):
        dummy, target = gradients.pair(gap, recoveries=4, dtype=torch.float64)
        kind = find_kind(name)
        found = layering(shapes_of(target, True), True, None)
        found = found.merged() if kind.merged else found
        weights = (
            torch.linspace(0.5, 2, found.layers, dtype=torch.float64)
            if "layer_weights" in kind.takes
            else None
        )
        differences = ops.difference_sums("cpu", dummy, target, found, True)
        sums = ops.target_sums("cpu", target, found, True)

        def value(s: GradientSums, kind=kind, weights=weights) -> torch.Tensor:
            return kind.value(s, weights, 0.7, 0.3)

        expected, coefficients = value_and_coefficients(
            value, differences, sums, layer_sizes(target, found, True)
        )
        slopes = ops.apply("cpu", dummy, target, found, True, coefficients)
        options = ops.Options(kind.native, 0.7, 0.3, weights, None)
        value, _, native = ops.distance_and_gradient("cpu", dummy, target, found, True, options, sums)
        assert torch.allclose(value, expected, rtol=1e-12)
        for a, b in zip(native, slopes, strict=True):
            assert (a - b).norm() <= 1e-9 * b.norm() + 1e-12


SCRIPT = """
import sys, torch, sapag_fast as sf
from sapag_fast.distances import operators as ops
assert ops.cpu_capability() == sys.argv[1], ops.cpu_capability()
g = torch.Generator().manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    target = [torch.randn(s, generator=g).to(dtype) for s in [(65, 33), (65,), (4111,), (3,)]]
    dummy = [(t.double() + 0.3 * torch.randn(t.shape, generator=g)).to(dtype) for t in target]
    for kind in ("sapag", "l2", "cosine", "tag"):
        value, slopes = sf.distance_and_gradient(dummy, target, kind)
        exact, true = sf.distance_and_gradient(
            [t.double() for t in dummy], [t.double() for t in target], kind, backend="reference")
        assert abs(value - exact) <= 1e-5 * exact, (dtype, kind, value, exact)
        for s, t in zip(slopes, true):
            assert (s.double() - t).norm() <= (1e-6 + torch.finfo(dtype).eps) * t.norm() + 1e-5, (dtype, kind)
patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
finite = torch.where(patterns.isfinite(), patterns, 0)
sums = torch.ops.sapag_fast.target_sums([finite], (0,), 1, False)
assert torch.allclose(sums[0, 0, 1], finite.double().square().sum(), rtol=1e-12)
c = torch.tensor([[[0.0, 0.0, 1 / 3, 0.0, 0.0]]], dtype=torch.float64)
(third,) = torch.ops.sapag_fast.apply([finite], [finite * 0], (0,), 1, False, c)
assert torch.equal(third, (finite.float() * torch.tensor(1 / 3)).half())
"""


def test_every_instruction_set_of_this_machine():
    best = ops.cpu_capability()
    order = ["baseline", "avx2", "avx512"]
    for capability in order[: order.index(best) + 1]:
        environment = {**os.environ, "SAPAG_FAST_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, capability],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("dummy", "target", "error", "message"),
    [
        (
            [torch.ones(3)],
            [torch.ones(3), torch.ones(2)],
            ValueError,
            "same number of gradients, found 1 and 2",
        ),
        ([torch.ones(3)], [torch.ones(4)], ValueError, r"target\[0\]: expected shape \(3,\).*found \(4,\)"),
        ([torch.ones(3), None], [torch.ones(3), torch.ones(1)], ValueError, r"dummy\[1\] is None"),
        ([None], [None], ValueError, "at least one tensor"),
        ([], [], ValueError, "at least one tensor"),
        ([1.0], [torch.ones(1)], TypeError, r"dummy\[0\]: expected a tensor or None, found float"),
        (
            [torch.ones(3)],
            [torch.ones(3).double()],
            TypeError,
            r"target\[0\]: expected torch.float32.*float64",
        ),
        (
            [torch.ones(3).int()],
            [torch.ones(3).int()],
            TypeError,
            "expected float32, float64, bfloat16 or float16",
        ),
        (
            [torch.ones(3, device="meta")],
            [torch.ones(3)],
            ValueError,
            r"target\[0\]: expected a tensor on meta",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_mismatched_input(dummy, target, error, message, backend):
    with pytest.raises(error, match=message):
        sf.distance(dummy, target, backend=backend)


def test_mismatched_input_after_a_first_good_call(gradients):
    """Known shapes take a short path: the checks behind it must still speak."""
    dummy, target = gradients.pair(0.3)
    distance = sf.GradientDistance()
    distance(dummy, target)
    with pytest.raises(ValueError, match=r"target\[1\]: expected shape \(13,\)"):
        distance([dummy[0], torch.ones(13), *dummy[2:]], target)
    with pytest.raises(TypeError, match=r"dummy\[0\]|target\[0\]"):
        distance([t.double() for t in dummy], target)
    with pytest.raises(ValueError, match="same number"):
        distance(dummy[:-1], target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "nonsense"}, "kind must be one of sapag, .* or a Kind, found 'nonsense'"),
        ({"bandwidth": 0.0}, "bandwidth must be positive and finite, found 0.0"),
        ({"kind": "tag", "l1_weight": -1.0}, "l1_weight must be finite and not negative, found -1.0"),
        ({"backend": "quantum"}, "backend must be one of reference, .* found 'quantum'"),
        ({"layer_weights": [1.0]}, "layer_weights: expected one value for each of 7 layers, found 1"),
        ({"variance": torch.ones(3)}, "variance: expected one value for each of 7 layers, found 3"),
        ({"kind": "cosine", "layer_weights": [1.0]}, "layer_weights: the distance 'cosine' takes none"),
        ({"layers": [0]}, "layers: expected one layer number for each of 11 tensors"),
        ({"variance": torch.ones(2, 2, 7)}, "variance: expected shape"),
    ],
)
def test_bad_options(gradients, options, message):
    dummy, target = gradients.pair()
    with pytest.raises(ValueError, match=message):
        sf.distance(dummy, target, **options)


def test_batched_needs_matching_recoveries(gradients):
    dummy, target = gradients.pair(recoveries=4)
    with pytest.raises(ValueError, match="expected 4 recoveries"):
        sf.distance(dummy, [t[:2] for t in target], batched=True)
    with pytest.raises(ValueError, match=r"dummy\[1\]: expected 4 recoveries"):
        sf.distance([dummy[0], dummy[1][:2], *dummy[2:]], target, batched=True)


def test_backend_from_the_environment(gradients, monkeypatch):
    dummy, target = gradients.pair(0.3)
    monkeypatch.setenv("SAPAG_FAST_BACKEND", "reference")
    assert ops.choose_backend(None, torch.device("cpu")) == "reference"
    assert ops.choose_backend("cpu", torch.device("cpu")) == "cpu"
    assert sf.distance(dummy, target).item() == pytest.approx(
        sf.distance(dummy, target, backend="cpu").item(), rel=1e-6
    )
    with pytest.raises(ValueError, match="need tensors on the CPU"):
        ops.choose_backend("cpu", torch.device("meta"))
    with pytest.raises(ValueError, match="'cuda' kernels need tensors on a GPU, found cpu"):
        ops.choose_backend("cuda", torch.device("cpu"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="triton"):
        ops.choose_backend("triton", torch.device("cpu"))
