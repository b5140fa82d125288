"""The suite's hostile files: that it sees a reader that answers wrongly, and does not what it should not."""

import json
import pickle

import numpy as np
import pytest

from benchmarks.reliability.files import files
from benchmarks.reliability.files.damage import BYTES, INTACT, PLACES, damage
from benchmarks.reliability.files.sample import Sample


def answers(read, tmp_path, monkeypatch, intact=False):
    """What the part says of a reader of one's own."""

    def make(rng, folder):
        path = folder / "file.txt"
        path.write_text("valid")
        return Sample(path, lambda: read(path), lambda value: None if value == "valid" else "another text")

    monkeypatch.setattr(files, "READERS", {"own": make})
    monkeypatch.setattr(files, "damage", lambda rng, path: INTACT if intact else "bits flipped")
    return files.Files().check(0, 0)


def test_a_reader_that_does_as_it_should(tmp_path, monkeypatch):
    def refuses(path):
        raise ValueError(f"file {path}: damaged")

    assert answers(refuses, tmp_path, monkeypatch).faults == []
    assert answers(lambda path: path.read_text(), tmp_path, monkeypatch, intact=True).faults == []


def raises_another(path):
    raise KeyError(path)


def names_no_file(path):
    raise ValueError("damaged")


def passes_on(path):
    json.loads("{")


def fills_the_memory(path):
    return np.ones(1 << 29)


def runs_code(path):
    (path.parent / "canary").touch()
    raise ValueError(f"{path}: damaged")


def never_ends(path):
    while True:
        pass


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (raises_another, "KeyError"),
        (names_no_file, "does not name the file"),
        (passes_on, "JSONDecodeError"),
        (fills_the_memory, "took more than"),
        (runs_code, "code in the file was run"),
        (never_ends, "no end within"),
    ],
)
def test_a_reader_that_does_not_is_noticed(reader, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SECONDS", 1)
    (found,) = answers(reader, tmp_path, monkeypatch).faults
    assert fault in found


def test_wrong_values_and_refusals_of_intact_files_are_noticed(tmp_path, monkeypatch):
    assert answers(lambda path: "else", tmp_path, monkeypatch, intact=True).faults
    assert answers(names_no_file, tmp_path, monkeypatch, intact=True).faults


def test_every_kind_of_damage_is_done(tmp_path):
    done = set()
    for number in range(300):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes(range(256)))
        done.add(damage(np.random.default_rng(number), path))
    assert done == {INTACT, *BYTES, *PLACES}


def test_the_pickle_that_runs_code_does(tmp_path):
    from benchmarks.reliability.files.forged import pickled_code

    pickle.loads(pickled_code(tmp_path / "canary"))["0.weight"].close()
    assert (tmp_path / "canary").exists()
