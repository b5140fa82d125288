"""What the Triton operators promise torch, and how they treat memory."""

import math

import pytest
import torch
from triton_support import DEVICE, OPS, error, on_device, reference, settings_of, triton_distance

from sapag_fast.distances.layering import layering
from sapag_fast.distances.sums import difference_sums, target_sums
from sapag_fast.kernels import addresses, evaluation, frames, launches, words

SIZES = [0, 1, 3, 8, 2047, 2048, 2049, 8191, 8193, 16384, 16385, 33001]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_sums_and_apply_of_every_length(n, dtype):
    dummy, target = noise(n, seed=1, dtype=dtype), noise(n, seed=2, dtype=dtype) + 1
    found = layering(((n,),), False, None)
    exact = difference_sums([dummy], [target], found, False)
    assert torch.allclose(OPS.difference_sums([dummy], [target], [0], 1, False), exact, rtol=1e-12, atol=1e-9)
    exact = target_sums([target], found, False)
    assert torch.allclose(OPS.target_sums([target], [0], 1, False), exact, rtol=1e-12, atol=1e-9)
    c = torch.tensor([[[0.5, -0.25, 2.0, 0.125, -3.0]]], dtype=torch.float64, device=DEVICE)
    (slope,) = OPS.apply([dummy], [target], [0], 1, False, c)
    a, g = dummy.double(), target.double()
    exact = 0.5 * (a - g) - 0.25 * g + 2 * a + 0.125 - 3 * (a - g).sign()
    assert slope.dtype == dtype
    assert torch.allclose(slope.double(), exact, rtol=torch.finfo(dtype).eps, atol=4e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1501, 8192, 20004, 26627])
def test_misaligned_views_have_the_same_bits(n, dtype):
    base_a, base_g = noise(n + 8, seed=1, dtype=dtype), noise(n + 8, seed=2, dtype=dtype)
    for offset in (1, 3):
        dummy, target = base_a[offset : offset + n], base_g[8 - offset : 8 - offset + n]
        value, (slope,) = triton_distance([dummy], [target], "sapag")
        other, (other_slope,) = triton_distance([dummy.clone()], [target.clone()], "sapag")
        assert torch.equal(value, other)
        assert torch.equal(slope, other_slope)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.transpose(0, 1),
        lambda t: t[:, ::2],
        lambda t: t[:1].expand(6, -1, -1),
        lambda t: t.permute(2, 0, 1),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_non_contiguous_input(view, batched):
    dummy, target = view(noise(6, 6, 8, seed=1)), view(noise(6, 6, 8, seed=2))
    plain, (plain_slope,) = triton_distance(
        [dummy.contiguous()], [target.contiguous()], "sapag", batched=batched
    )
    for mine, theirs in ((dummy, target), (dummy.contiguous(), target), (dummy, target.contiguous())):
        value, (slope,) = triton_distance([mine], [theirs], "sapag", batched=batched)
        assert slope.shape == dummy.shape
        assert torch.allclose(value, plain, rtol=1e-6)
        assert torch.allclose(slope, plain_slope, rtol=1e-5, atol=1e-7)


def test_channels_last_keeps_its_layout():
    dummy = noise(8, 6, 5, 5, seed=1).to(memory_format=torch.channels_last)
    target = noise(8, 6, 5, 5, seed=2).to(memory_format=torch.channels_last)
    value, (slope,) = triton_distance([dummy], [target], "sapag")
    assert slope.stride() == dummy.stride()
    exact, (true,) = reference([dummy], [target], "sapag")
    assert error(value, exact) <= 1e-6
    assert error(slope, true) <= 1e-5


def test_out_is_written(gradients):
    dummy, target = on_device(*gradients.pair(0.4))
    found, numbers = settings_of("sapag", target)
    options = (found.layer_of, found.layers, False, *numbers, None)
    value, _, fresh = OPS.distance_and_gradient(dummy, target, *options)
    out = [torch.full_like(t, math.nan) for t in dummy]
    again, _ = OPS.distance_and_gradient_out(dummy, target, *options, out)
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for a, b in zip(fresh, out, strict=True))
    with pytest.raises(ValueError, match=r"out\[2\]: expected shape"):
        OPS.distance_and_gradient_out(dummy, target, *options, [*out[:2], out[2][:1], *out[3:]])
    with pytest.raises(ValueError, match="out: expected 11 tensors, found 1"):
        OPS.distance_and_gradient_out(dummy, target, *options, out[:1])
    strided = out[2].transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match=r"out\[2\]: must lie in memory as dummy does"):
        OPS.distance_and_gradient_out(dummy, target, *options, [*out[:2], strided, *out[3:]])


def test_opcheck(gradients):
    dummy, target = on_device(*gradients.pair(0.5, recoveries=2, shapes=[(4, 3), (4,)]))
    found, numbers = settings_of("sapag", target, batched=True)
    table = (list(found.layer_of), found.layers, True)
    sums = OPS.target_sums(target, *table)
    c = torch.zeros(2, found.layers, 5, dtype=torch.float64, device=DEVICE)
    out = [torch.empty_like(t) for t in dummy]
    calls = {
        OPS.target_sums: (target, *table),
        OPS.difference_sums: (dummy, target, *table),
        OPS.apply: (dummy, target, *table, c),
        OPS.distance: (dummy, target, *table, *numbers, None),
        OPS.distance_and_gradient: (dummy, target, *table, *numbers, sums),
        OPS.distance_and_gradient_out: (dummy, target, *table, *numbers, None, out),
        OPS.scale_: (out, torch.tensor([0.5, 1.0], device=DEVICE), True),
    }
    for operator, arguments in calls.items():
        torch.library.opcheck(operator.default, arguments)


def test_no_recoveries_and_layers_without_tensors():
    dummy, target = noise(0, 5), noise(0, 5)
    value, (slope,) = triton_distance([dummy], [target], "sapag", batched=True)
    assert value.shape == (0,)
    assert slope.shape == (0, 5)
    dummy, target = noise(5, seed=1), noise(5, seed=2)
    alone, _ = triton_distance([dummy], [target], "sapag")
    value, _ = triton_distance([dummy], [target], "sapag", layers=[3])
    assert torch.equal(value, alone)


def test_addresses_are_kept_and_given_up(gradients):
    dummy, target = on_device(*gradients.pair(0.4, shapes=[(3, 4)]))
    frame = frames.find_frame(dummy, target, (0,), 1, False)
    assert frames.find_frame(dummy, target, (0,), 1, False) is frame
    placed = addresses.AddressTable(frame, dummy, target)
    assert addresses.AddressTable(frame, dummy, target).addresses is placed.addresses
    assert placed.addresses.tolist() == [dummy[0].data_ptr(), target[0].data_ptr(), 0]
    for _ in range(addresses.KEPT_TABLES + 3):
        target.append(torch.zeros(3, 4, device=DEVICE))
        addresses.AddressTable(frame, dummy, target[-1:])
    assert len(addresses._tables) == addresses.KEPT_TABLES


def test_addresses_travel_in_parameters():
    """The way they take into a captured graph."""
    numbers = [(i * 2**33 + i) * (-1) ** i for i in range(2 * words.WORDS + 5)]
    table = torch.zeros(len(numbers) + 3, dtype=torch.int64, device=DEVICE)
    words.write_all(table, numbers)
    assert table.tolist() == [*numbers, 0, 0, 0]


@pytest.mark.parametrize(
    ("dummy", "target", "kind", "message"),
    [
        ([], [], ValueError, "target: expected at least one tensor"),
        ([(3,)], [(3,), (2,)], ValueError, "same number of gradients, found 1 and 2"),
        ([(3,)], [(4,)], ValueError, r"target\[0\]: expected shape \[3\] as in dummy\[0\], found \[4\]"),
    ],
)
def test_mismatched_shapes(dummy, target, kind, message):
    lists = [[torch.ones(s, device=DEVICE) for s in shapes] for shapes in (dummy, target)]
    if not lists[1]:
        lists[0] = [torch.ones(1, device=DEVICE)]
    with pytest.raises(kind, match=message):
        OPS.difference_sums(*lists, [0] * len(lists[1]), 1, False)


def test_errors_name_their_argument():
    one = torch.ones(3, device=DEVICE)
    rows = torch.ones(2, 3, device=DEVICE)

    def call(dummy, target, layer_of=(0,), layers=1, batched=False, *, kind=0, weights=None, cached=None):
        options = (kind, 1.0, 0.0, weights, None, cached)
        return OPS.distance(dummy, target, layer_of, layers, batched, *options)

    for error_type, message, arguments, options in (
        (TypeError, r"target\[0\]: expected torch.float32 as in the first", ([one], [one.double()]), {}),
        (TypeError, r"dummy\[0\]: expected float32, float64", ([one.int()], [one.int()]), {}),
        (ValueError, "one layer number for each of 1", ([one], [one], (0, 1)), {}),
        (ValueError, "found layer 4 of 1", ([one], [one], (4,)), {}),
        (ValueError, "needs a leading", ([one[0]], [one[0]], (0,), 1, True), {}),
        (ValueError, r"expected 3 recoveries \(or 1", ([one], [one[:2]], (0,), 1, True), {}),
        (ValueError, r"dummy\[1\]: expected 2 rec", ([rows, one], [rows, one], (0, 0), 1, True), {}),
        (ValueError, "kind: unknown number 9", ([one], [one]), {"kind": 9}),
        (ValueError, "layer_weights: expected shape", ([one], [one]), {"weights": one}),
        (ValueError, "target_sums: expected contiguous float64", ([one], [one]), {"cached": one}),
    ):
        with pytest.raises(error_type, match=message):
            call(*arguments, **options)
    with pytest.raises(ValueError, match="coefficients: expected shape"):
        OPS.apply([one], [one], (0,), 1, False, one)


def test_distance_alone_has_the_same_bits(gradients):
    dummy, target = on_device(*gradients.pair(0.4, shapes=[(5, 7), (5,), (131, 197)]))
    found, numbers = settings_of("sapag", target)
    options = (found.layer_of, found.layers, False, *numbers, None)
    value, sums = OPS.distance(dummy, target, *options)
    other, same, _ = OPS.distance_and_gradient(dummy, target, *options)
    assert torch.equal(value, other)
    assert torch.equal(sums, same)


class Counted:
    """A kernel that notes its launches."""

    def __init__(self, name, kernel, launches):
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid):
        self.launches.append((self.name, grid))
        return self.kernel[grid]


@pytest.mark.parametrize("recoveries", [None, 3])
def test_a_lenet_takes_two_launches(gradients, monkeypatch, recoveries):
    shapes = [(12, 1, 5, 5), (12,), (12, 12, 5, 5), (12,), (12, 12, 5, 5), (12,), (10, 588), (10,)]
    dummy, target = on_device(*gradients.pair(0.5, shapes=shapes, recoveries=recoveries))
    batched = recoveries is not None
    found, _ = settings_of("sapag", target, batched=batched)
    sums = OPS.target_sums(target, found.layer_of, found.layers, batched)
    launched = []
    kernels = {evaluation: ("fused", "finalise"), launches: ("chunk_sums", "merge_sums", "apply")}
    for module, names in kernels.items():
        for name in names:
            monkeypatch.setattr(module, name, Counted(name, getattr(module, name), launched))
    triton_distance(dummy, target, "sapag", sums, batched=batched)
    rows = recoveries or 1
    assert launched == [("fused", (4 * rows,)), ("finalise", (rows,))]
