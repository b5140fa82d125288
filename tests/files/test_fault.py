"""Why a victim is left out."""

import pytest

from sapag_fast.files.fault import fault_of, guarded
from sapag_fast.files.output import WriteError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("file x: damaged"), "file x: damaged"),
        (WriteError("full"), "full"),
        (IndexError("out of range"), "IndexError: out of range"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec"),
        (MemoryError(), "MemoryError"),
        (ValueError(), "ValueError"),
        (ValueError("a\n\tb \udcff"), "a b \\udcff"),
    ],
)
def test_words(error, words):
    assert fault_of(error).startswith(words)


def test_messages_are_short():
    assert len(fault_of(ValueError("x" * 10**6))) == 500


def test_ctrl_c_is_no_fault():
    faults = {}
    with guarded("a", faults):
        raise KeyError("k")
    assert faults == {"a": "KeyError: 'k'"}
    with pytest.raises(KeyboardInterrupt), guarded("b", faults):
        raise KeyboardInterrupt
    assert "b" not in faults
