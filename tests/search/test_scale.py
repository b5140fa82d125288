"""A victim's own scale: distances that are tiny or huge at noise weigh as usual against the penalties."""

import pytest
import torch
from digit_victims import SHAPE, small_digits, small_lenet, stacked_gradients
from torch import nn
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.search.scale import TYPICAL, USUAL, scales


def deep(layers=8, width=6):
    """A deep smooth network whose gradient hardly depends on its input: D of a noise image is about 1e-4."""
    torch.manual_seed(0)
    modules, channels = [], 1
    for _ in range(layers):
        modules += [nn.Conv2d(channels, width, 3, 1, 1), nn.Sigmoid()]
        channels = width
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * 256, 10))


def psnr(found, truth):
    return -10 * (found.clamp(0, 1) - truth).square().flatten(1).mean(1).log10()


def test_usual_distances_and_those_that_tell_nothing_keep_their_scale():
    low, high = USUAL
    noise = torch.tensor([low, 1.0, high, 0.0, torch.inf, torch.nan])
    assert torch.equal(scales(noise), torch.ones(6))
    assert torch.allclose(
        scales(torch.tensor([1e-9, 30.0])) * torch.tensor([1e-9, 30.0]), torch.tensor(TYPICAL)
    )


def test_lenets_keep_their_bits():
    model = small_lenet()
    target = stacked_gradients(model, *small_digits(2))
    options = {"batched": True, "steps": 20, "restarts": 2}
    found = sf.recover(model, target, SHAPE, **options)
    plain = sf.recover(model, target, SHAPE, **options, scale=1.0)
    assert torch.equal(found.scale, torch.ones(2))
    assert torch.equal(found.inputs, plain.inputs)


def test_a_deep_smooth_network_gives_its_digit_away():
    model, (images, labels) = deep(), small_digits(1)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "labels": labels[:, None], "steps": 100}
    found = sf.recover(model, target, SHAPE, **options)
    assert (found.scale > 100).all()
    assert (psnr(found.inputs[:, 0], images) > 25).all()
    assert not found.warnings
    plain = sf.recover(model, target, SHAPE, **options, scale=1.0)
    assert (psnr(plain.inputs[:, 0], images) < 20).all()
    again = sf.recover(model, target, SHAPE, **options, scale=float(found.scale[0]))
    assert torch.equal(again.inputs[0], found.inputs[0])


def test_a_victim_has_the_same_scale_in_any_company():
    model, (images, labels) = deep(), small_digits(5)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "labels": labels[:, None], "steps": 12, "restarts": 2}
    whole = sf.recover(model, target, SHAPE, **options, at_once=3)
    two = [None if g is None else g[3:5] for g in target]
    part = sf.recover(model, two, SHAPE, **options | {"labels": labels[3:5, None]}, at_once=3)
    assert torch.equal(whole.scale[3:5], part.scale)
    assert torch.equal(whole.inputs[3:5], part.inputs)


def test_it_is_kept_in_the_checkpoint(tmp_path):
    model, (images, labels) = deep(), small_digits(3)
    target = stacked_gradients(model, images, labels)
    options = {
        "batched": True,
        "labels": labels[:, None],
        "steps": 40,
        "checkpoint": tmp_path / "c.safetensors",
    }
    whole = sf.recover(model, target, SHAPE, **options)

    def stop(done, lowest):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(sf.Interrupted):
        sf.recover(model, target, SHAPE, **options, progress=stop)
    resumed = sf.recover(model, target, SHAPE, **options)
    assert torch.equal(resumed.scale, whole.scale)
    assert torch.equal(resumed.inputs, whole.inputs)


def test_other_kinds_keep_their_scale():
    model, (images, labels) = deep(), small_digits(1)
    gradient = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    found = sf.recover(model, gradient, (1, *SHAPE)[-3:], labels=labels, steps=2, distance="l2")
    assert torch.equal(found.scale, torch.ones(1))
    found = sf.recover(model, gradient, (1, *SHAPE)[-3:], labels=labels, steps=2, distance="l2", scale=5.0)
    assert torch.equal(found.scale, torch.full((1,), 5.0))


@pytest.mark.parametrize("scale", [0.0, -1.0, torch.inf, torch.nan, "great", True, None])
def test_what_is_no_scale_is_refused(scale):
    with pytest.raises((TypeError, ValueError), match="scale"):
        sf.Recipe("own", scale=scale)
    if scale is not None:
        with pytest.raises((TypeError, ValueError), match="scale"):
            sf.SearchOptions(scale=scale)


def test_too_few_digits_are_said_and_float64_holds_them():
    model, (images, labels) = deep(16, 4), small_digits(1)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "labels": labels[:, None]}
    found = sf.recover(model, target, SHAPE, **options, steps=60)
    (caution,) = found.warnings
    assert (caution.kind, caution.victims) == ("few-digits", (0,))
    assert "float32 holds too few" in caution.message
    assert "float64" in caution.message
    assert not sf.recover(model, target, SHAPE, **options, steps=2, scale=1e12).warnings
    model, images = model.double(), images.double()
    more = sf.recover(model, stacked_gradients(model, images, labels), SHAPE, **options, steps=60)
    assert not more.warnings
    assert (psnr(more.inputs[:, 0], images) > psnr(found.inputs[:, 0], images) + 3).all()
