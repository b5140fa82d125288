"""A run's state on disk."""

import pytest
import torch

from sapag_fast.search.checkpoint import Checkpoint, OtherRunError


def test_it_is_read_as_it_was_written(tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "this")
    assert checkpoint.read() is None
    checkpoint.write({"a": torch.arange(3)})
    assert checkpoint.read()["a"].tolist() == [0, 1, 2]
    with pytest.raises(OtherRunError, match="belongs to a run with other arguments"):
        Checkpoint(tmp_path / "c.safetensors", "other").read()
    checkpoint.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"half", b"\xff" * 100])
def test_damaged_one_is_said_and_begun_anew(tmp_path, content):
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"c\.safetensors: damaged: .*the run begins anew"):
        assert Checkpoint(path, "this").read() is None
    Checkpoint(path, "this").write({"a": torch.ones(1)})
    assert Checkpoint(path, "this").read() is not None


def test_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(ValueError, match="folder"):
        Checkpoint(tmp_path / "c.safetensors", "this").read()


def test_what_a_killed_write_left_is_swept(tmp_path):
    (tmp_path / ".c.safetensors.ab12cd34.part").touch()
    (tmp_path / ".d.safetensors.ab12cd34.part").touch()
    Checkpoint(tmp_path / "c.safetensors", "this")
    assert [path.name for path in tmp_path.iterdir()] == [".d.safetensors.ab12cd34.part"]
