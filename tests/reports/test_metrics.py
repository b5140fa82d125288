"""Scores against their formulas, and the pairing of a batch whose order is lost."""

import itertools
import math

import pytest
import torch

from sapag_fast.reports.metrics import Scores, assign, score


def image(channels=3, side=16, seed=0):
    return torch.rand(channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_score_is_the_formula():
    truth = image()
    recovered = (truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(
        0, 1
    )
    scores = score(recovered, truth)
    mse = float(((recovered - truth) ** 2).mean())
    assert scores.mse == pytest.approx(mse, rel=1e-5)
    assert scores.psnr == pytest.approx(10 * math.log10(1 / mse), rel=1e-5)
    assert 0 < scores.ssim < 1


def test_score_clamps_like_a_png():
    truth = torch.ones(1, 8, 8)
    assert score(truth + 5, truth).mse == 0


def test_equal_images():
    scores = score(image(), image())
    assert scores.mse == 0
    assert scores.psnr == math.inf
    assert scores.ssim == pytest.approx(1)
    assert scores.success


def test_non_finite_scores_nan_and_is_no_success():
    broken = image()
    broken[0, 0, 0] = math.nan
    scores = score(broken, image())
    assert math.isnan(scores.mse)
    assert math.isnan(scores.psnr)
    assert not scores.success


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 3, 3), (1, 28, 28)])
def test_ssim_window_fits_small_images(shape):
    truth = torch.rand(shape)
    assert -1 <= score(torch.rand(shape), truth).ssim <= 1


@pytest.mark.parametrize("shape", [(7,), (1, 2, 2), (4, 5)])
def test_ssim_is_nan_where_undefined(shape):
    scores = score(torch.zeros(shape), torch.full(shape, 0.5))
    assert math.isnan(scores.ssim)
    assert scores.mse == pytest.approx(0.25)


def test_success_begins_at_25_db():
    assert Scores(0.1, 25.0, 0.5).success
    assert not Scores(0.1, 24.99, 0.5).success


def test_assign_finds_every_permutation():
    truth = torch.stack([image(seed=seed) for seed in range(4)])
    for order in itertools.permutations(range(4)):
        recovered = truth[list(order)] + 0.05 * torch.randn(truth.shape)
        assert assign(recovered, truth) == list(order)


def test_assign_respects_labels_that_agree_and_ignores_others():
    truth = torch.tensor([0.0, 1.0])[:, None]
    recovered = torch.tensor([0.1, 0.9])[:, None]
    assert assign(recovered, truth) == [0, 1]
    assert assign(recovered, truth, torch.tensor([5, 6]), torch.tensor([6, 5])) == [1, 0]
    assert assign(recovered, truth, torch.tensor([5, 5]), torch.tensor([6, 5])) == [0, 1]


def test_assign_is_a_permutation_with_non_finite_inputs():
    truth = torch.stack([image(seed=seed) for seed in range(3)])
    recovered = truth[[2, 0, 1]].clone()
    recovered[1] = math.nan
    assert assign(recovered, truth) == [2, 0, 1]
    assert sorted(assign(recovered * math.inf, truth)) == [0, 1, 2]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="truth must have the shape of recovered"):
        score(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="truth must have the shape of recovered"):
        assign(torch.zeros(2, 3), torch.zeros(3, 3))
    assert assign(torch.zeros(0, 3), torch.zeros(0, 3)) == []
