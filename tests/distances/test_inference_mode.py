"""Kinds with weights of their own under inference mode, and tensors that are not plain."""

import pytest
import torch

import sapag_fast as sf


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", ["sapag-mean", "sapag", "tag"])
def test_of_every_backend(kind, backend):
    dummy, target = [torch.randn(4, 3), torch.randn(5)], [torch.randn(4, 3), torch.randn(5)]
    value, slopes = sf.distance_and_gradient(dummy, target, kind, backend=backend)
    with torch.inference_mode():
        for distance in (
            sf.GradientDistance(kind, backend=backend),
            sf.GradientDistance(kind, backend=backend),
        ):
            for _ in range(3):
                found, inner = distance.distance_and_gradient(dummy, target)
            assert torch.equal(found, value)
            assert all(map(torch.equal, inner, slopes))
            dummy = [t.clone() for t in dummy]
    assert torch.equal(distance([t.clone() for t in dummy], target), value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_outputs_and_gradients_that_are_not_plain_are_named(backend):
    dense = torch.randn(4, 3)
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])
    with pytest.raises(TypeError, match=r"dummy\[0\]: expected a dense tensor, found a nested one"):
        sf.distance([nested], [nested], backend=backend)
    with pytest.raises(ValueError, match=r"out\[0\]: expected memory of its own for each element"):
        sf.distance_and_gradient(
            [dense], [dense + 1], "l2", out=[torch.empty(3).expand(4, 3)], backend=backend
        )
