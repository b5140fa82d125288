"""Arguments of functions that are refused, and the words that the message must contain."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.distances.kind import Kind, find_kind
from sapag_fast.integrations import inverting_gradients
from sapag_fast.models import LeNet, initialise, make_model
from sapag_fast.text import TextRecipe, train_tokenizer

MODEL = initialise(LeNet(image_size=8), "uniform")
GRADIENT = torch.autograd.grad(
    F.cross_entropy(MODEL(torch.zeros(1, 1, 8, 8)), torch.tensor([3])), MODEL.parameters()
)
PAIR = [torch.ones(3, 4, 5), torch.ones(3, 4)]


def square(sums):
    return sums.square.sum(-1)


def weighted_square(sums, weights):
    return (weights * sums.square).sum(-1)


OWN = Kind.of_sums("own", weighted_square, weighted=True)
DISTANCE = [
    ({"kind": "l2", "bandwidth": 1.0}, "bandwidth: the distance 'l2' takes none"),
    ({"kind": "sapag", "l1_weight": 1.0}, "l1_weight: the distance 'sapag' takes none"),
    ({"kind": "l1", "variance": [1.0]}, "variance: the distance 'l1' takes none"),
    ({"kind": "cosine", "layers": [0, 1]}, "layers: the distance 'cosine' sees the whole gradient as one"),
    ({"layer_weights": [-1.0]}, "layer_weights: expected numbers in 0..1e+18, found -1.0"),
    ({"layer_weights": [math.nan]}, "layer_weights: expected numbers"),
    ({"layer_weights": [math.inf]}, "layer_weights: expected numbers"),
    ({"layer_weights": [10**400]}, "layer_weights: expected numbers"),
    ({"layer_weights": ["a"]}, "layer_weights: expected numbers [L]"),
    ({"variance": [math.inf]}, "variance: expected numbers"),
    ({"variance": [-1.0]}, "variance: expected numbers"),
    ({"layers": [0.5, 1.0]}, "layers[0] must be an int, found float"),
    ({"layers": [True, False]}, "layers[0] must be an int, found bool"),
    ({"layers": [0, 2**40]}, "layers: expected numbers in 0..1048575"),
    ({"layers": [0, 2**70]}, "layers[1] must be at most 2**63 - 1"),
    ({"bandwidth": math.nan}, "bandwidth must be positive and finite, found nan"),
    ({"bandwidth": "1"}, "bandwidth must be a number, found str"),
    ({"batched": "no"}, "batched must be True or False, found 'no'"),
    ({"merge_bias": 0}, "merge_bias must be True or False, found 0"),
    ({"backend": 3}, "backend must be one of reference"),
    ({"kind": 3}, "kind must be one of sapag"),
    (
        {"kind": OWN, "layer_weights": torch.ones(2, 1), "batched": True},
        "layer_weights: expected shape [1] or",
    ),
    ({"kind": OWN, "variance": torch.ones(5, 1), "batched": True}, "variance: expected shape [1] or [3, 1]"),
    (
        {"layer_weights": torch.ones(2, 1), "batched": True, "backend": "reference"},
        "layer_weights: expected shape [1] or [3, 1], found [2, 1]",
    ),
]


@pytest.mark.parametrize(("options", "words"), DISTANCE)
def test_distances(options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        sf.distance(PAIR, [t + 1 for t in PAIR], **options)
    assert words in str(caught.value)


def test_gradients_that_are_no_sequence():
    for wrong in (None, 3, "ab", PAIR[0]):
        with pytest.raises((TypeError, ValueError), match=r"^dummy"):
            sf.distance(wrong, PAIR)
        with pytest.raises((TypeError, ValueError), match=r"^gradients"):
            sf.gradient_variance(wrong)
    with pytest.raises(TypeError, match=r"^out: expected tensors and None"):
        sf.distance_and_gradient(PAIR, PAIR, out=[1, 2])


RECOVER = [
    ({"device": "nope"}, "device must be one of this machine, found 'nope'"),
    ({"device": 5}, "device must be a name or a torch.device, found 5"),
    ({"checkpoint": 5}, "checkpoint must be a path, found 5"),
    ({"batched": "no"}, "batched must be True or False"),
    ({"stop_certified": "no"}, "stop_certified must be True or False, found 'no'"),
    ({"restarts": 2**70}, "restarts must be at most 2**63 - 1"),
    ({"restarts": True}, "restarts must be an int, found bool"),
    ({"steps": np.float64(3)}, "steps must be an int, found float64"),
    ({"seed": 10**5000}, "seed must lie in"),
    ({"tv": 1e308}, "tv must be at most 1e+18"),
    ({"tv": 10**400}, "tv must be finite"),
    ({"stop_distance": -1.0}, "stop_distance must be finite and not negative"),
    ({"stop_distance": math.inf}, "stop_distance must be finite and not negative"),
    ({"bounds": ("0", "1")}, "bounds must be a pair of numbers"),
    ({"bounds": (-1e308, 1e308)}, "bounds must lie in"),
    ({"input_shape": (1, 8.0, 8)}, "input_shape must be a sequence of ints"),
    ({"input_shape": (2**40, 2**40, 1)}, "input_shape must hold fewer than 2**63"),
    ({"layers": [0.5] * 8}, "layers[0] must be an int, found float"),
    ({"distance": "cosine", "layers": "separate"}, "layers: the distance 'cosine' sees the whole gradient"),
    ({"distance": sf.GradientDistance(), "layers": "separate"}, "layers must be left out where distance is"),
    ({"labels": [2**70]}, "labels must be int64 numbers"),
    ({"labels": [True]}, "labels must be whole numbers or probabilities"),
    ({"labels": torch.full((1, 10), math.nan)}, "labels must be finite"),
    ({"labels": torch.full((1, 10), -0.1)}, "labels must be probabilities, found -0.1"),
    ({"start": torch.full((1, 8, 8), math.nan)}, "start must hold finite numbers"),
    ({"start": torch.zeros(1, 8, 8, dtype=torch.uint8)}, "start must be floating point"),
    ({"target": [g.to("meta") for g in GRADIENT], "device": "cpu"}, "target entry 0 must hold numbers"),
]


@pytest.mark.parametrize(("options", "words"), RECOVER)
def test_recover(options, words):
    call = {"model": MODEL, "target": GRADIENT, "input_shape": (1, 8, 8), "steps": 1, **options}
    with pytest.raises((TypeError, ValueError)) as caught:
        sf.recover(**call)
    assert words in str(caught.value)


OTHERS = {
    "lr": (lambda: sf.Recipe("mine", lr=math.nan), "recipe 'mine': lr must be positive"),
    "optimizer": (lambda: sf.Recipe("mine", optimizer="newton"), "recipe 'mine': optimizer must be one of"),
    "starts": (lambda: sf.Recipe("mine", starts=()), "recipe 'mine': starts must hold at least one"),
    "milestones": (lambda: sf.Recipe("mine", milestones=3), "recipe 'mine': milestones must be a sequence"),
    "clip": (lambda: sf.Recipe("mine", clip="no"), "recipe 'mine': clip must be True or False"),
    "distance of a recipe": (
        lambda: sf.SearchOptions(recipe=sf.Recipe("mine", distance="far")),
        "recipe 'mine': distance must be one of sapag",
    ),
    "kick": (lambda: TextRecipe("mine", kick=0), "recipe 'mine': kick must be at least 1"),
    "stages": (lambda: sf.Surrogate(stages=2**70), "surrogate: stages must be at most 10000"),
    "name": (lambda: sf.register_distance("", square), "name must be a string of at least one"),
    "merged": (lambda: sf.register_distance("x", square, merged="no"), "merged must be True or False"),
    "replace": (lambda: sf.register_rule(nn.Bilinear, square, replace="no"), "replace must be True or False"),
    "model": (lambda: make_model("vgg"), "model must be one of lenet"),
    "widths": (lambda: make_model("convnet", widths=(1, 2)), "widths must hold 4 sizes"),
    "classes": (lambda: make_model("lenet", classes=2.0), "classes must be an int, found float"),
    "sentences": (lambda: train_tokenizer(["a", 3]), "sentences[1] must be a string, found 3"),
    "weights": (
        lambda: inverting_gradients.reconstruction_costs([PAIR], PAIR, weights="steep"),
        "weights must be one of equal, linear, exp, found 'steep'",
    ),
    "indices": (
        lambda: inverting_gradients.reconstruction_costs([PAIR], PAIR, indices=[5]),
        "indices[0] must be at most 1, found 5",
    ),
    "lazy": (
        lambda: sf.recover(nn.LazyLinear(3), [torch.ones(1)], (4,)),
        "of a lazy layer: run the network once first",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_functions(case):
    call, words = OTHERS[case]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert words in str(caught.value)


def test_numpy_numbers_are_numbers():
    options = sf.SearchOptions(restarts=np.int64(2), tv=np.float32(0.5), stop_certified=np.bool_(False))
    assert (options.restarts, options.tv, options.stop_certified) == (2, 0.5, False)
    assert type(options.restarts) is int
    assert sf.GradientDistance(bandwidth=np.float32(2)).bandwidth == 2.0


def test_a_kind_without_a_name_in_the_table_is_searched_with_and_never_certified():
    found = sf.recover(MODEL, GRADIENT, (1, 8, 8), steps=2, distance=Kind.of_sums("sapag", square))
    assert found.certificate[0].status == "unknown"
    assert found.recipe.distance == "sapag"


def test_a_second_search_needs_the_kind_again():
    kind = Kind.of_sums("outside", square)
    found = sf.recover(MODEL, GRADIENT, (1, 8, 8), steps=2, distance=kind)
    with pytest.raises(ValueError, match=r"distance must be given .* searched with 'outside'"):
        sf.separate_equal_labels(MODEL, GRADIENT, found)
    again = sf.separate_equal_labels(MODEL, GRADIENT, found, distance=kind)
    assert torch.equal(again.inputs, found.inputs)


def test_a_pickled_distance_carries_no_gradient():
    distance = sf.GradientDistance("l2")
    value = distance(PAIR, [t + 1 for t in PAIR])
    pickled = pickle.dumps(distance)
    assert len(pickled) < 1000
    loaded = pickle.loads(pickled)
    assert loaded(PAIR, [t + 1 for t in PAIR]) == value
    with pytest.raises(TypeError, match="target"):
        loaded(PAIR)


def test_registered_kinds_pickle_by_name():
    sf.register_distance("test-pickled", lambda sums: sums.square.sum(-1), replace=True)
    kind = find_kind("test-pickled")
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert pickle.loads(pickle.dumps(sf.GradientDistance("test-pickled"))).kind is kind
    outside = pickle.loads(pickle.dumps(Kind.of_sums("outside", square)))
    assert outside == Kind.of_sums("outside", square) or outside.value.function is square
