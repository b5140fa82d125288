"""Pipes and devices in place of an audit's own files end nothing and hang nothing."""

import os

import pytest

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.sessions import Sessions


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero", "/dev/null"])
def test_sessions_that_are_a_device_are_lost_and_no_more(tmp_path, device):
    path = tmp_path / "sessions.json"
    path.symlink_to(device)
    sessions = Sessions(path)
    assert "is a device" in sessions.lost
    assert len(sessions) == 1
    assert path.is_file()


def test_a_pipe_as_lock_is_refused(tmp_path):
    os.mkfifo(tmp_path / ".audit.lock")
    with pytest.raises(ValueError, match="is a pipe"):
        AuditFolder(tmp_path, overwrite=False).open(None)
