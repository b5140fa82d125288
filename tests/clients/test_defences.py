"""Defences on gradients: what each guarantees exactly, and that attacks meet them as they should."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast import data
from sapag_fast.clients.defences import clip_norm, compose, gaussian_noise, prune, quantise, sign, withhold
from sapag_fast.clients.named_defences import named_defences
from sapag_fast.models import LeNet, initialise

SHAPES = ((4, 3, 5, 5), (4,), (10, 36), (10,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradient(dtype=torch.float32, recoveries=None, seed=0):
    """Layers of very different size, and one entry that is not shared."""
    leading = () if recoveries is None else (recoveries,)
    generator = seeded(seed)
    tensors = [
        torch.randn(*leading, *shape, generator=generator).mul(10.0**-k).to(dtype)
        for k, shape in enumerate(SHAPES)
    ]
    return [*tensors[:2], None, *tensors[2:]]


def entries(gradients):
    return torch.cat([g.flatten().double() for g in gradients if g is not None])


def all_defences():
    return {
        "noise": partial(gaussian_noise, scale=0.1, generator=seeded(7)),
        "relative noise": partial(gaussian_noise, scale=0.1, generator=seeded(7), relative=True),
        "clip": partial(clip_norm, max_norm=0.5),
        "prune": partial(prune, fraction=0.7),
        "sign": sign,
        "quantise": quantise,
        "withhold": partial(withhold, layers=[-1]),
        "compose": compose(partial(clip_norm, max_norm=2.0), partial(quantise, bits=4)),
        "nothing": compose(),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(all_defences()))
def test_inputs_stay_and_types_are_kept(name, dtype):
    given = gradient(dtype)
    before = [None if g is None else g.clone() for g in given]
    shared = all_defences()[name](tuple(g if g is None else g.requires_grad_() for g in given))
    assert isinstance(shared, list)
    assert len(shared) == len(given)
    assert shared[2] is None
    for old, kept, new in zip(given, before, shared, strict=True):
        if old is None:
            continue
        assert torch.equal(old, kept)
        if new is not None:
            assert (new.dtype, new.shape) == (old.dtype, old.shape)
            assert not new.requires_grad
            assert new.isfinite().all()
            assert new.data_ptr() != old.data_ptr()


@pytest.mark.parametrize("name", list(all_defences()))
def test_batched_is_one_recovery_after_the_other(name):
    rows = gradient(recoveries=3)
    together = all_defences()[name](rows, batched=True)
    defence = all_defences()[name]
    alone = [defence([None if g is None else g[r] for g in rows]) for r in range(3)]
    for position, tensor in enumerate(together):
        for r in range(3):
            one = alone[r][position]
            assert (tensor is None) == (one is None)
            assert tensor is None or torch.equal(tensor[r], one)


def test_noise_has_its_scale_and_its_seed():
    given = [torch.zeros(200, 500), torch.ones(300)]
    first, again = (gaussian_noise(given, 0.25, generator=seeded(3)) for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], gaussian_noise(given, 0.25, generator=seeded(4))[0])
    # The standard error of a deviation over n entries is 1 / sqrt(2 n) of it: 5 of them.
    assert first[0].std().item() == pytest.approx(0.25, rel=5 / math.sqrt(2e5))
    assert abs(first[0].mean().item()) < 5 * 0.25 / math.sqrt(1e5)
    assert all(map(torch.equal, gaussian_noise(given, 0.0, generator=seeded()), given))


def test_relative_noise_goes_with_the_gradient():
    given = gradient()
    longer = [None if g is None else 8 * g for g in given]
    small, large = (gaussian_noise(g, 0.5, generator=seeded(1), relative=True) for g in (given, longer))
    torch.testing.assert_close(entries(large), 8 * entries(small), rtol=1e-5, atol=1e-6)
    rms = entries(given).square().mean().sqrt().item()
    absolute = gaussian_noise(given, 0.5 * rms, generator=seeded(1))
    torch.testing.assert_close(entries(small), entries(absolute), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 3.0])
def test_clipping_reaches_the_norm_and_keeps_the_direction(max_norm):
    given = gradient()
    shared = clip_norm(given, max_norm)
    assert entries(shared).norm().item() == pytest.approx(max_norm, rel=1e-6)
    cosine = F.cosine_similarity(entries(given), entries(shared), dim=0).item()
    assert cosine == pytest.approx(1, abs=1e-12)


def test_clipping_leaves_a_short_gradient_alone():
    given = gradient()
    shared = clip_norm(given, entries(given).norm().item() * 1.0001)
    assert torch.equal(entries(shared), entries(given))
    assert entries(clip_norm([torch.zeros(3)], 1.0)).count_nonzero() == 0


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.5, 0.9, 1.0])
def test_pruning_counts_exactly_and_takes_the_smallest(fraction):
    given = gradient()
    before, after = entries(given), entries(prune(given, fraction))
    count = round(fraction * len(before))
    assert int((after == 0).sum()) == count
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    if 0 < count < len(before):
        assert before[~kept].abs().max() <= before[kept].abs().min()


def test_pruning_breaks_ties_by_position():
    given = [torch.tensor([2.0, -1.0, 1.0]), torch.tensor([[1.0, -1.0, 3.0]])]
    shared = prune(given, 0.5)
    assert shared[0].tolist() == [2, 0, 0]
    assert shared[1].tolist() == [[0, -1, 3]]


def test_sign_has_two_values_and_the_mean_magnitude():
    for old, new in zip(gradient(), sign(gradient()), strict=True):
        if old is None:
            continue
        assert torch.equal(new.sign(), old.sign())
        assert len(new.abs().unique()) == 1
        assert new.abs().flatten()[0].item() == pytest.approx(old.abs().double().mean().item(), rel=1e-6)
    assert sign([torch.tensor([0.0, -3.0])])[0].tolist() == [0.0, -1.5]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_quantised_entries_lie_on_the_levels(bits):
    levels = 2 ** (bits - 1) - 1
    for old, new in zip(gradient(), quantise(gradient(), bits), strict=True):
        if old is None:
            continue
        largest = old.abs().max().double()
        multiples = new.double() / (largest / levels)
        torch.testing.assert_close(multiples, multiples.round(), rtol=1e-6, atol=1e-6)
        assert len(new.unique()) <= 2**bits - 1
        assert new.abs().max() == old.abs().max()
        assert (new - old).abs().max() <= largest / levels / 2 * (1 + 1e-6) + 1e-7 * largest
    many = torch.linspace(-1, 1, 100_001)
    assert len(quantise([many], bits)[0].unique()) == min(2**bits - 1, len(many))


def test_quantising_rounds_half_to_even_and_keeps_zeros():
    assert quantise([torch.tensor([7.0, 2.5, 3.5, -2.5, 0.0])], 4)[0].tolist() == [7, 2, 4, -2, 0]
    assert quantise([torch.zeros(3)])[0].tolist() == [0, 0, 0]


def test_withholding_takes_positions_from_both_ends():
    given = gradient()
    shared = withhold(given, [0, -1])
    assert [entry is None for entry in shared] == [True, False, True, False, True]
    assert torch.equal(shared[1], given[1])
    assert withhold(given, 1)[1] is None


def test_compose_applies_in_order():
    given = gradient()
    clip, noise = partial(clip_norm, max_norm=0.1), partial(gaussian_noise, scale=1.0)
    private = compose(clip, partial(noise, generator=seeded(2)))(given)
    expected = gaussian_noise(clip_norm(given, 0.1), 1.0, generator=seeded(2))
    assert torch.equal(entries(private), entries(expected))
    other = compose(partial(noise, generator=seeded(2)), clip)(given)
    assert entries(other).norm().item() == pytest.approx(0.1, rel=1e-6)
    assert entries(private).norm() > 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda g: gaussian_noise(g, -1.0, generator=seeded()),
            ValueError,
            "scale must be finite and not neg",
        ),
        (lambda g: gaussian_noise(g, math.nan, generator=seeded()), ValueError, "scale .* nan"),
        (lambda g: gaussian_noise(g, 1.0, generator=3), TypeError, "generator must be .* found int"),
        (lambda g: clip_norm(g, 0.0), ValueError, "max_norm must be positive and finite, found 0.0"),
        (lambda g: clip_norm(g, "1"), TypeError, "max_norm must be a number, found str"),
        (lambda g: prune(g, 1.5), ValueError, r"fraction must be a fraction in 0\.\.1, found 1.5"),
        (lambda g: quantise(g, 1), ValueError, "bits must be at least 2, found 1"),
        (lambda g: quantise(g, 8.0), TypeError, "bits must be an int, found float"),
        (lambda g: withhold(g, [5]), ValueError, r"layers\[0\] must be at most 4, found 5"),
        (lambda g: withhold(g, [0.0]), TypeError, r"layers\[0\] must be an int, found float"),
        (lambda g: withhold(g, range(5)), ValueError, "leaves nothing"),
        (lambda g: sign(g[0]), TypeError, "gradients: expected a sequence of tensors, found one tensor"),
        (lambda g: sign([None, 3]), TypeError, r"gradients\[1\] must be a tensor or None, found int"),
        (lambda g: sign([torch.ones(2, dtype=torch.int64)]), TypeError, "floating point"),
        (lambda g: sign([None]), ValueError, "at least one tensor"),
        (lambda g: sign(g, batched=True), ValueError, "one leading recovery dimension"),
        (lambda g: sign([torch.tensor(1.0)], batched=True), ValueError, "one leading recovery dimension"),
        (lambda g: compose(sign, 3), TypeError, "defences must be callables, found int"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(gradient())


def test_names_are_the_functions():
    given = gradient()
    for text, expected in (
        ("clip:0.5", clip_norm(given, 0.5)),
        ("prune:0.9", prune(given, 0.9)),
        ("sign", sign(given)),
        ("quantise:4", quantise(given, 4)),
        ("withhold:0,-1", withhold(given, [0, -1])),
    ):
        shared = named_defences([text], 0)(given)
        assert [entry is None for entry in shared] == [entry is None for entry in expected]
        assert torch.equal(entries(shared), entries(expected))


def test_named_noise_follows_from_the_seed_alone():
    zeros = [torch.zeros(1000)]
    (first,), (again,), (other,) = (named_defences(["noise:1"], seed)(zeros) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Not what a model seeded alike drew its weights from.
    drawn = torch.randn(1000, generator=seeded(5))
    assert abs(torch.corrcoef(torch.stack([first, drawn]))[0, 1].item()) < 0.2


@pytest.mark.parametrize(
    "text",
    ["sign:3", "blur:1", "noise", "noise:-1", "noise:x", "clip:", "prune:2", "quantise:1", "withhold:a"],
)
def test_unknown_names_and_values(text):
    with pytest.raises(ValueError, match=f"defence '{text}'"):
        named_defences([text], 0)


@pytest.fixture(scope="module")
def victim():
    """A sigmoid LeNet, a digit, and the digit's gradient."""
    model = initialise(LeNet(), "uniform", seed=0)
    images, labels = data.digits(1, 28)
    loss = F.cross_entropy(model(images), labels)
    return model, images, labels, torch.autograd.grad(loss, list(model.parameters()))


def test_a_lightly_noised_gradient_still_gives_the_digit_away(victim):
    model, images, labels, target = victim
    noised = gaussian_noise(target, 1e-4, generator=seeded(1), relative=True)
    found = sf.recover(model, noised, (1, 28, 28), restarts=4, seed=0)
    assert found.labels.flatten().tolist() == labels.tolist()
    assert (found.inputs.view_as(images) - images).square().mean().item() < 1e-2


def test_strong_noise_hides_the_digit(victim):
    model, images, labels, target = victim
    noised = gaussian_noise(target, 1.0, generator=seeded(1), relative=True)
    found = sf.recover(model, noised, (1, 28, 28), restarts=2, labels=labels, steps=100, seed=0)
    assert (found.inputs.view_as(images) - images).square().mean().item() > 3e-2


def test_a_withheld_last_layer_needs_labels_and_no_more(victim):
    model, images, labels, target = victim
    shared = withhold(target, [-2, -1])
    with pytest.raises(ValueError, match="labels cannot be inferred"):
        sf.recover(model, shared, (1, 28, 28), restarts=1, steps=5)
    found = sf.recover(model, shared, (1, 28, 28), labels=labels, restarts=4, seed=0)
    assert (found.inputs.view_as(images) - images).square().mean().item() < 1e-2
