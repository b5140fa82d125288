"""Files that are written whole or not at all."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from sapag_fast.files import output


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def synced(monkeypatch):
    """What reached the disk, and the replacing of one file by another, in order."""
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("folder" if os.path.isdir(path) else "file")
        sync(descriptor)

    def move(source, target):
        events.append("replaced")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    return events


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half_written():
        with output.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_file_is_on_the_disk_before_it_replaces_and_the_folder_after(tmp_path, synced):
    with output.replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert synced == ["file", "replaced", "folder"]
    synced.clear()
    with output.replacing(tmp_path / "file", durable=False) as temporary:
        temporary.write_text("newer")
    assert synced == ["replaced"]
    assert (tmp_path / "file").read_text() == "newer"


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folder_that_cannot_be_synced(tmp_path, monkeypatch, number, raised):
    sync = os.fsync

    def refused(descriptor):
        if os.path.isdir(os.readlink(f"/proc/self/fd/{descriptor}")):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)

    def write():
        with output.replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")

    if raised:
        with pytest.raises(OSError, match="Input/output error"):
            write()
    else:
        write()
    assert names_in(tmp_path) == ["file"]


def test_file_that_cannot_reach_the_disk_replaces_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    def write():
        with output.replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert (tmp_path / "file").read_text() == "old"
    assert names_in(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from sapag_fast.files.output import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_what_a_killed_write_leaves_is_swept(tmp_path):
    (tmp_path / "file").write_text("old")
    home = os.fspath(output.Path(output.__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "file", home], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 2
    output.sweep(tmp_path, {"file"})
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_sweep_leaves_what_others_called_so(tmp_path):
    ours = [".a.json.ab12_xyz.part", ".b\n.json.abcdefgh.part"]
    others = [
        "a.json",
        ".c.json.ab12_xyz.part",
        ".a.json.part",
        ".a.json.short.part",
        "x.a.json.abcdefgh.part",
    ]
    for name in (*ours, *others):
        (tmp_path / name).touch()
    (tmp_path / ".a.json.folderly.part").mkdir()
    (tmp_path / ".a.json.linklink.part").symlink_to("a.json")
    output.sweep(tmp_path, {"a.json", "b\n.json"})
    kept = [*others, ".a.json.folderly.part", ".a.json.linklink.part"]
    assert names_in(tmp_path) == sorted(kept)
    output.sweep(tmp_path / "none", {"a.json"})
