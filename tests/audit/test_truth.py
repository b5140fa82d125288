"""The true images of listed victims."""

import json
import re
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
    words = "by the numbers in their names, 2.png (not 10.png) would be for v1: check the pairs"
    assert truth.order.endswith(words)


def called(listed, names):
    return [replace(listed[0], name=name) for name in names]


TWELVE = [str(k) for k in range(1, 13)]
ORDERS = {
    "victims": (["t01", "t02", "t10"], ["v1", "v10", "v2"], "t10.png (not t02.png) would be for v10"),
    "images": (["t1", "t2", "t10"], ["v01", "v02", "v10"], "t2.png (not t10.png) would be for v02"),
    "both alike": (["t1", "t2", "t10"], ["v1", "v10", "v2"], ""),
    "both, twelve": (TWELVE, sorted(f"v{k}" for k in TWELVE), ""),
    "padded": (["t01", "t02", "t10"], ["v001", "v002", "v010"], ""),
    "both otherwise": (["1", "2", "10"], ["v3", "v20", "v100"], "2.png (not 10.png) would be for v20"),
    "no numbers": (["a", "b"], ["dog", "cat"], ""),
    "words before numbers": (["a2", "b1"], ["v1", "v2"], ""),
    "a number without end": (["a", "b"], ["v" + "9" * 5000, "v" + "8" * 5000], "b.png (not a.png) would be"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_compared_as_permutations(name, listed, tmp_path):
    files, victims, words = ORDERS[name]
    order = Truth(pictures(tmp_path / "t", files), called(listed, victims)).order
    assert "taken in order" in order
    assert ("check the pairs" in order) == bool(words)
    assert words in order


def test_orders_of_batches_and_of_several_folders(listed, tmp_path):
    folders = pictures(tmp_path / "a", ["1", "2", "10"]) + pictures(tmp_path / "b", ["1", "2", "10"])
    pairs = [replace(victim, batch_size=2) for victim in called(listed, ["v1", "v2", "v3"])]
    assert "by the numbers in their names, 2.png (not 10.png) would be for v1" in Truth(folders, pairs).order
    names = ["va1", "va10", "va2", "vb1", "vb10", "vb2"]
    assert "check the pairs" not in Truth(folders, called(listed, names)).order


def test_images_of_one_name_are_nobody_s(listed, tmp_path):
    folder = pictures(tmp_path / "t", ["v0", "v1", "v2"])
    Image.new("RGB", (2, 2), (9, 9, 9)).save(tmp_path / "t" / "v1.webp")
    truth = Truth(folder, listed)
    assert truth.faults.keys() == {"v1"}
    assert re.search(r"several true images have one name: \S*v1.png, \S*v1.webp", truth.faults["v1"])
    assert shades(truth, [listed[0], listed[2]]) == [0, 2]
    again = Truth(folder, listed, begun=True)
    assert again.faults == truth.faults


def test_images_of_one_name_are_not_dealt_out_in_order(listed, tmp_path):
    """As many as victims, and yet the order tells nothing."""
    folder = pictures(tmp_path / "t", ["a", "v0"])
    Image.new("L", (2, 2), 9).save(tmp_path / "t" / "v0.bmp")
    with pytest.raises(ValueError, match="no name tells which image is whose; of 'v0', several true images"):
        Truth(folder, listed)
    assert Truth(folder, listed, begun=True).faults.keys() == {"v0", "v1", "v2"}


def test_two_folders_with_the_same_names(listed, tmp_path):
    first = pictures(tmp_path / "a", ["v0", "v1", "v2"])
    other = pictures(tmp_path / "b", ["more", "v0", "v1", "v2"])
    with pytest.raises(ValueError, match="several true images have one name"):
        Truth(first + other, listed)
    assert shades(Truth(first * 2, listed), listed) == [0, 1, 2]  # the same images
    pairs = [replace(listed[0], name=name, batch_size=2) for name in ("v0+v1", "v2+w")]
    mixed = pictures(tmp_path / "c", ["v0", "v1", "v2", "w"]) + pictures(tmp_path / "d", ["v1", "x"])
    truth = Truth(mixed, pairs)
    assert truth.faults.keys() == {"v0+v1"}
    assert round(float(truth.of(pairs[1])[1].max()) * 255) == 3


def test_batches_that_are_the_victims_share_names_as_they_did_when_captured(listed, tmp_path):
    folders = pictures(tmp_path / "a", ["v0", "v1"]) + pictures(tmp_path / "b", ["v1", "v2"])
    pairs = [replace(listed[0], name=name, batch_size=2) for name in ("v1+v2", "v0+v1")]
    truth = Truth(folders, pairs)
    assert not truth.faults
    assert not truth.order
    assert [round(float(image.max()) * 255) for image in truth.of(pairs[0])] == [0, 1]


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
