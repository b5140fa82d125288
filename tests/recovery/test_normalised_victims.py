"""Clients that normalise their pictures: what comes out are pictures, and a wrong box is said."""

import pytest
import torch
from digit_victims import SHAPE, gradient_of, small_digits, small_lenet

from sapag_fast import data, profile_attack, recover, separate_equal_labels
from sapag_fast.models import make_model
from sapag_fast.recovery.cautions import Caution, joined_cautions

MNIST = {"mean": 0.1307, "std": 0.3081}
QUICK = {"steps": 150, "restarts": 1}


def psnr(found, truth):
    return -10 * (found.clamp(0, 1) - truth).square().flatten(1).mean(1).log10()


def seen(images, mean=MNIST["mean"], std=MNIST["std"]):
    return (images - mean) / std


@pytest.fixture(scope="module")
def digit():
    model, (images, labels) = small_lenet(), small_digits(1)
    return model, gradient_of(model, seen(images), labels), images


def test_the_issues_digits():
    """Searched in [0, 1] they come to 11 to 15 dB, without a word until now."""
    (x, y), model = data.digits(1), make_model("lenet", channels=1, image_size=28, seed=0)
    target = gradient_of(model, seen(x), y)
    found = recover(model, target, (1, 28, 28), **MNIST, **QUICK)
    assert psnr(found.inputs[0], x) > 30
    assert found.warnings == ()
    blind = recover(model, target, (1, 28, 28), **QUICK)
    assert psnr(blind.inputs[0], x) < 20
    (caution,) = blind.warnings
    assert (caution.kind, caution.module, caution.victims) == ("box", "", (0,))
    assert "give mean and std" in caution.message
    assert blind.certificate[0].status == "unknown"


def test_pictures_come_out_whatever_way_it_is_told(digit):
    """With mean and std pictures, with the network's own bounds what the network is fed."""
    model, target, images = digit
    found = recover(model, target, SHAPE, **MNIST, **QUICK)
    assert psnr(found.inputs[0], images) > 30
    low, high = ((end - MNIST["mean"]) / MNIST["std"] for end in (0.0, 1.0))
    fed = recover(model, target, SHAPE, bounds=(low, high), **QUICK)
    assert psnr(fed.inputs[0] * MNIST["std"] + MNIST["mean"], images) > 25
    assert found.warnings == fed.warnings == ()
    assert "normalisation" in found.certificate[0].reason


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_box_that_does_not_fit_is_said(digit, optimizer):
    model, target, _ = digit
    (caution,) = recover(model, target, SHAPE, optimizer=optimizer, **QUICK).warnings
    assert caution.kind == "box"
    other = {"mean": 0.5, "std": 2.0}
    (caution,) = recover(model, target, SHAPE, optimizer=optimizer, **other, **QUICK).warnings
    assert "may not be the client's" in caution.message
    assert recover(model, target, SHAPE, optimizer=optimizer, **MNIST, **QUICK).warnings == ()
    assert recover(model, target, SHAPE, optimizer=optimizer, bounds=None, **QUICK).warnings == ()


def test_only_the_victims_that_press_are_named():
    model, (images, labels) = small_lenet(), small_digits(3)
    fed = torch.stack([images[0], seen(images[1]), images[2]])
    rows = [gradient_of(model, x[None], y[None]) for x, y in zip(fed, labels, strict=True)]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    handed = {}
    found = recover(
        model, target, SHAPE, batched=True, on_finished=lambda v, one: handed.update({v: one}), **QUICK
    )
    assert [caution.victims for caution in found.warnings] == [(1,)]
    assert [len(handed[victim].warnings) for victim in range(3)] == [0, 1, 0]


def test_colours_have_statistics_and_bounds_of_their_own():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x, y = data.photographs(1, 16)
    model = small_lenet(channels=3)
    each = [torch.tensor(v).view(3, 1, 1) for v in (mean, std)]
    target = gradient_of(model, (x - each[0]) / each[1], y)
    found = recover(model, target, (3, 16, 16), mean=mean, std=std, **QUICK)
    assert psnr(found.inputs[0], x) > 25
    bounds = tuple(tuple(((end - each[0]) / each[1]).flatten().tolist()) for end in (0.0, 1.0))
    fed = recover(model, target, (3, 16, 16), bounds=bounds, **QUICK)
    assert psnr(fed.inputs[0] * each[1] + each[0], x) > 25
    with pytest.raises(ValueError, match="bounds must be one number, or one for each of the 1 channels"):
        recover(small_lenet(), gradient_of(small_lenet(), *small_digits(1)), SHAPE, bounds=bounds)


def test_many_searches_at_once_and_batches(digit):
    model, target, images = digit
    alone = recover(model, target, SHAPE, mean=MNIST["mean"], std=MNIST["std"], steps=150, restarts=3)
    assert alone.mode == "explicit"
    assert psnr(alone.inputs[0], images) > 30
    pictures, labels = small_digits(2)
    shared = gradient_of(model, seen(pictures), labels)
    found = recover(model, shared, SHAPE, batch_size=2, **MNIST, steps=300)
    assert torch.equal(found.labels[0], labels)
    assert found.warnings == ()


def test_a_checkpoint_belongs_to_its_normalisation(digit, tmp_path):
    model, target, _ = digit

    def stop(done, lowest):
        raise KeyboardInterrupt

    told = {"checkpoint": tmp_path / "state.safetensors", "steps": 40}
    with pytest.raises(KeyboardInterrupt):
        recover(model, target, SHAPE, **MNIST, progress=stop, **told)
    with pytest.raises(ValueError, match="belongs to a run with other arguments"):
        recover(model, target, SHAPE, mean=0.1307, std=0.3, **told)
    recover(model, target, SHAPE, **MNIST, **told)


def test_images_of_one_label_are_searched_once_more():
    model, (images, _) = small_lenet("kaiming"), small_digits(2)
    target = gradient_of(model, seen(images), torch.tensor([5, 5]))
    found = recover(model, target, SHAPE, batch_size=2, labels=[5, 5], **MNIST, steps=60)
    again = separate_equal_labels(model, target, found, **MNIST, steps=60)
    assert again.restarts.distance.shape == (1, 2)
    assert again.distance <= found.distance


def test_a_profile_takes_them():
    profile = profile_attack(small_lenet(), SHAPE, recoveries=1, evaluations=3, seconds=0.1, **MNIST)
    assert len(profile.levels) == 1


def test_cautions_of_joined_recoveries_are_those_of_the_winners():
    def box(*victims):
        return Caution("box", "", "", victims)

    assert joined_cautions([box(0, 2)], [box(0)], {2: 1}) == (box(0),)
    assert joined_cautions([box(2)], [box(0, 1)], {2: 1, 5: 0}) == (box(5, 2),)
    assert joined_cautions([box(2)], [], {2: 0}) == ()
    everywhere = Caution("mode", "0", "")
    assert joined_cautions([everywhere], [everywhere, box(0)], {}) == (everywhere,)
