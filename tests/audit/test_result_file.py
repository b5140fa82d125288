"""The file of a result: what it is held to when it is read."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.result import Result
from sapag_fast.audit.result_file import name_in, read_result, write_result

DETAILS = {
    "certificate": {"status": "unknown", "reason": "why"},
    "distance": 0.25,
    "evaluations": 5,
    "gradient_sha256": "ab",
    "mode": "explicit",
    "recipe": {"steps": 5},
    "restarts": 1,
    "seed": 0,
    "status": "finished",
    "winner": 0,
}
SHAPE = (2, 1, 3, 3)
MEASURED = dict.fromkeys(("family", "threshold", "precision", "interval", "below", "measured_on"))


def result(**details):
    torch.manual_seed(0)
    return Result(torch.rand(SHAPE), torch.tensor([3, 1]), torch.rand(5), {**DETAILS, **details})


def written_before(path, tensors=None, details=None):
    """As results were written that have no SHA-256."""
    words = json.dumps({"name": "v", **DETAILS, **(details or {})})
    save_file({**result().tensors, **(tensors or {})}, path, {"sapag_fast": words})
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "v.safetensors"


@pytest.mark.parametrize("details", [{}, {"distance": None, "status": "non-finite", "certificate": None}])
def test_it_is_read_as_it_was_written(path, details):
    write_result(path, "v", result(**details))
    content = path.read_bytes()
    read = read_result(path, "v")
    assert all(torch.equal(read.tensors[name], part) for name, part in result().tensors.items())
    assert read.details == {"name": "v", **DETAILS, **details}
    assert name_in(path) == "v"
    write_result(path, "v", read)
    assert path.read_bytes() == content
    with pytest.raises(ValueError, match="not this victim's result"):
        read_result(path, "w")


def test_no_byte_changes_unseen(path):
    write_result(path, "v", result())
    whole = path.read_bytes()
    for at in range(8, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"v\.safetensors"):
            read_result(path, "v")


def test_other_content_of_the_right_form(path):
    write_result(path, "v", result())
    tensors = load_file(path)
    words = json.dumps({"name": "v", **DETAILS, "sha256": "0" * 64})
    save_file(tensors, path, {"sapag_fast": words})
    with pytest.raises(ValueError, match="its SHA-256 is another"):
        read_result(path, "v")


CERTIFIED = {"status": "certified", "reason": "", **MEASURED}


@pytest.mark.parametrize("details", [{}, {"certificate": CERTIFIED}, {"distance": 3}, {"distance": None}])
def test_results_without_a_sha256_stay_valid(path, details):
    read = read_result(written_before(path, details=details), "v", SHAPE)
    assert torch.equal(read.inputs, result().inputs)


DAMAGED = {
    "another shape": ({"inputs": torch.zeros(2, 1, 3, 4)}, {}, "its inputs"),
    "another number": ({"inputs": torch.zeros(1, 1, 3, 3)}, {}, "its inputs and labels"),
    "no dimension": ({"inputs": torch.zeros(())}, {}, "its inputs and labels"),
    "integers": ({"inputs": torch.zeros(SHAPE, dtype=torch.int64)}, {}, "its inputs"),
    "short floats": ({"inputs": torch.zeros(SHAPE).to(torch.float8_e5m2)}, {}, "its inputs"),
    "nan": ({"inputs": torch.full(SHAPE, torch.nan)}, {}, "its inputs: not finite"),
    "float labels": ({"labels": torch.zeros(2)}, {}, "its labels"),
    "no labels": ({"labels": torch.zeros(0, dtype=torch.int64)}, {}, "its labels"),
    "2-d history": ({"history": torch.zeros(2, 3)}, {}, "its history"),
    "history of integers": ({"history": torch.zeros(3, dtype=torch.int32)}, {}, "its history"),
    "another tensor": ({"more": torch.zeros(1)}, {}, "not this victim's"),
    "distance in words": ({}, {"distance": "abc"}, "its distance"),
    "distance nan": ({}, {"distance": float("nan")}, "its distance"),
    "distance true": ({}, {"distance": True}, "its distance"),
    "evaluations in words": ({}, {"evaluations": "x"}, "its evaluations"),
    "endless evaluations": ({}, {"evaluations": 10**400}, "its evaluations"),
    "certificate of number": ({}, {"certificate": 5}, "its certificate"),
    "certificate of nothing": ({}, {"certificate": {"status": "certified"}}, "its certificate"),
    "status of mapping": ({}, {"status": {"a": 1}, "certificate": 5}, "its certificate and status"),
    "gradient of number": ({}, {"gradient_sha256": 5}, "its gradient_sha256"),
    "another detail": ({}, {"sha257": "0" * 64}, "unknown details sha257"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_results_without_a_sha256(path, name):
    tensors, details, words = DAMAGED[name]
    with pytest.raises(ValueError, match=rf"v\.safetensors: damaged: .*{words}"):
        read_result(written_before(path, tensors, details), "v", SHAPE)


def test_what_a_folder_says_of_it(tmp_path):
    folder = AuditFolder(tmp_path, overwrite=False)
    path = folder.result_path("v")
    path.parent.mkdir()
    assert (folder.has("v"), folder.read("v"), folder.damage("v")) == (False, None, "")
    folder.write("v", result())
    assert (folder.has("v", SHAPE), folder.damage("v", SHAPE)) == (True, "")
    kept = os.stat(path).st_mtime_ns, path.read_bytes()
    folder.write("v", result(distance=0.5))  # it is there
    assert (os.stat(path).st_mtime_ns, path.read_bytes()) == kept
    path.write_bytes(kept[1][:-1] + b"\0")
    assert (folder.has("v"), folder.read("v")) == (False, None)
    assert "its SHA-256 is another" in folder.damage("v")
    folder.write("v", result())
    assert path.read_bytes() == kept[1]
    written_before(path, {"inputs": torch.zeros(2, 1, 3, 4)})
    assert "its inputs" in folder.damage("v", SHAPE)
    folder.write("v", result())
    assert path.read_bytes() == kept[1]
