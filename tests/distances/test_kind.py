"""The table of distances: who may take which name, and kinds that stand outside of it."""

from functools import partial

import pytest
import torch

import sapag_fast as sf
from sapag_fast.distances import Kind, find_kind, kinds

CELL = """
def mine(sums):
    return {factor} * sums.square.sum(-1)

sf.register_distance("test-cell", mine)
"""


def square(sums):
    return sums.square.sum(-1)


def absolute(sums):
    return sums.absolute.sum(-1)


def value_of(kind):
    return sf.distance([torch.tensor([3.0, -1.0])], [torch.zeros(2)], kind).item()


def test_the_same_function_may_be_registered_again():
    sf.register_distance("test-again", square)
    sf.register_distance("test-again", square)
    assert value_of("test-again") == 10
    sf.register_distance("test-again", square, merged=True)
    assert find_kind("test-again").merged


def test_a_cell_of_a_notebook_may_be_run_again():
    names = {"sf": sf, "__name__": "__main__"}
    exec(CELL.format(factor=1.0), names)
    before = sf.GradientDistance("test-cell")
    exec(CELL.format(factor=2.0), names)
    assert value_of("test-cell") == 20
    assert (
        before([torch.tensor([3.0, -1.0])], [torch.zeros(2)]).item() == 10
    )  # made with the function of then


def test_another_function_needs_to_say_so():
    sf.register_distance("test-taken", square)
    with pytest.raises(ValueError, match=r"name: a distance 'test-taken' exists already.*replace=True"):
        sf.register_distance("test-taken", absolute)
    assert value_of("test-taken") == 10
    sf.register_distance("test-taken", absolute, replace=True)
    assert value_of("test-taken") == 4


def test_functions_without_names_are_told_apart():
    sf.register_distance("test-partial", partial(square))
    with pytest.raises(ValueError, match="replace=True"):
        sf.register_distance("test-partial", partial(absolute))


def test_lambdas_are_told_apart_by_their_code():
    bodies = ("sums.square", "sums.square", "sums.cross")
    first, again, other = (eval(f"lambda sums: {body}") for body in bodies)
    sf.register_distance("test-lambda", first)
    sf.register_distance("test-lambda", again)
    with pytest.raises(ValueError, match="replace=True"):
        sf.register_distance("test-lambda", other)


@pytest.mark.parametrize("kind", ["sapag", "l2", "tag"])
@pytest.mark.parametrize("replace", [False, True])
def test_built_in_distances_stay(kind, replace):
    with pytest.raises(ValueError, match=f"name: the built-in distance {kind!r} .* cannot be replaced"):
        sf.register_distance(kind, square, replace=replace)


def test_a_kind_needs_no_name_in_the_table(gradients):
    dummy, target = gradients.pair(0.3)
    before = kinds()
    weighted = Kind.of_sums("outside", lambda sums, weights: (weights * sums.square).sum(-1), weighted=True)
    weights = [1.0 + i for i in range(7)]
    value = sf.distance(dummy, target, weighted, layer_weights=weights)
    assert value.item() == pytest.approx(
        sf.distance(dummy, target, "l2", layer_weights=weights).item(), rel=1e-6
    )
    assert kinds() == before
    with pytest.raises(ValueError, match=r"kind must be one of .* found 'outside'"):
        sf.GradientDistance("outside")
    with pytest.raises(ValueError, match="layer_weights: the distance 'plain' takes none"):
        sf.GradientDistance(Kind.of_sums("plain", square), layer_weights=weights)
    with pytest.raises(TypeError, match="function_of_sums must be callable, found int"):
        Kind.of_sums("nonsense", 3)
    with pytest.raises(TypeError, match="name must be a string, found 5"):
        sf.register_distance(5, square)
    assert kinds() == before


def test_copies_keep_their_kind(gradients):
    dummy, target = gradients.pair(0.3, recoveries=2)
    for kind in (Kind.of_sums("outside", square), find_kind("cosine"), "sapag-mean"):
        distance = sf.GradientDistance(kind)
        copy = distance.copy(batched=True)
        assert copy.kind is distance.kind
        assert copy(dummy, target).shape == (2,)
    assert sf.GradientDistance(find_kind("cosine")).options["kind"] == "cosine"
    outside = sf.GradientDistance(Kind.of_sums("outside", square)).options["kind"]
    assert repr(outside) == "Kind('outside')"  # the same in every process, for checkpoints


def test_a_replaced_kind_is_not_what_its_name_is_now():
    sf.register_distance("test-replaced", square)
    distance = sf.GradientDistance("test-replaced")
    sf.register_distance("test-replaced", absolute, replace=True)
    assert distance.copy().kind is distance.kind


def test_weights_are_a_field():
    assert find_kind("sapag").default_weights(3) is None
    falling = find_kind("sapag-mean").default_weights(3)
    assert torch.equal(falling, torch.tensor([1, 1 / 2, 1 / 3], dtype=torch.float64))
    own = Kind(
        "own",
        find_kind("l2").value,
        native=4,
        layer_weights=lambda layers: torch.full((layers,), 0.5).double(),
    )
    assert value_of(own) == 5
