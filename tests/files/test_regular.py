"""Pipes, devices, sockets, links without an end: nothing is opened that could block its reader."""

import os
import socket

import pytest
import torch
from safetensors.torch import save_file

from sapag_fast.files.gradient_file import read_metadata
from sapag_fast.files.regular import regular_file, shown
from sapag_fast.files.tensors import opened_safetensors, read_tensors


def pipe(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))


def loop(path):
    path.symlink_to(path.with_suffix(".other"))
    path.with_suffix(".other").symlink_to(path)


STRANGE = {
    "pipe": (pipe, "is a pipe"),
    "socket": (bound_socket, "is a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "link to a pipe": (
        lambda path: (pipe(path.with_suffix(".p")), path.symlink_to(path.with_suffix(".p"))),
        "pipe",
    ),
    "loop": (loop, "is a link that leads back to itself"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), "does not exist"),
    "nothing": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file(kind, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make, words = STRANGE[kind]
    path = tmp_path / f"g{suffix}"
    make(path)
    for read in (lambda: read_tensors(path), lambda: read_metadata(path), lambda: regular_file(path, "x")):
        with pytest.raises(ValueError, match=words) as caught:
            read()
        assert path.name in str(caught.value)
    with pytest.raises(ValueError, match=words), opened_safetensors(path, "gradient"):
        pass


def test_a_link_to_a_regular_file_is_one(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "g.safetensors")
    (tmp_path / "link.safetensors").symlink_to("g.safetensors")
    assert read_tensors(tmp_path / "link.safetensors")[0]["a"].tolist() == [1, 1]


def test_names_that_are_no_paths(tmp_path):
    with pytest.raises(ValueError, match="cannot be a path"):
        regular_file("a\0b.pt", "gradient file")
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        regular_file(tmp_path / ("a" * 300), "gradient file")


def test_names_that_are_no_text_can_be_shown(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"g\xff\x1b.pt")
    with pytest.raises(ValueError, match=r"g\\xff\\x1b") as caught:
        read_tensors(os.fsdecode(path))
    str(caught.value).encode()
    assert shown("é.pt") == "é.pt"
