"""The true images of listed victims."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sapag_fast.audit.truth import Truth
from sapag_fast.files.victims import list_victims


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def stacked(folder, model):
    path = folder / "many.safetensors"
    metadata = {"victims": json.dumps(["v0", "v1", "v2"]), "input_shape": "4", "batch_size": "1"}
    gradients = {name: torch.zeros(3, *parameter.shape) for name, parameter in model.named_parameters()}
    save_file(gradients, path, metadata)
    return path


def pictures(folder, names):
    folder.mkdir()
    for shade, name in enumerate(names):
        Image.new("L", (2, 2), shade).save(folder / f"{name}.png")
    return [folder]


@pytest.fixture
def listed(model, tmp_path):
    return list_victims(stacked(tmp_path, model), model, (1, 2, 2), 1)


def shades(truth, listed):
    return [round(float(truth.of(victim).max()) * 255) for victim in listed]


def test_truth_by_name_may_hold_more(listed, tmp_path):
    truth = Truth(pictures(tmp_path / "t", ["more", "v2", "v0", "v1"]), listed)
    assert shades(truth, listed) == [2, 3, 1]


def test_truth_in_order(listed, tmp_path):
    assert shades(Truth(pictures(tmp_path / "t", ["a", "b", "c"]), listed), listed) == [0, 1, 2]
    with pytest.raises(ValueError, match="gives 2 images"):
        Truth(pictures(tmp_path / "u", ["a", "b"]), listed)


def test_truth_is_for_images(model, tmp_path):
    listed = list_victims(stacked(tmp_path, model), model, None, None)
    with pytest.raises(ValueError, match="is not an image"):
        Truth(pictures(tmp_path / "t", ["v0", "v1", "v2"]), listed)
