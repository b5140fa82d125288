"""The manifest of an audit: what its file holds, and what tells two audits apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sapag_fast.audit.manifest import Manifest, ManifestVictim

VICTIMS = (ManifestVictim("a", "a.pt", None, 10), ManifestVictim("b", "b.pt", 3, 20, "7 1 1", "d"))
MANIFEST = Manifest(
    settings={"restarts": 2, "input_shape": (1, 8, 8), "weights": Path("w")},
    model={"weights": "1", "modules": "2"},
    victims=VICTIMS,
    versions={"torch": "2"},
    threads=1,
    wave=64,
)


def test_it_is_read_as_it_was_written():
    later = MANIFEST.with_at_once("g", 3).with_wave(0, {"b": "x", "a": "y"}, {}).with_skipped({"c": "why"})
    content = json.loads(json.dumps(later.to_json()))
    parts = ("settings", "model", "victims", "versions", "threads", "wave", "at_once", "waves", "skipped")
    assert tuple(content) == parts
    assert content["waves"] == {"0": [["b", "x"], ["a", "y"]]}
    parts = {"name": "b", "file": "b.pt", "row": 3, "bytes": 20, "state": "7 1 1", "metadata_sha256": "d"}
    assert content["victims"][1] == parts
    read = Manifest.from_json(content)
    assert read == later
    assert not read.differences(MANIFEST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 0}, "threads: expected an integer of at least 1, found 0"),
        ({"wave": "many"}, "wave: expected"),
        ({"victims": [{"name": "a"}]}, "no audit's manifest"),
        ({"waves": [1]}, "no audit's manifest"),
        ({"colour": 1}, "no audit's manifest"),
    ],
)
def test_what_is_no_manifest(change, words):
    with pytest.raises(ValueError, match=words):
        Manifest.from_json({**MANIFEST.to_json(), **change})


def test_differences_in_words():
    other = replace(
        MANIFEST, settings={**MANIFEST.settings, "restarts": 3}, victims=VICTIMS[1:], threads=8, wave=1
    )
    assert MANIFEST.differences(other) == ["settings restarts was 2, is 3", "victims a are missing"]
    turned = replace(MANIFEST, victims=VICTIMS[::-1])
    assert MANIFEST.differences(turned) == ["the victims come in another order"]


def test_a_wave_keeps_its_gradients():
    begun = MANIFEST.with_wave(0, {"a": "x", "b": "y"}, {})
    assert begun.with_wave(0, {"a": "x", "b": "y"}, {}) is begun
    with pytest.raises(ValueError, match="gradients of b: not those"):
        begun.with_wave(0, {"a": "x", "b": "z"}, {})


def test_a_victim_that_was_left_out_comes_in_another_file():
    skipped = MANIFEST.with_skipped({"b": "damaged"})
    other = replace(MANIFEST, victims=(VICTIMS[0], ManifestVictim("b", "b.pt", 3, 25)))
    assert MANIFEST.differences(other) == ["the gradient files of victims b have changed"]
    assert not skipped.differences(other)
    taken = skipped.with_files(other, {"b"})
    assert taken.victims == other.victims
    assert not taken.with_wave(0, {"b": "x"}, {}).skipped
    assert skipped.with_files(MANIFEST, {"b"}) is skipped


def test_a_file_that_cannot_be_looked_at_has_not_changed():
    gone = replace(MANIFEST, victims=(replace(VICTIMS[0], bytes=0), VICTIMS[1]))
    assert not MANIFEST.differences(gone)
    assert MANIFEST.differences(replace(gone, victims=gone.victims[:1])) == ["victims b are missing"]


def test_a_wave_goes_on_in_parts():
    begun = MANIFEST.with_wave(0, {"a": "1", "b": "2", "c": "3", "d": "4"}, {"e": "damaged"})
    parted, numbers = begun.with_parts(0, [{"b": "2"}, {"c": "3"}], {"d": "why"})
    assert numbers == [1, 2]
    assert parted.waves == {0: {"a": "1"}, 1: {"b": "2"}, 2: {"c": "3"}}
    assert parted.skipped == {"e": "damaged", "d": "why"}
    assert parted.next_wave == 3
    with pytest.raises(ValueError, match="gradients of b: not those"):
        begun.with_parts(0, [{"b": "other"}], {})


def test_a_file_of_another_state_is_the_same_file_until_its_gradient_is_compared():
    touched = replace(MANIFEST, victims=(VICTIMS[0], replace(VICTIMS[1], state="8 1 1")))
    assert not MANIFEST.differences(touched)
    assert MANIFEST.with_files(touched, {"a"}) is MANIFEST
    assert MANIFEST.with_files(touched, {"b"}).victims[1].state == "8 1 1"


@pytest.mark.parametrize("time", [{}, {"modified": 7}])
def test_a_manifest_that_knows_neither_state_nor_metadata(time):
    old = json.loads(json.dumps(MANIFEST.to_json()))
    for victim in old["victims"]:
        del victim["state"], victim["metadata_sha256"]
        victim.update(time)
    read = Manifest.from_json(old)
    assert [(victim.state, victim.metadata_sha256) for victim in read.victims] == [("", "")] * 2
    assert not read.differences(MANIFEST)


def test_other_metadata_of_a_settled_victim():
    other = replace(MANIFEST, victims=(VICTIMS[0], replace(VICTIMS[1], metadata_sha256="e")))
    words = "input shape, batch size or labels in the gradient files of victims b have changed"
    assert MANIFEST.differences(other) == [words]
    assert not MANIFEST.with_skipped({"b": "damaged"}).differences(other)
    unknown = replace(MANIFEST, victims=(VICTIMS[0], replace(VICTIMS[1], metadata_sha256="")))
    assert not MANIFEST.differences(unknown)
    with pytest.raises(ValueError, match="metadata_sha256: expected a text, found 3"):
        replace(VICTIMS[0], metadata_sha256=3)
