"""Listing and reading the victims of gradient files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sapag_fast.files.gradient_file import batch_name
from sapag_fast.files.victims import list_victims


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def gradients(model, victims):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(victims, *parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
    }


def stacked(folder, model, **metadata):
    path = folder / "many.safetensors"
    described = {"victims": json.dumps(["v0", "v1", "v2"]), "input_shape": "4", "batch_size": "1"}
    save_file(gradients(model, 3), path, described | metadata)
    return path


def test_rows_of_a_stacked_file(model, tmp_path):
    victims = list_victims(stacked(tmp_path, model, labels="[[1], [0], [1]]"), model, None, None)
    assert [victim.name for victim in victims] == ["v0", "v1", "v2"]
    assert [victim.labels for victim in victims] == [(1,), (0,), (1,)]
    assert {victim.input_shape for victim in victims} == {(4,)}
    expected = gradients(model, 3)
    for row, victim in enumerate(victims):
        found = victim.gradient(model)
        assert all(torch.equal(g, e[row]) for g, e in zip(found, expected.values(), strict=True))


def test_one_bad_row_spoils_no_other(model, tmp_path):
    tensors = gradients(model, 2)
    tensors["2.bias"][1, 0] = torch.nan
    save_file(tensors, tmp_path / "g.safetensors", {"victims": '["a", "b"]', "input_shape": "4"})
    good, bad = list_victims(tmp_path / "g.safetensors", model, None, None)
    assert len(good.gradient(model)) == 4
    with pytest.raises(ValueError, match=r"victim 1.*2\.bias is not finite"):
        bad.gradient(model)


def test_options_come_before_the_metadata(model, tmp_path):
    victims = list_victims(stacked(tmp_path, model), model, (2, 2), 5)
    assert {(victim.input_shape, victim.batch_size) for victim in victims} == {((2, 2), 5)}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"victims": "v0,v1,v2"}, "not a JSON list"),
        ({"victims": '["a", "a", "b"]'}, "different names"),
        ({"victims": '["a", 2, "b"]'}, "different names"),
        ({"victims": '["a", "b"]'}, "expected 2 rows"),
        ({"labels": "[[1]]"}, "labels of 1 victims, names of 3"),
    ],
)
def test_stacked_files_that_do_not_fit(model, tmp_path, metadata, words):
    with pytest.raises(ValueError, match=words):
        list_victims(stacked(tmp_path, model, **metadata), model, None, None)


def test_stacked_file_of_another_model(model, tmp_path):
    with pytest.raises(ValueError, match="does not fit the model"):
        list_victims(stacked(tmp_path, model), nn.Linear(4, 3), None, None)


def test_folder_lists_what_cannot_be_read(model, tmp_path):
    row = {name: tensor[0] for name, tensor in gradients(model, 1).items()}
    save_file(row, tmp_path / "b.safetensors", {"input_shape": "4", "labels": "1"})
    (tmp_path / "a.safetensors").write_bytes(b"junk")
    torch.save(row, tmp_path / "c.pt")
    save_file(row, tmp_path / "d.safetensors", {"input_shape": "0x4"})
    (tmp_path / "notes.txt").touch()
    listed = {victim.name: victim for victim in list_victims(tmp_path, model, None, None)}
    assert list(listed) == ["a", "b", "c", "d"]
    assert "damaged" in listed["a"].fault
    assert listed["b"].fault is None
    assert "--input-shape" in listed["c"].fault
    assert "--input-shape" in listed["d"].fault


def test_equal_stems_keep_their_suffixes(model, tmp_path):
    row = {name: tensor[0] for name, tensor in gradients(model, 1).items()}
    save_file(row, tmp_path / "a.safetensors", {"input_shape": "4"})
    torch.save(row, tmp_path / "a.pt")
    names = [victim.name for victim in list_victims(tmp_path, model, None, None)]
    assert names == ["a.pt", "a.safetensors"]


def test_nothing_to_list(model, tmp_path):
    with pytest.raises(ValueError, match="holds no gradient file"):
        list_victims(tmp_path, model, None, None)
    (tmp_path / "g.npy").touch()
    with pytest.raises(ValueError, match=r"expected \.bin"):
        list_victims(tmp_path / "g.npy", model, None, None)


def test_long_batches_have_short_names(tmp_path):
    assert batch_name([tmp_path / "a.png", tmp_path / "b.png"]) == "a+b"
    assert batch_name([tmp_path / f"image{k:03d}.png" for k in range(64)]) == "image000+63 more"
