"""The true images of listed victims."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sapag_fast.audit.truth import Truth, true_labels
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
    truth = Truth(pictures(tmp_path / "t", ["a", "b", "c"]), listed)
    assert shades(truth, listed) == [0, 1, 2]
    assert truth.order.endswith("taken in order: a.png for v0, b.png for v1, c.png for v2")
    assert not Truth(pictures(tmp_path / "n", ["v1", "v0", "v2"]), listed).order
    with pytest.raises(ValueError, match="gives 2 images"):
        Truth(pictures(tmp_path / "u", ["a", "b"]), listed)


def test_an_order_in_which_ten_comes_before_two_is_told(listed, tmp_path):
    truth = Truth(pictures(tmp_path / "t", ["1", "2", "10"]), listed)
    assert shades(truth, listed) == [0, 2, 1]
    assert "1.png for v0, 10.png for v1, 2.png for v2" in truth.order
    assert "by the numbers in their names, 10.png would come elsewhere" in truth.order


def test_truth_is_for_images(model, tmp_path):
    listed = list_victims(stacked(tmp_path, model), model, None, None)
    with pytest.raises(ValueError, match="is not an image"):
        Truth(pictures(tmp_path / "t", ["v0", "v1", "v2"]), listed)


def test_lost_truth_is_that_victims_alone(listed, tmp_path):
    folder = pictures(tmp_path / "t", ["v0", "v2"])
    (tmp_path / "t" / "v0.png").write_bytes(b"half")
    truth = Truth(folder, listed)
    assert truth.faults.keys() == {"v0", "v1"}
    assert "no true image has its name" in truth.faults["v1"]
    assert shades(truth, listed[2:]) == [1]
    for victim in listed[:2]:
        with pytest.raises(ValueError, match="image"):
            truth.of(victim)


def test_names_tell_more_than_the_order(listed, tmp_path):
    """One is missing and another too many: dealt out in order, each would get another's."""
    truth = Truth(pictures(tmp_path / "t", ["more", "v0", "v1"]), listed)
    assert truth.faults.keys() == {"v2"}
    assert shades(truth, listed[:2]) == [1, 2]


def test_truth_of_batches_of_which_one_lacks_an_image(listed, tmp_path):
    pairs = [replace(victim, name=f"{2 * k}+{2 * k + 1}", batch_size=2) for k, victim in enumerate(listed)]
    truth = Truth(pictures(tmp_path / "t", ["0", "1", "2", "4", "5"]), pairs)
    assert truth.faults.keys() == {"2+3"}
    assert [round(float(image.max()) * 255) for image in truth.of(pairs[2])] == [3, 4]


def test_short_names_of_batches_are_not_trusted_where_an_image_lacks(listed, tmp_path):
    names = [f"{'n' * 60}{k}" for k in range(4)]
    named = [replace(listed[0], name=f"{names[0]}+2 more", batch_size=3)]
    whole = Truth(pictures(tmp_path / "t", names[:3]), named)
    assert round(float(whole.of(named[0]).max()) * 255) == 2
    with pytest.raises(ValueError, match="gives 2 images"):
        Truth(pictures(tmp_path / "u", [names[0], names[3]]), named)


def test_truth_that_is_gone_stops_no_audit_that_was_begun(listed, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        Truth([tmp_path / "t"], listed)
    gone = Truth([tmp_path / "t"], listed, begun=True)
    assert gone.faults.keys() == {"v0", "v1", "v2"}
    folder = pictures(tmp_path / "u", ["v0", "v1", "v2"])
    assert shades(Truth([*folder, tmp_path / "t"], listed, begun=True), listed) == [0, 1, 2]


def test_one_victim_that_is_no_image(listed, tmp_path):
    other = [replace(listed[0], input_shape=(4,)), *listed[1:]]
    truth = Truth(pictures(tmp_path / "t", ["v0", "v1", "v2"]), other)
    assert truth.faults.keys() == {"v0"}
    assert "not an image" in truth.faults["v0"]


def test_true_labels(listed):
    pair = replace(listed[0], labels=(3, 1), batch_size=2)
    assert true_labels(pair).tolist() == [3, 1]
    assert true_labels(listed[0]) is None
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        true_labels(replace(pair, batch_size=3))
    with pytest.raises(ValueError, match="int64"):
        true_labels(replace(pair, labels=(1, 2**63)))
