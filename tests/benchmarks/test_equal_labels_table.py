"""Images of one label: what a gradient holds of them, and the tables of it."""

from functools import partial

import pytest
import torch

from benchmarks.recovery import equal_labels
from benchmarks.recovery.equal_labels import Information, averaged, difference, measure
from benchmarks.report.equal_labels_table import determined_table, searched_table
from sapag_fast.models import make_model


@pytest.fixture(scope="module")
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.rand(4, 1, 28, 28, generator=g), torch.tensor([3, 1, 3, 7])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(equal_labels, "LOW", 3)
    monkeypatch.setattr(equal_labels, "SIZE", 4)
    monkeypatch.setattr(equal_labels, "STEPS", 2)
    monkeypatch.setattr(equal_labels, "recover", partial(equal_labels.recover, steps=2))


@pytest.mark.usefixtures("small")
def test_information_is_the_posterior_of_a_linear_gradient(batch):
    images, labels = batch
    model, spread = make_model("lenet", seed=1), torch.full((1, 28, 28), 0.2, dtype=torch.float64)
    information = Information(model, images, labels, spread)
    matrix = information.strength[:, None] * information.directions.flatten(0, 1).T
    for noise in (1.0, 1e4):
        covariance = torch.linalg.inv(matrix.T @ matrix / noise**2 + torch.eye(36, dtype=torch.float64))
        variance = covariance.diagonal().view(4, 9) * information.deviation.square()
        scale = equal_labels.make_basis("dct", (1, 28, 28), dtype=torch.float64).scale[0, :3, :3].flatten()
        expected = (variance * scale.square()).sum(1) / 784
        torch.testing.assert_close(information.errors(noise), expected, rtol=1e-5, atol=1e-9)
    least, most = information.errors(1.0), information.errors(1e6)
    assert (least < most).all()
    # The two of one label are the first that noise covers.
    assert information.errors(1e4)[[0, 2]].min() > information.errors(1e4)[[1, 3]].max()


def test_differences_are_counted_in_float32s_errors(batch):
    images, labels = batch
    model = make_model("lenet", seed=1)
    assert difference(model, images[[2, 1, 0, 3]], images, labels) < 1e-3
    mean = averaged(images, labels)
    assert torch.equal(mean[0], mean[2])
    assert torch.equal(mean[1], images[1])
    assert difference(model, mean, images, labels) > 100


@pytest.mark.usefixtures("small")
def test_a_line_holds_what_the_tables_show(batch):
    images, labels = batch
    spread = torch.ones(1, 28, 28, dtype=torch.float64)
    lines = measure(make_model("lenet", seed=1), images[None], labels[None], spread)
    (head, _, row, total) = searched_table(lines).splitlines()
    assert row.startswith("| 1 3 3 7 |")
    assert head.count("|") == row.count("|") == total.count("|")
    (head, _, once, again) = determined_table(lines).splitlines()
    assert "of 2" in once
    assert "of 2" in again
    assert head.count("|") == once.count("|") == again.count("|")
