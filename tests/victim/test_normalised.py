"""The normalisation in front of a victim's network: what it may be, and that the network stays as it is."""

import pytest
import torch
from torch import nn

from sapag_fast import SearchOptions
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import check_statistics, normalised


@pytest.mark.parametrize(
    ("mean", "std", "kept"),
    [
        (0.5, 1, (0.5, 1.0)),
        ([0.1, 0.2], (0.3, 0.4), ((0.1, 0.2), (0.3, 0.4))),
        ([0.1], 0.3, (0.1, 0.3)),
        (torch.tensor([0.25, 0.5]), torch.tensor(0.5), ((0.25, 0.5), 0.5)),
        (None, None, (None, None)),
    ],
)
def test_what_mean_and_std_may_be(mean, std, kept):
    assert check_statistics(mean, std) == kept
    options = SearchOptions(mean=mean, std=std)
    assert (options.mean, options.std) == kept
    hash(options)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"mean": 0.1}, ValueError, "std must be given with mean, found None"),
        ({"std": 0.1}, ValueError, "mean must be given with std, found None"),
        ({"mean": 0.1, "std": 0}, ValueError, "std must be positive and finite, found 0.0"),
        ({"mean": 0.1, "std": (0.2, -1)}, ValueError, "std must be positive and finite, found -1.0"),
        (
            {"mean": "0.1", "std": 1},
            TypeError,
            "mean must be a number, or a sequence of one for",
        ),
        ({"mean": [True], "std": 1}, TypeError, "mean must be a number, found bool"),
        ({"mean": float("inf"), "std": 1}, ValueError, "mean must lie in .* found inf"),
        ({"mean": 123.7, "std": 58.4}, ValueError, r"mean must lie in the pictures' bounds 0..1 \(divide"),
        (
            {"mean": (0.4, 1.5), "std": 1},
            ValueError,
            "mean must lie in the pictures' bounds .*found 1.5",
        ),
        (
            {"mean": (0.4, 0.5), "std": 1, "bounds": (0, (1, 1, 2))},
            ValueError,
            r"mean and bounds must be of as many channels, found \[2, 3\]",
        ),
    ],
)
def test_what_they_may_not_be(given, error, message):
    with pytest.raises(error, match=message):
        SearchOptions(**given)


def test_pictures_of_0_to_255_are_taken_with_their_bounds():
    assert SearchOptions(mean=123.7, std=58.4, bounds=(0, 255)).mean == 123.7


def test_the_network_sees_normalised_pictures_and_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double().eval()
    before = list(model.state_dict())
    front = normalised(model, (0.1, 0.2), 0.5, (2, 6, 6))
    x = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    by_hand = (x - torch.tensor([0.1, 0.2], dtype=torch.float64).view(2, 1, 1)) / 0.5
    assert torch.equal(front(x), model(by_hand))
    assert not front.training
    assert list(model.state_dict()) == before
    assert [id(p) for p in front.parameters()] == [id(p) for p in model.parameters()]
    assert not VictimModel(front).writes_buffers
    assert normalised(model, None, None, (2, 6, 6)) is model


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"std must be .* one for each of the 3 channels .* found 2"):
        normalised(nn.Linear(2, 2), 0.5, (0.1, 0.2), (3, 6, 6))
