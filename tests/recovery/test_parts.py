"""What a picture keeps of a perturbation, part by part."""

import pytest
import torch

from sapag_fast.recovery.parts import Part, blind_directions, is_picture, most_kept, with_low_waves
from sapag_fast.search.basis import dct_matrix


@pytest.fixture
def given():
    noise = torch.randn(2, 3, 16, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return with_low_waves(0.3 * noise)


def test_low_waves_have_one_height_and_others_are_left_alone():
    noise = torch.randn(1, 1, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    down, across = dct_matrix(12), dct_matrix(10)
    before, after = (down @ picture @ across.T for picture in (noise, with_low_waves(noise)))
    assert torch.allclose(after[..., :8, :8], before[..., :8, :8].sign(), atol=1e-12)
    for rest in ((..., slice(8, None), slice(None)), (..., slice(None), slice(8, None))):
        assert torch.allclose(after[rest], before[rest], atol=1e-12)


def test_nothing_stays_of_what_came_back(given):
    (part,) = most_kept(torch.zeros_like(given)[None], given)
    assert part.kept == 0.0
    assert not part.stays
    assert blind_directions(torch.zeros_like(given)[None], 0.3) == [0]


def test_all_that_stays_is_counted(given):
    (count,) = blind_directions(given[None], 0.3)
    assert count == pytest.approx(1344, rel=0.1)
    assert blind_directions(torch.full_like(given, torch.inf)[None], 0.3) == [1344]
    (part,) = most_kept(given[None], given)
    assert part.kept == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("stays", "where"),
    [
        ((1, slice(None), slice(4, 9), slice(2, 7)), "around row 6, column 4"),
        ((0, slice(None), 10, slice(None)), "in row 10"),
        ((1, slice(None), slice(None), 3), "in column 3"),
    ],
)
def test_a_part_of_any_picture_of_a_batch_is_found(given, stays, where):
    stayed = torch.zeros_like(given)
    stayed[stays] = given[stays]
    both = torch.stack((torch.zeros_like(given), stayed))
    nothing, part = most_kept(both, given)
    assert nothing.kept == 0.0
    assert part.stays
    assert part.where == where


@pytest.mark.parametrize(
    ("stays", "where"),
    [
        ((0, slice(None), 0, 0), "in its brightness"),
        ((1, slice(None), 2, 5), "in its wave of 2 half periods down and 5 across"),
        ((0, slice(None), 10, slice(None)), "in its waves of 10 half periods down"),
        ((0, slice(None), slice(None), 9), "in its waves of 9 half periods across"),
        (
            (0, slice(None), slice(9, 14), slice(8, 13)),
            "in its waves of about 11 half periods down and 10 across",
        ),
    ],
)
def test_a_wave_of_any_picture_of_a_batch_is_found(given, stays, where):
    down, across = dct_matrix(16), dct_matrix(14)
    waves = down @ given @ across.T
    stayed = torch.zeros_like(waves)
    stayed[stays] = 0.9 * waves[stays]
    (part,) = most_kept((down.T @ stayed @ across)[None], given)
    assert part.stays
    assert part.kept == pytest.approx(0.81)
    assert part.where == where


def test_a_part_that_is_no_number_stays():
    assert Part("in row 3", float("nan"), 0.7).stays
    assert Part("in row 3", 0.71, 0.7).stays
    assert not Part("in row 3", 0.7, 0.7).stays


def test_what_has_no_windows_is_no_picture():
    assert is_picture((2, 1, 5, 5))
    assert not is_picture((1, 4, 9))
    assert not is_picture((1, 1, 4, 9))
    assert not is_picture((2, 1, 40))
