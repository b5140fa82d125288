"""`SearchOptions`: what it refuses, how two compare, what cannot be changed behind its back."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from sapag_fast import GradientDistance, SearchOptions, Surrogate, profile_attack, recover


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("surrogate", 0, ValueError, "surrogate must be 'softplus', False or a Surrogate, found 0"),
        ("surrogate", torch.zeros(2), ValueError, "surrogate must be"),
        ("stop_distance", "near", TypeError, "stop_distance must be a number, found str"),
        (
            "stop_distance",
            float("nan"),
            ValueError,
            "stop_distance must be finite and not negative, found nan",
        ),
        ("layers", None, TypeError, "layers must be .* found None"),
        ("layers", [0, "a"], TypeError, r"layers\[1\] must be an int, found str"),
        ("basis", 5, ValueError, "basis must be one of pixel, dct, .* found 5"),
        ("start", 5, ValueError, "start must be one of grey, .* found 5"),
        ("start", [torch.zeros(2)], ValueError, "start must be one of grey, .* found tensor"),
        ("seed", 2**70, ValueError, "seed must lie in .* found 1180591620717411303424"),
    ],
)
def test_errors_name_the_option_what_was_expected_and_what_was_found(name, value, error, message):
    with pytest.raises(error, match=message):
        SearchOptions(**{name: value})


@pytest.mark.parametrize("surrogate", [None, False, "softplus", Surrogate()])
def test_what_a_surrogate_may_be(surrogate):
    assert SearchOptions(surrogate=surrogate).surrogate == surrogate


def test_two_are_equal_if_all_their_options_are():
    point = torch.zeros(2)
    assert SearchOptions(start="grey") != SearchOptions(start="noise")
    assert SearchOptions(start=point) == SearchOptions(start=point)
    assert SearchOptions(start=point) != SearchOptions(start=point.clone())
    assert SearchOptions(layers=[0, 1], basis=["dct"]) == SearchOptions(layers=(0, 1), basis=("dct",))
    assert SearchOptions() != "auto"
    different = {SearchOptions(layers=[0, 1]), SearchOptions(start=point), SearchOptions(start="grey")}
    assert len(different) == 3


def test_a_list_that_changes_later_changes_no_options():
    layers, basis, start = [0, 1], ["dct"], ["grey"]
    options = SearchOptions(layers=layers, basis=basis, start=start)
    for given in (layers, basis, start):
        given.append(given[0])
    assert (options.layers, options.basis, options.start) == ((0, 1), ("dct",), ("grey",))


def test_copies_and_pickles_are_equal():
    options = SearchOptions(steps=3, layers=[0, 1], start=["grey"], surrogate=Surrogate())
    for other in (copy.deepcopy(options), pickle.loads(pickle.dumps(options)), replace(options, steps=3)):
        assert other == options
        assert hash(other) == hash(options)
    assert replace(options, seed=1) != options


def test_a_distance_that_was_copied_is_told_by_its_name_too():
    distance = GradientDistance("l2")
    for other in (copy.deepcopy(distance), pickle.loads(pickle.dumps(distance))):
        assert other.options == distance.options


@pytest.mark.parametrize(
    ("function", "given", "meant"),
    [
        (recover, "label", "labels"),
        (recover, "restart", "restarts"),
        (profile_attack, "recovery", "recoveries"),
    ],
)
def test_a_mistyped_argument_is_told_which_one_was_meant(function, given, meant):
    few = (torch.nn.Linear(2, 2), (2,)) if function is profile_attack else (torch.nn.Linear(2, 2), [], (2,))
    with pytest.raises(TypeError, match=f"unknown option '{given}'; did you mean '{meant}'"):
        function(*few, **{given: 1})


def test_a_recipe_that_is_no_name_is_refused_by_name():
    with pytest.raises(ValueError, match=r"recipe must be one of auto, .* or a Recipe, found \['smooth'\]"):
        recover(torch.nn.Linear(2, 2), [torch.zeros(2, 2), torch.zeros(2)], (2,), recipe=["smooth"])
