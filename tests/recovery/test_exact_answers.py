"""Arithmetic as the first member of the portfolio: all that is searched keeps its bits."""

import pytest
import torch
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.models import make_model

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def model():
    return make_model("mlp", image_size=8, widths=(64, 32), activation="relu", seed=0)


def _victims(model, count):
    torch.manual_seed(0)
    x, y = torch.rand(count, *SHAPE), torch.randint(10, (count,))
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x[v : v + 1]), y[v : v + 1]), list(model.parameters()))
        for v in range(count)
    ]
    return x, y, [torch.stack(parts) for parts in zip(*rows, strict=True)]


def _blurred(target, victim):
    torch.manual_seed(1)
    noisy = [entry.clone() for entry in target]
    for entry in noisy:
        entry[victim] += 0.05 * entry[victim].abs().mean() * torch.randn_like(entry[victim])
    return noisy


def test_an_answer_needs_no_evaluation_and_is_certified(model):
    x, y, target = _victims(model, 3)
    told = []
    found = sf.recover(
        model,
        target,
        SHAPE,
        batched=True,
        restarts=2,
        on_finished=lambda v, one: told.append((v, one.source)),
    )
    assert found.source == ("exact",) * 3
    assert found.source_reason == ("",) * 3
    assert (found.inputs[:, 0] - x).abs().max() < 1e-6
    assert torch.equal(found.labels[:, 0], y)
    assert found.evaluations.tolist() == [0, 0, 0]
    assert found.status == ("finished",) * 3
    assert all(one.certified and "determined by arithmetic" in one.reason for one in found.certificate)
    assert torch.equal(found.restarts.inputs[:, 0], found.inputs)
    assert found.restarts.distance[:, 1].isinf().all()
    assert told == [(v, ("exact",)) for v in range(3)]


def test_what_is_searched_keeps_its_bits_beside_what_is_not(model):
    target = _blurred(_victims(model, 4)[2], 2)
    given = {"batched": True, "steps": 30, "restarts": 2}
    found, off = (
        sf.recover(model, target, SHAPE, **given),
        sf.recover(model, target, SHAPE, exact="off", **given),
    )
    assert found.source == ("exact", "exact", "search", "exact")
    assert off.source == ("search",) * 4
    assert off.source_reason == ("",) * 4
    assert "first layer's gradient" in found.source_reason[2]
    assert torch.equal(found.inputs[2], off.inputs[2])
    assert torch.equal(found.history[:, 2].nan_to_num(), off.history[:, 2].nan_to_num())
    assert found.evaluations.tolist()[2] == off.evaluations.tolist()[2] > 0
    assert found.evaluations[[0, 1, 3]].sum() == 0


def test_one_victim_that_has_no_answer_is_searched_as_ever(model):
    target = [entry[0] for entry in _blurred(_victims(model, 1)[2], 0)]
    found, off = (sf.recover(model, target, SHAPE, steps=20, exact=how) for how in ("auto", "off"))
    assert torch.equal(found.inputs, off.inputs)
    assert torch.equal(found.history, off.history)


def test_a_batch_in_recover_has_its_labels_too(model):
    torch.manual_seed(3)
    x, y = torch.rand(5, *SHAPE), torch.tensor([3, 1, 4, 1, 5])
    target = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    found = sf.recover(model, target, SHAPE, batch_size=5, steps=20)
    assert found.source == ("exact",)
    assert found.labels.tolist() == [[1, 1, 3, 4, 5]]
    assert found.label_source == ("inferred",)
    joint = sf.recover(model, target, SHAPE, batch_size=5, steps=20, labels="joint")
    assert joint.source == ("exact",)
    assert joint.labels.tolist() == [[1, 1, 3, 4, 5]]
    assert joint.soft_labels.argmax(-1).tolist() == joint.labels.tolist()


def test_local_training_on_one_image_is_one_ratio_too(model):
    torch.manual_seed(4)
    x, y = torch.rand(1, *SHAPE), torch.tensor([7])
    client = make_model("mlp", image_size=8, widths=(64, 32), activation="relu", seed=0).double()
    before = [p.detach().clone() for p in client.parameters()]
    for _ in range(3):
        grads = torch.autograd.grad(F.cross_entropy(client(x.double()), y), list(client.parameters()))
        with torch.no_grad():
            for p, g in zip(client.parameters(), grads, strict=True):
                p -= 0.1 * g
    shared = [(b - p.detach()) / 0.1 for b, p in zip(before, client.parameters(), strict=True)]
    with torch.no_grad():
        for p, b in zip(client.parameters(), before, strict=True):
            p.copy_(b)
    found = sf.recover(client, shared, SHAPE, local_steps=3, local_lr=0.1, steps=20)
    assert found.source == ("exact",), found.source_reason
    assert (found.inputs[0] - x).abs().max() < 1e-6


def test_a_checkpoint_of_a_search_beside_answers(model, tmp_path):
    target = _blurred(_victims(model, 3)[2], 1)
    given = {"batched": True, "steps": 30}
    kept = sf.recover(model, target, SHAPE, checkpoint=tmp_path / "kept.safetensors", **given)
    assert torch.equal(kept.inputs, sf.recover(model, target, SHAPE, **given).inputs)
    assert not list(tmp_path.iterdir())


def test_the_option_is_checked():
    with pytest.raises(ValueError, match="exact must be one of"):
        sf.SearchOptions(exact="always")
