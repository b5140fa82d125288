"""What the command line refuses: one message on stderr, status 2, nothing written."""

import pytest
import torch
from command_calls import NETS, QUICK, flat, names_in, python, replaced, run, victim
from safetensors.torch import load_file, save_file


def write_gradient(made, folder, **changes):
    tensors = {**load_file(made / "g0.safetensors"), **changes}
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "bad.safetensors"
    )
    return {"gradient": folder / "bad.safetensors", "input_shape": "1x8x8"}


def write_bytes(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


REFUSED = {
    "missing gradient": (lambda made, new: {"gradient": new / "none.safetensors"}, "does not exist"),
    "corrupt gradient": (
        lambda made, new: {"gradient": write_bytes(new, "g.safetensors", b"\x10")},
        "damaged",
    ),
    "pickled gradient": (
        lambda made, new: {"gradient": write_bytes(new, "g.pt", b"cos\nsystem\n")},
        "damaged",
    ),
    "too few gradients": (
        lambda made, new: write_gradient(made, new, **{"5.bias": None}),
        "no gradient for 5.bias",
    ),
    "too many gradients": (lambda made, new: write_gradient(made, new, more=torch.zeros(1)), "more unknown"),
    "shape of a gradient": (
        lambda made, new: write_gradient(made, new, **{"5.bias": torch.zeros(9)}),
        "5.bias is 9, the model's 10",
    ),
    "non-finite gradient": (
        lambda made, new: write_gradient(made, new, **{"5.bias": torch.full((10,), float("inf"))}),
        "5.bias is not finite",
    ),
    "no input shape": (
        lambda made, new: {**write_gradient(made, new), "input_shape": None},
        "does not say the input shape",
    ),
    "missing weights": (lambda made, new: {"weights": new / "w.pt"}, "does not exist"),
    "wrong weights": (lambda made, new: {"model": f"{NETS}:features"}, "does not fit the model"),
    "model reference": (lambda made, new: {"model": "net.py"}, "expected FILE.py:FUNCTION"),
    "missing model file": (lambda made, new: {"model": f"{new / 'no.py'}:make"}, "does not exist"),
    "missing function": (
        lambda made, new: {"model": f"{NETS}:other"},
        "holds no function 'other'",
    ),
    "failing function": (lambda made, new: {"model": f"{NETS}:fails"}, "RuntimeError: no idea"),
    "stopping function": (lambda made, new: {"model": f"{NETS}:stops"}, "SystemExit"),
    "function of no model": (lambda made, new: {"model": f"{NETS}:number"}, "returned a int"),
    "model without parameters": (lambda made, new: {"model": f"{NETS}:empty"}, "no parameters"),
    "syntax of the model file": (
        lambda made, new: {"model": f"{write_bytes(new, 'bad.py', b'def (')}:make"},
        "SyntaxError",
    ),
    "rejected input shape": (lambda made, new: {"input_shape": "1x9x9"}, "the model rejects"),
    "channels": (lambda made, new: {"input_shape": "3x8x8"}, "the model rejects"),
    "shape syntax": (lambda made, new: {"input_shape": "3x"}, "is not a shape like"),
    "distance": (lambda made, new: {"distance": "l3"}, "l3"),
    "optimizer": (
        lambda made, new: {"optimizer": "sgd"},
        "optimizer must be one of lbfgs, adam, signed-adam, found 'sgd'",
    ),
    "layer pairing": (
        lambda made, new: {"layers": "twins"},
        "layers must be one of modules, shapes, separate",
    ),
    "basis": (lambda made, new: {"basis": "wavelet"}, "basis must be one of pixel, dct"),
    "recipe": (lambda made, new: {"recipe": "cake"}, "recipe must be one of auto, "),
    "device": (lambda made, new: {"device": "abacus"}, "device must be one of this machine, found 'abacus'"),
    "absent device": (
        lambda made, new: {"device": "cuda:99"},
        "device must be one of this machine, found 'cuda:99'",
    ),
    "device without numbers": (
        lambda made, new: {"device": "meta"},
        "device must hold numbers, found 'meta'",
    ),
    "number of labels": (lambda made, new: {"labels": "1,2,3"}, "labels"),
    "label out of range": (lambda made, new: {"labels": "10"}, "label"),
    "label syntax": (lambda made, new: {"labels": "cat"}, "is not infer, joint, numbers like"),
    "no steps": (lambda made, new: {"steps": 0}, "--steps"),
    "number of true images": (lambda made, new: {"truth": made}, "2 images"),
    "missing truth": (lambda made, new: {"truth": new / "no.png"}, "does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_of_recover(made, tmp_path, case):
    change, words = REFUSED[case]
    new = tmp_path / "new"
    new.mkdir()
    done = run(*replaced([*victim(made), *QUICK, "--output", tmp_path / "out"], **change(made, new)))
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_existing_output_is_kept_unless_told(made, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    refused = run(*victim(made), *QUICK, "--output", tmp_path)
    assert refused.exit_code == 2
    assert "holds files already" in flat(refused.stderr)
    assert names_in(tmp_path) == ["mine.txt"]
    assert run(*victim(made), *QUICK, "--output", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert run(*victim(made), *QUICK, "--output", tmp_path / "mine.txt").exit_code == 2


CAPTURE_REFUSED = {
    "missing image": ({"images": "none.png"}, "does not exist"),
    "shape": ({"input_shape": "1x9x9"}, "the model rejects"),
    "no image shape": ({"input_shape": "64"}, "image files give"),
    "number of labels": ({"labels": "1,2"}, "labels: expected 1, one for each image, found 2"),
    "label": ({"labels": "10"}, "labels: expected 0..9, found 10"),
    "suffix": ({"gradient": "g.npy"}, ".safetensors"),
    "folder": ({"gradient": "no/such/g.safetensors"}, "does not exist"),
    "logits": ({"model": "features"}, "expected logits"),
    "failing model": ({"model": "fails"}, "no idea"),
}


@pytest.mark.parametrize("case", CAPTURE_REFUSED)
def test_refusals_of_capture(made, tmp_path, monkeypatch, case):
    change, words = CAPTURE_REFUSED[case]
    monkeypatch.chdir(tmp_path)
    change = {**change, "model": f"{NETS}:{change.get('model', 'make')}"}
    arguments = [
        "capture",
        "--images",
        made / "0.png",
        "--input-shape",
        "1x8x8",
        "--gradient",
        "g.safetensors",
    ]
    done = run(*replaced([*arguments, "--save-weights", "w.safetensors"], **change))
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert names_in(tmp_path) == []


def test_capture_replaces_no_file_unless_told(made, tmp_path):
    arguments = [
        "capture",
        "--model",
        f"{NETS}:make",
        "--images",
        made / "0.png",
        "--input-shape",
        "1x8x8",
    ]
    arguments += ["--gradient", tmp_path / "g.safetensors"]
    assert run(*arguments).exit_code == 0
    before = (tmp_path / "g.safetensors").read_bytes()
    refused = run(*arguments, "--seed", 1)
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert (tmp_path / "g.safetensors").read_bytes() == before
    assert run(*arguments, "--seed", 1, "--overwrite").exit_code == 0
    assert (tmp_path / "g.safetensors").read_bytes() != before


def test_module_run_reports_an_error(tmp_path):
    process = python("recover", "--model", "none.py:make", "--gradient", "g.pt", "--output", tmp_path / "o")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output == ""
    assert errors.count("\n") == 1
    assert "none.py" in errors
