"""DLG's loop of the benchmarks: what it can be told beyond the demo's."""

import torch

from benchmarks.shared.dlg import deep_leakage
from sapag_fast import data
from sapag_fast.clients.gradient import client_gradient
from sapag_fast.command_line.demo import dlg as published
from sapag_fast.models import LeNet, initialise


def attacked(initialisation, **options):
    images, labels = data.digits(1, 16)
    model = initialise(LeNet(channels=1, image_size=16), initialisation)
    gradient = client_gradient(model, images, labels)
    return deep_leakage(model, gradient, images.shape[1:], 10, **options), images, labels


def test_known_labels_stay_and_a_given_start_is_the_first_iterate():
    start, seen = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)), []
    result, _, _ = attacked(
        "default",
        evaluations=7,
        start=start,
        labels=torch.tensor([4]),
        look=lambda count, inputs: seen.append((count, inputs.detach().clone())),
    )
    assert result.labels.tolist() == [4]
    assert [count for count, _ in seen] == list(range(1, 8))
    assert torch.equal(seen[0][1], start)


def test_backward_gives_the_same_numbers_and_leaves_no_gradients_behind():
    images, labels = data.digits(1, 16)
    model = initialise(LeNet(channels=1, image_size=16), "default")
    gradient = client_gradient(model, images, labels)
    found = [
        deep_leakage(model, gradient, images.shape[1:], 10, evaluations=30, backward=backward)
        for backward in (False, True)
    ]
    torch.testing.assert_close(found[0].input, found[1].input, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_stop_distance_ends_it():
    whole, _, _ = attacked("default", evaluations=60)
    result, _, _ = attacked("default", evaluations=60, stop_distance=2 * whole.distance)
    assert result.status == "reached"
    assert result.distance < 2 * whole.distance


def test_it_is_the_loop_of_the_demo():
    ours, images, _ = attacked("default", evaluations=45, seed=3)
    model = initialise(LeNet(channels=1, image_size=16), "default")
    gradient = client_gradient(model, *data.digits(1, 16))
    theirs = published.deep_leakage(model, gradient, images.shape[1:], 10, evaluations=45, seed=3)
    assert torch.equal(ours.input, theirs.input)
    assert (ours.distance, ours.evaluations, ours.status) == (theirs.distance, 45, theirs.status)
