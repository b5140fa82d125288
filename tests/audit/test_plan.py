"""Which victims of an audit go together."""

from dataclasses import replace
from pathlib import Path

import pytest

from sapag_fast.audit.groups import Group
from sapag_fast.audit.manifest import Manifest
from sapag_fast.audit.plan import planned
from sapag_fast.files.victims import ListedVictim
from sapag_fast.search.recipe import RECIPES

MANIFEST = Manifest(settings={}, model={}, victims=(), versions={}, threads=1, wave=3)


def group(names, shape=(1, 8, 8)):
    victims = tuple(ListedVictim(name, Path(f"{name}.pt"), None, 10, input_shape=shape) for name in names)
    return Group(victims, next(iter(RECIPES.values())), 10, str(shape))


def names(waves):
    return [(wave.number, "".join(victim.name for victim in wave.victims)) for wave in waves]


def begun(waves, skipped=""):
    manifest = replace(MANIFEST, waves={k: {name: name for name in wave} for k, wave in enumerate(waves)})
    return manifest.with_skipped(dict.fromkeys(skipped, "why"))


def test_groups_go_in_waves():
    waves = planned([group("abcde"), group("xy", (7,))], MANIFEST, ())
    assert names(waves) == [(None, "abc"), (None, "de"), (None, "xy")]


def test_what_was_left_out_moves_no_other_victim():
    """The session before read a and c of the first wave, and came no further."""
    manifest = begun(["ac"], skipped="b")
    assert names(planned([group("acdefg")], manifest, "")) == [(0, "ac"), (None, "def"), (None, "g")]
    assert names(planned([group("abcdefg")], manifest, "ac")) == [(None, "def"), (None, "g"), (None, "b")]


def test_a_wave_under_way_keeps_its_victims():
    assert names(planned([group("abcdef")], begun(["ba", "c"]), "a")) == [(0, "ba"), (1, "c"), (None, "def")]
    assert names(planned([group("acdef")], begun(["abc"]), "a")) == [(0, "ac"), (None, "def")]
    assert names(planned([group("def")], begun(["abc"]), "a")) == [(None, "def")]


def test_a_wave_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="gradients of b: input shape"):
        planned([group("a"), group("b", (7,))], begun(["ab"]), "")
