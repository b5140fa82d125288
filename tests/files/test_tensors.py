"""Gradient and weight files: round trips, refusals, and writes that leave nothing half done."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sapag_fast.files import tensors as files
from sapag_fast.files.gradient_file import read_gradient


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 4))


def gradients_of(model):
    return {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_with_metadata(tmp_path):
    tensors = {"a": torch.randn(2, 3).T, "b": torch.tensor(1.5), "c": torch.zeros(0)}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"loss": "cross_entropy"})
    read, metadata = files.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"loss": "cross_entropy"}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert names_in(tmp_path) == ["t.safetensors"]


def test_tied_tensors_are_written(tmp_path):
    tied = torch.randn(3)
    files.write_tensors(tmp_path / "t.safetensors", {"a": tied, "b": tied})
    assert torch.equal(load_file(tmp_path / "t.safetensors")["b"], tied)


def test_gradient_comes_in_the_order_of_the_parameters(tmp_path):
    model = small_model()
    gradients = gradients_of(model)
    save_file(dict(reversed(gradients.items())), tmp_path / "g.safetensors")
    read, _ = read_gradient(model, tmp_path / "g.safetensors")
    assert all(
        torch.equal(ours, gradients[name])
        for ours, (name, _) in zip(read, model.named_parameters(), strict=True)
    )


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("as_list", [False, True])
def test_gradient_in_torch_format(tmp_path, suffix, as_list):
    model = small_model()
    gradients = gradients_of(model)
    torch.save(list(gradients.values()) if as_list else gradients, tmp_path / f"g{suffix}")
    read, metadata = read_gradient(model, tmp_path / f"g{suffix}")
    assert metadata == {}
    assert all(torch.equal(a, b) for a, b in zip(read, gradients.values(), strict=True))


def test_weights_round_trip_with_buffers(tmp_path):
    model = small_model()
    model[1].running_mean.fill_(3.0)
    files.write_tensors(tmp_path / "w.safetensors", model.state_dict())
    other = small_model()
    files.load_weights(other, tmp_path / "w.safetensors")
    assert float(other[1].running_mean[0]) == 3.0


def changed(gradients, **changes):
    return {name: tensor for name, tensor in {**gradients, **changes}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"0.bias": None}, r"no gradient for 0\.bias"),
        ({"extra": torch.zeros(1)}, "extra unknown to the model"),
        ({"0.bias": torch.zeros(3)}, r"0\.bias is 3, the model's 2"),
        ({"0.bias": torch.zeros(2, dtype=torch.int64)}, "not floating point"),
        ({"0.bias": torch.tensor([1.0, float("nan")])}, r"0\.bias is not finite"),
    ],
)
def test_gradient_that_does_not_fit(tmp_path, changes, words):
    model = small_model()
    save_file(changed(gradients_of(model), **changes), tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=words) as caught:
        read_gradient(model, tmp_path / "g.safetensors")
    assert "g.safetensors" in str(caught.value)


def test_wrong_number_in_a_list(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"must hold 6 tensors, one for each trainable .*, found 1"):
        read_gradient(small_model(), tmp_path / "g.pt")


def test_weights_that_do_not_fit(tmp_path):
    save_file({"0.weight": torch.zeros(2, 1, 5, 5), "other": torch.zeros(1)}, tmp_path / "w.safetensors")
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"w\.safetensors.*no weight for .*other unknown.*0\.weight is 2x1x5x5"
    ):
        files.load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_code_in_a_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Exploit()}, "g.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Exploit()))
    for name in ("g.pt", "raw.pt"):
        with pytest.raises(ValueError, match=rf"{name}: damaged, or holds Python objects"):
            files.read_tensors(name)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("name", ["g.safetensors", "g.pt"])
@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_file(tmp_path, name, keep):
    if name.endswith(".pt"):
        torch.save({"a": torch.zeros(100)}, tmp_path / name)
    else:
        save_file({"a": torch.zeros(100)}, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:keep])
    with pytest.raises(ValueError, match=rf"{name}: damaged"):
        files.read_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [3, {"a": 3}, {1: torch.zeros(1)}, ["a"]])
def test_other_content_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "g.pt")
    with pytest.raises(ValueError, match="expected a dictionary or a list of tensors"):
        files.read_tensors(tmp_path / "g.pt")


def test_missing_files_folders_and_suffixes(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for name, words in (
        ("no.pt", "does not exist"),
        ("folder.pt", "is a folder"),
        ("g.npy", "expected .safetensors"),
    ):
        with pytest.raises(ValueError, match=words):
            files.read_tensors(tmp_path / name)


def test_write_follows_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        files.write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(1)})
    finally:
        os.umask(previous)
    assert (tmp_path / "t.safetensors").stat().st_mode & 0o777 == 0o640


def test_write_into_a_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"t\.safetensors: cannot be written"):
        files.write_tensors(tmp_path / "none" / "t.safetensors", {"a": torch.zeros(1)})


def test_tensors_that_are_read_lie_as_torch_lays_them(tmp_path):
    """Bits of matrix products depend on it."""
    tensors = {name: torch.rand(size) for name, size in (("a", 3), ("b", 17), ("c", 5), ("d", 64))}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"odd": "x"})
    found, _ = files.read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert {tensor.data_ptr() % 64 for tensor in found.values()} == {0}
