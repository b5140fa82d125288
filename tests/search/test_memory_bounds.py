"""What a search would take is told by arithmetic, before anything is allocated."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sapag_fast import recover
from sapag_fast.recipes import RECIPES
from sapag_fast.runtime import memory
from sapag_fast.runtime.memory import check_memory, highest_resident, peak_bytes
from sapag_fast.search import capacity, prepare
from sapag_fast.search.setup import set_up

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


GRADIENT = [torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, -0.5])]

TOO_MUCH = {
    "restarts": ({"restarts": 10**7, "max_memory": 10**9}, "restarts 10000000, steps 600"),
    "inputs": ({"batch_size": 20_000_000, "max_memory": 10**9}, r"input_shape \[4\], batch_size 20000000"),
    "steps": ({"steps": 10**9, "max_memory": 10**9}, "steps 1000000000"),
    "memory that no machine has": ({"batch_size": 10**13}, "batch_size 10000000000000.* free memory"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_more_than_memory_bears(name, model):
    options, words = TOO_MUCH[name]
    before = highest_resident()
    with pytest.raises(ValueError, match=words):
        recover(model, GRADIENT, (4,), **options)
    assert highest_resident() - before < 100e6


def test_pictures_without_end(model):
    with pytest.raises(ValueError, match=r"input_shape \[1, 40000, 40000\], batch_size 1: expected to fit"):
        recover(model, GRADIENT, (1, 40000, 40000), max_memory=10**10)
    with pytest.raises(ValueError, match="input_shape must have at most 60 dimensions, found 101"):
        recover(model, GRADIENT, (1,) * 100 + (4,))


def test_what_a_network_makes_of_a_batch_is_told_by_two_inputs():
    seen = []

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow = nn.Linear(4, 2)

        def forward(self, inputs):
            seen.append(len(inputs))
            return self.narrow(inputs.flatten(1)[:, :, None].expand(-1, -1, 10_000).contiguous().mean(-1))

    with pytest.raises(
        ValueError, match=r"input_shape \[4\], batch_size 60000: expected to fit into max_mem"
    ):
        set_up(Wide(), (4,), batch_size=60_000, options=_options(max_memory=10**9))
    assert seen == [2]
    set_up(Wide(), (4,), batch_size=64, options=_options(max_memory=10**9))
    assert seen == [2, 64]


def _options(**options):
    from sapag_fast.search.options import SearchOptions

    return SearchOptions(**options)


def test_two_inputs_leave_the_random_numbers_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    drawn = []
    for batch in (64, 65):
        torch.manual_seed(0)
        output = set_up(model, (4,), batch_size=batch).probe.output
        torch.manual_seed(0)
        drawn.append(torch.equal(output, model(torch.zeros(batch, 4))))
    assert drawn == [True, True]


def test_small_searches_are_not_questioned(model, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: pytest.fail("memory was looked at"))
    assert recover(model, GRADIENT, (4,), steps=2, max_memory=1).evaluations.tolist() == [2]
    check_memory("x", 1 << 26, None, CPU)


def test_a_message_says_what_bounds(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**8)
    with pytest.raises(
        ValueError, match="x: expected to fit into free memory, 100000000 bytes, found 200000000"
    ):
        check_memory("x", 2 * 10**8, None, CPU)
    check_memory("x", 2 * 10**8, 10**9, CPU)


def _of_side(side):
    """A search of its pictures of 128x128 takes some 25 MB: most of it what the convolutions give."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Sigmoid(),
        nn.AvgPool2d(side // 4),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def _victims(model, count, side):
    pictures = torch.rand(count, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    known = torch.arange(count)[:, None]
    each = [
        torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        for x, y in zip(pictures, known, strict=True)
    ]
    return [torch.stack(rows) for rows in zip(*each, strict=True)], known


@pytest.mark.parametrize(("batched", "victims", "restarts"), [(False, 1, 4), (False, 1, 8), (True, 3, 1)])
def test_a_few_large_searches_are_planned_too(monkeypatch, batched, victims, restarts):
    monkeypatch.setattr(prepare, "APART", 1 << 20)  # as pictures of 224x224 are
    model = _of_side(128)
    targets, labels = _victims(model, victims, 128)
    if not batched:
        targets, labels = [target[0] for target in targets], labels[0]
    options = {"batched": batched, "labels": labels, "restarts": restarts, "steps": 2}
    found = []

    def search():
        found.append(recover(model, targets, (3, 128, 128), max_memory=100_000_000, **options))

    taken = peak_bytes(search, CPU)
    assert found[0].at_once < victims * restarts or batched
    assert taken < 100_000_000


def test_what_fits_without_doubt_is_not_measured(monkeypatch):
    monkeypatch.setattr(capacity, "peak_bytes", lambda work, device: pytest.fail("a step was measured"))
    model = _of_side(64)
    targets, labels = _victims(model, 1, 64)
    targets = [target[0] for target in targets]
    options = {"labels": labels[0], "restarts": 4, "steps": 1, "max_memory": 10**9}
    assert recover(model, targets, (3, 64, 64), **options).at_once == 4


@pytest.mark.parametrize("widths", [(1.0,), (1.0, 0.3)])
def test_large_searches_evaluated_apart_leave_no_trace(monkeypatch, widths):
    monkeypatch.setattr(prepare, "APART", 1)
    model = _of_side(24)
    targets, labels = _victims(model, 3, 24)
    recipe = replace(RECIPES["smooth"], widths=widths, steps=4)

    def search(targets, labels, **options):
        return recover(
            model, targets, (3, 24, 24), labels=labels, batched=True, restarts=2, recipe=recipe, **options
        )

    whole = search(targets, labels)
    assert whole.mode == "explicit"
    alone = search([target[1:2] for target in targets], labels[1:2])
    pairs = search(targets, labels, at_once=2)
    assert torch.equal(alone.history, whole.history[:, 1:2])
    assert torch.equal(alone.inputs, whole.inputs[1:2])
    assert torch.equal(pairs.inputs, whole.inputs)
    monkeypatch.setattr(prepare, "APART", 1 << 40)
    together = search(targets, labels)
    torch.testing.assert_close(whole.history[:2], together.history[:2], rtol=1e-3, atol=0.0)
