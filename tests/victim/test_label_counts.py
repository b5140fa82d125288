"""Counts of a batch's labels, and the scale of its gradient."""

import pytest
import torch

from sapag_fast.victim.label_counts import gradient_scale, label_counts


def test_counts_round_to_the_batch():
    error = torch.tensor([[-0.4, 0.1, 0.3], [0.2, -0.9, 0.7], [-0.2, -0.1, 0.3]])
    counts = label_counts(error, 2, torch.full((3,), 1 / 3))
    assert counts.tolist() == [[2, 0, 0], [0, 2, 0], [1, 1, 0]]
    counts = label_counts(torch.tensor([-0.3, -0.2, -0.1]), 2, torch.full((3,), 1 / 3))
    assert counts.tolist() == [1, 1, 0]


@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0, 3.0, 64.0])
@pytest.mark.parametrize("counts", [(1, 0, 0, 0, 0, 1), (0, 3, 0, 0, 1, 0), (0, 0, 9, 4, 3, 0)])
def test_the_scale_follows_from_absent_classes(counts, scale):
    probabilities = torch.tensor([0.1, 0.2, 0.25, 0.15, 0.1, 0.2], dtype=torch.float64)
    size = sum(counts)
    error = scale * (probabilities - torch.tensor(counts, dtype=torch.float64) / size)
    found = gradient_scale(error, size, probabilities * torch.tensor([1.02, 1, 0.98, 1, 1, 1]))
    assert found == pytest.approx(scale, rel=0.05)
    assert label_counts(error / found, size, probabilities).tolist() == list(counts)


def test_classes_that_disagree_tell_no_scale():
    probabilities = torch.full((6,), 1 / 6, dtype=torch.float64)
    error = torch.tensor([-0.2, 0.11, 0.05, 0.02, 0.013, 0.007], dtype=torch.float64)
    assert gradient_scale(error, 4, probabilities) is None
