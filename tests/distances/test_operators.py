"""scale_, V times the gradient that flows into D, on the CPU; the emulated tables run the CUDA kernel."""

import pytest
import torch

import sapag_fast  # noqa: F401 (registers the operator)

scale_ = torch.ops.sapag_fast.scale_
SHAPES = [(3, 5), (7,), (), (0, 4)]


def slopes(dtype, *lead):
    seeded = torch.Generator().manual_seed(0)
    return [torch.randn((*lead, *shape), generator=seeded).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_each_recovery_by_its_own(dtype, grad_dtype):
    given = slopes(dtype, 4)
    grad = torch.tensor([1, -2.5, float("nan"), 0], dtype=grad_dtype)
    found = [t.clone() for t in given]
    assert scale_(found, grad, True) is None
    for one, before in zip(found, given, strict=True):
        assert torch.equal(one[0], before[0])
        assert torch.equal(one[1], (before[1] * -2.5).to(dtype))
        assert one[2].isnan().all()
        assert torch.equal(one[3].abs(), torch.zeros_like(one[3]))


@pytest.mark.parametrize("batched", [False, True])
def test_one_factor_for_all(batched):
    given = slopes(torch.float32, *([2] if batched else []))
    for factor in (1.0, 3.0):
        found = [t.clone() for t in given]
        scale_(found, torch.tensor(factor), batched)
        assert all(torch.equal(a, b * factor) for a, b in zip(found, given, strict=True))


def test_memory_in_any_dense_order():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    wanted = image * 2
    scale_([image], torch.tensor(2.0), False)
    assert torch.equal(image, wanted)
    apart = torch.randn(3, 8)
    before = apart.clone()
    scale_([apart[:, :5]], torch.tensor([2.0, 2.0, 1.0]).expand(3), True)
    assert torch.equal(apart[:2, :5], before[:2, :5] * 2)
    assert torch.equal(apart[:, 5:], before[:, 5:])
    assert torch.equal(apart[2], before[2])


def test_errors():
    with pytest.raises(ValueError, match="slopes: expected at least one"):
        scale_([], torch.ones(()), False)
    with pytest.raises(TypeError, match=r"slopes\[1\]: expected Float"):
        scale_([torch.ones(2), torch.ones(2, dtype=torch.float64)], torch.ones(()), False)
    with pytest.raises(ValueError, match=r"slopes\[1\]: expected 2 recoveries"):
        scale_([torch.ones(2, 2), torch.ones(3, 2)], torch.ones(2), True)
    with pytest.raises(ValueError, match=r"slopes\[0\]: expected contiguous"):
        scale_([torch.ones(2, 4, 4)[:, :, :2]], torch.ones(2), True)
    with pytest.raises(ValueError, match=r"slopes\[0\]: expected contiguous"):
        scale_([torch.ones(4).expand(2, 4)], torch.ones(2), True)
    with pytest.raises(ValueError, match=r"grad: expected shape \[\] or \[2\], found \[3\]"):
        scale_([torch.ones(2, 4)], torch.ones(3), True)
    with pytest.raises(ValueError, match=r"grad: expected shape \[\], found \[1\]"):
        scale_([torch.ones(2, 4)], torch.ones(1), False)
    with pytest.raises(TypeError, match="grad: expected float32 or float64"):
        scale_([torch.ones(2, 4)], torch.ones((), dtype=torch.int64), False)
