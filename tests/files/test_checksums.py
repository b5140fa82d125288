"""A captured gradient whose numbers were damaged is told from one that no search recovers."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from sapag_fast.files.gradient_file import GradientMetadata, read_gradient, write_gradient, write_stacked
from sapag_fast.files.victims import list_victims


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(40, 3)


@pytest.fixture
def gradient(model):
    return {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}


def damaged(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # the lowest bits of a number
    path.write_bytes(content)


def test_of_one_victim(model, gradient, tmp_path):
    path = tmp_path / "g.safetensors"
    write_gradient(path, gradient, GradientMetadata(input_shape=(40,), batch_size=1))
    read = read_gradient(model, path)[0]
    assert all(map(torch.equal, read, gradient.values()))
    damaged(path)
    with pytest.raises(ValueError, match=r"g.safetensors: damaged: its numbers have another checksum"):
        read_gradient(model, path)


def test_of_many(model, gradient, tmp_path):
    path = tmp_path / "g.safetensors"
    others = {name: 2 * tensor for name, tensor in gradient.items()}
    write_stacked(path, ["a", "b"], [gradient, others], GradientMetadata(input_shape=(40,), batch_size=1))
    with safe_open(path, "pt") as opened:
        assert len(set(json.loads(opened.metadata()["gradient_sha256"]))) == 2
    damaged(path)
    first, second = list_victims(path, model, None, None)
    assert all(map(torch.equal, first.gradient(model), gradient.values()))
    with pytest.raises(ValueError, match="damaged"):
        second.gradient(model)


def test_of_other_tools_nobody_knows(model, gradient, tmp_path):
    path = tmp_path / "g.pt"
    torch.save(gradient, path)
    assert len(read_gradient(model, path)[0]) == 2
