"""What a gradient file claims of itself: it makes sense and is plausible, or the victim has a fault."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sapag_fast.files.gradient_file import read_gradient
from sapag_fast.files.victims import list_victims


@pytest.fixture
def model():
    return nn.Linear(4, 3)


def listed(folder, model, metadata, input_shape=None, batch_size=None):
    tensors = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "g.safetensors", metadata)
    (victim,) = list_victims(folder, model, input_shape, batch_size)
    return victim


SHAPE = {"input_shape": "4"}
FAULTS = {
    "a bomb of inputs": (SHAPE | {"batch_size": "20000000"}, "80000000 and 20000000; pass --input-shape"),
    "a bomb of pixels": ({"input_shape": "1x40000x40000"}, r"input_shape 1x40000x40000 .*found 1600000000"),
    "many small inputs": ({"input_shape": "1", "batch_size": "1025"}, "at most .* 1024 inputs .* and 1025;"),
    "too many sides": ({"input_shape": "x".join("1" * 17)}, "at most 16 numbers, found 17; pass --input-sh"),
    "millions of sides": ({"input_shape": "1x" * 10**6 + "8"}, "at most 16 numbers, found 1000001"),
    "millions of sizes": (SHAPE | {"batch_size": "1," * 10**6}, "one number, found 1000001"),
    "zero": (SHAPE | {"batch_size": "0"}, "its batch_size: expected whole numbers such as 1, found '0'"),
    "negative": (SHAPE | {"batch_size": "-5"}, "found '-5'; pass --batch-size"),
    "exponent": (SHAPE | {"batch_size": "1e3"}, "found '1e3'"),
    "two": (SHAPE | {"batch_size": "1,2"}, "its batch_size: expected one number, found 2"),
    "digits of another script": (SHAPE | {"batch_size": "٣"}, "its batch_size"),
    "beyond int64": (SHAPE | {"batch_size": "9" * 30}, "its batch_size: expected whole numbers"),
    "thousands of digits": (SHAPE | {"batch_size": "9" * 5000}, "its batch_size"),
    "an empty side": ({"input_shape": "0x4"}, "its input_shape: .* found '0x4'; pass --input-shape"),
    "sides that are missing": ({"input_shape": "4x"}, "its input_shape"),
    "a word": ({"input_shape": "big\x1b[2J"}, r"found 'big\\x1b\[2J'"),
    "no shape": ({"batch_size": "1"}, "does not say the input shape"),
    "labels beyond int64": (SHAPE | {"labels": "99999999999999999999"}, "its labels: expected whole numbers"),
    "labels of float": (SHAPE | {"labels": "1.0"}, "its labels: .* found '1.0'"),
    "labels of bool": (SHAPE | {"labels": "True"}, "its labels"),
    "negative labels": (SHAPE | {"labels": "-1"}, "its labels"),
    "labels of more inputs": (
        SHAPE | {"labels": "1,2"},
        "its labels: expected 1 for its batch_size, found 2",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_claims_that_make_no_sense(name, model, tmp_path):
    metadata, words = FAULTS[name]
    victim = listed(tmp_path, model, metadata)
    with pytest.raises(ValueError, match=words):
        raise ValueError(victim.fault)
    victim.fault.encode()


def test_what_options_say_is_not_looked_up(model, tmp_path):
    odd = {"input_shape": "none", "batch_size": "20000000"}
    assert listed(tmp_path, model, odd, (4,), 3).fault is None
    huge = listed(tmp_path, model, {}, (3, 4000, 4000))
    assert huge.fault is None  # the user's own word
    kept = listed(tmp_path, model, SHAPE | {"labels": "1,2"}, None, 3)
    assert (kept.fault, kept.labels, kept.batch_size) == (None, (1, 2), 3)


def test_a_larger_gradient_may_stand_for_more(tmp_path):
    model = nn.Linear(400, 300)
    victim = listed(tmp_path, model, {"input_shape": "3x224x224", "batch_size": "128"})
    assert victim.fault is None
    assert listed(tmp_path, model, {"input_shape": "4", "batch_size": "60000"}).fault is None
    assert "60175 inputs" in listed(tmp_path, model, {"input_shape": "4", "batch_size": "65537"}).fault


def test_a_batch_that_the_user_gives_is_as_large_as_it_is(model, tmp_path):
    told = {"input_shape": "4", "batch_size": "60000"}
    assert "batch_size 60000: expected at most" in listed(tmp_path, model, told).fault
    assert "1024 inputs" in listed(tmp_path, model, told, (4,)).fault
    assert listed(tmp_path, model, told, None, 60000).fault is None
    assert "numbers" in listed(tmp_path, model, {"input_shape": "1x40000x40000"}, None, 60000).fault
    assert listed(tmp_path, model, {"input_shape": "x".join("1" * 16), "batch_size": "1024"}).fault is None


DEEP = "[" * 100_000
MANY = {
    "deep names": ({"victims": DEEP}, "its victims are not a JSON list"),
    "deep labels": ({"labels": DEEP}, "its labels are not a JSON list"),
    "labels of another kind": ({"labels": "3"}, "its labels are not a JSON list"),
    "no names": ({"victims": "[]"}, "different names"),
    "names in a dictionary": ({"victims": '{"a": 1}'}, "its victims are not a JSON list"),
    "infinite": ({"labels": "[Infinity, 1]"}, None),
}


@pytest.mark.parametrize("name", MANY)
def test_stacked_files(name, model, tmp_path):
    metadata, words = MANY[name]
    tensors = {name: torch.ones(2, *parameter.shape) for name, parameter in model.named_parameters()}
    path = tmp_path / "g.safetensors"
    save_file(tensors, path, {"victims": '["a", "b"]'} | SHAPE | metadata)
    if words is None:
        first, second = list_victims(path, model, None, None)
        assert "its labels: expected whole numbers such as 3,7, found 'float'" in first.fault
        assert second.labels == (1,)
        return
    with pytest.raises(ValueError, match=words):
        list_victims(path, model, None, None)


@pytest.mark.parametrize(
    "labels", [[[1, True], [2, 3]], [[1, [2]], [2, 3]], [["1", "0"], [2, 3]], [[2**63, 1], [2, 3]]]
)
def test_odd_labels_of_one_row_spoil_no_other(labels, model, tmp_path):
    tensors = {name: torch.ones(2, *parameter.shape) for name, parameter in model.named_parameters()}
    told = {"victims": '["a", "b"]', "labels": json.dumps(labels), "batch_size": "2"} | SHAPE
    save_file(tensors, tmp_path / "g.safetensors", told)
    first, second = list_victims(tmp_path / "g.safetensors", model, None, None)
    assert "its labels" in first.fault
    assert (second.fault, second.labels) == (None, (2, 3))


def test_deep_names_of_what_was_withheld(model, tmp_path):
    tensors = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    for withheld in (DEEP, "3", "[3]"):
        save_file(tensors, tmp_path / "g.safetensors", {"withheld": withheld})
        with pytest.raises(ValueError, match=r"g\.safetensors: its withheld are not a JSON list"):
            read_gradient(model, tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int64, torch.bool]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_gradients_of_other_types(dtype, suffix, model, tmp_path):
    tensors = {name: torch.ones_like(parameter).to(dtype) for name, parameter in model.named_parameters()}
    (save_file if suffix == ".safetensors" else torch.save)(tensors, tmp_path / f"g{suffix}")
    with pytest.raises(ValueError, match=rf"g\{suffix}: weight is {dtype}, not floating point"):
        read_gradient(model, tmp_path / f"g{suffix}")
