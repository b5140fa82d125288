"""Telling images of one label apart: the starts against the truth, and the second search."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast import data
from sapag_fast.models import make_model
from sapag_fast.recovery import separation
from sapag_fast.recovery.equal_labels import Features, _patterns, has_equal_labels, separating_starts
from sapag_fast.recovery.separation import second_recipe
from sapag_fast.search.basis import make_basis
from sapag_fast.search.recipe import RECIPES


def small_network() -> nn.Module:
    """Close to linear, as torch's own initialisation makes large ones."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 400), nn.Sigmoid(), nn.Linear(400, 10)).double().eval()


def gradient_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters())))


def averaged(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([images[labels == label].mean(0) for label in labels])


def starts_for(labels: list[int], restarts: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True images, their averages, and the starts made from the averages: all ``[..., B, 1, 6, 6]``."""
    model, known = small_network(), torch.tensor(labels)
    drawn = torch.rand(len(labels), 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = 0.5 + 0.1 * (drawn - 0.5)  # so near to one another that the second order is all that counts
    means = averaged(truth, known)
    gradient = gradient_of(model, truth, known)[2]
    basis = make_basis("pixel", (1, 6, 6), bounds=(0.0, 1.0), device="cpu", dtype=torch.float64)
    starts = separating_starts(
        Features(model, "3"), gradient[None], means[None], known[None], basis=basis, restarts=restarts
    )
    return truth, means, starts[0]


def test_a_pair_moves_along_its_difference():
    truth, means, starts = starts_for([2, 5, 5])
    assert starts.shape == (1, 3, 1, 6, 6)
    torch.testing.assert_close(starts[0, 0], means[0])  # alone with its label
    torch.testing.assert_close(starts[0, 1:].mean(0), means[1])
    found, true = (starts[0, 1] - starts[0, 2]).flatten(), (truth[1] - truth[2]).flatten()
    assert F.cosine_similarity(found, true, dim=0).abs() > 0.97
    assert 0.9 < found.norm() / true.norm() < 1.1


def test_three_of_a_label_span_their_differences():
    truth, means, starts = starts_for([5, 5, 5, 1], restarts=2)
    true = torch.linalg.svd((truth - means)[:3].flatten(1), full_matrices=False).Vh[:2]
    moved = (starts[0] - means)[:3].flatten(1)
    inside = moved @ true.T @ true
    assert (moved - inside).norm() < 0.2 * moved.norm()  # what the projections take
    assert math.isclose(moved.norm(), (truth - means)[:3].norm(), rel_tol=0.1)
    assert not torch.equal(starts[0], starts[1])


def test_more_equal_labels_than_free_classes_still_give_starts():
    _, means, starts = starts_for([0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 8])
    assert starts.isfinite().all()
    torch.testing.assert_close(averaged(starts[0], torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 8])), means)


def test_patterns_are_orthonormal_and_add_up_to_zero():
    patterns = _patterns([[0, 1], [2, 5, 6]])
    assert patterns.shape == (5, 3)
    torch.testing.assert_close(patterns.T @ patterns, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(patterns[:2].sum(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(patterns[2:].sum(0), torch.zeros(3, dtype=torch.float64))


def test_equal_labels_are_seen():
    labels = torch.tensor([[1, 2, 3], [3, 2, 3], [1, 1, 1]])
    assert has_equal_labels(labels).tolist() == [False, True, True]


@pytest.fixture(scope="module")
def digits_of_one_label() -> tuple[nn.Module, list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """A LeNet as torch makes it, and the gradients of two batches: labels distinct, and equal."""
    images, labels = data.digits(40, size=16)
    apart = torch.cdist(images.flatten(1), images.flatten(1)) * (labels[:, None] == labels)
    first, second = divmod(int(apart.argmax()), len(labels))  # of one label, and as unlike as they come
    other = int((labels != labels[first]).nonzero()[0])
    chosen = torch.tensor([[first, other], [first, second]])
    model = make_model("lenet", channels=1, image_size=16, initialisation="default", seed=1).eval()
    rows = [gradient_of(model, images[c], labels[c]) for c in chosen]
    return model, [torch.stack(part) for part in zip(*rows, strict=True)], images[chosen], labels[chosen]


def test_the_second_search_finds_both_images_of_a_label(digits_of_one_label):
    model, target, truth, labels = digits_of_one_label
    shape = tuple(truth.shape[2:])
    recipe = replace(RECIPES["smooth-batch-grey"], steps=500, patience=0)
    first = sf.recover(model, target, shape, batch_size=2, labels=labels, recipe=recipe, batched=True)
    found = sf.separate_equal_labels(model, target, first, steps=1000, batched=True)

    def errors(inputs: torch.Tensor) -> torch.Tensor:
        """``[2]``, the worst image of each batch, in the better order."""
        each = [(inputs.flip(1) if swapped else inputs) - truth for swapped in (False, True)]
        return torch.stack([e.square().flatten(2).mean(-1).max(-1).values for e in each]).min(0).values

    assert errors(first.inputs)[1] > 1e-2  # averaged
    assert errors(found.inputs).max() < 1e-2
    # Distinct labels: untouched, and its further restart never began.
    assert torch.equal(found.inputs[0], first.inputs[0])
    assert found.restarts.evaluations.tolist() == [[500, 0], [500, 1000]]
    assert found.evaluations.tolist() == [500, 1500]
    assert found.restarts.history.shape == (1000, 2, 2)
    assert torch.equal(found.history[:500, 0], first.history[:, 0])  # padded to the longer search's
    assert found.history[500:, 0].isnan().all()
    assert found.winner.tolist() == [0, 1]
    assert torch.equal(found.history[:, 1], found.restarts.history[:, 1, 1])
    assert torch.equal(found.distance, found.restarts.distance.min(1).values)
    assert torch.isinf(found.restarts.distance[0, 1])
    again = sf.separate_equal_labels(model, target, first, steps=1000, batched=True)
    assert torch.equal(again.inputs, found.inputs)
    shorter = sf.separate_equal_labels(model, target, first, steps=20, batched=True)
    assert shorter.restarts.evaluations.tolist() == [[500, 0], [500, 20]]
    assert shorter.restarts.history.shape == (500, 2, 2)
    assert shorter.restarts.history[20:, 1, 1].isnan().all()


def test_the_second_search_is_longer_and_hardly_held():
    recipe = RECIPES["smooth-batch-grey"]
    second = second_recipe(recipe)
    assert second.steps == 6 * recipe.steps
    assert second_recipe(recipe, 7).steps == 7
    assert second.tv_of() == second.tv_of(leading=False) == 1e-6
    assert second_recipe(replace(recipe, tv=0.0)).tv == 0.0
    assert second.shown_scale == 100.0 * recipe.shown_scale


def test_distinct_labels_are_left_alone(digits_of_one_label):
    model, target, truth, labels = digits_of_one_label
    first = sf.recover(
        model, [t[0] for t in target], tuple(truth.shape[2:]), batch_size=2, labels=labels[0], steps=3
    )
    assert sf.separate_equal_labels(model, [t[0] for t in target], first) is first


def test_unfit_arguments_are_refused(digits_of_one_label):
    model, target, truth, labels = digits_of_one_label
    found = sf.recover(
        model, target, tuple(truth.shape[2:]), batch_size=2, labels=labels, steps=3, batched=True
    )
    with pytest.raises(TypeError, match="found must be a Recovery"):
        sf.separate_equal_labels(model, target, truth, batched=True)
    with pytest.raises(ValueError, match="target must have the 2 victims of found, found 1"):
        sf.separate_equal_labels(model, [t[0] for t in target], found)
    with pytest.raises(ValueError, match="steps"):
        sf.separate_equal_labels(model, target, found, steps=0, batched=True)
    doubled = nn.Sequential(model, nn.Identity())
    doubled[1].register_forward_hook(lambda _, given, made: 2 * made)
    with pytest.raises(ValueError, match="model must give the output of its layer"):
        sf.separate_equal_labels(doubled.eval(), target, found, batched=True)


def test_ctrl_c_in_the_second_search_keeps_the_first(digits_of_one_label, monkeypatch):
    model, target, truth, labels = digits_of_one_label
    found = sf.recover(
        model, target, tuple(truth.shape[2:]), batch_size=2, labels=labels, steps=3, batched=True
    )

    def stop(evaluations: int, distances: torch.Tensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(separation, "recover", functools.partial(sf.recover, progress=stop))
    with pytest.raises(sf.Interrupted) as raised:
        sf.separate_equal_labels(model, target, found, steps=100, batched=True)
    kept = raised.value.recovery
    assert torch.equal(kept.inputs[0], found.inputs[0])  # distinct labels: none of the second search's
    assert kept.restarts.evaluations.tolist() == [[3, 0], [3, 20]]
    assert kept.status[0] == "finished"
