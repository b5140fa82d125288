"""Training to a phase: far enough, the same bits again, and no damaged checkpoint is ever trusted."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sapag_fast import data
from sapag_fast.clients import training, training_cache
from sapag_fast.clients.training import Descent, train_to
from sapag_fast.files.tensors import read_tensors, write_tensors
from sapag_fast.models import FunctionalActivation, make_model


@pytest.fixture(scope="module")
def digits():
    return data.digits(300, size=12)


def _model(**options):
    return make_model("mlp", image_size=12, widths=(32,), activation="relu", **options)


def _same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "initialisation", ["default", "uniform", "normal.1", "normal.5", "xavier", "kaiming"]
)
def test_sigmoid_lenet_reaches_an_accuracy_with_the_defaults(initialisation):
    images, labels = data.digits(600, size=16)
    model = make_model("lenet", image_size=16, initialisation=initialisation)
    trained, phase = train_to(model, images, labels, accuracy=0.6)
    assert phase.reached
    assert 1 <= phase.epochs <= 60
    assert phase.steps == phase.epochs * 19
    with torch.no_grad():
        right = (trained(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(phase.accuracy, abs=1e-6)
    assert right >= 0.6


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_same_seed_same_bits(digits, optimizer):
    model = _model()
    before = copy.deepcopy(model)
    generator = torch.random.get_rng_state()
    first, again, other = (
        train_to(model, *digits, epochs=2, descent=Descent(optimizer, lr=0.01, seed=s)) for s in (3, 3, 4)
    )
    assert first[1] == again[1]
    assert _same(first[0], again[0])
    assert not _same(first[0], other[0])
    assert first[1].epochs == 2
    assert first[1].reached is None
    assert first[1].loss < train_to(model, *digits, epochs=0)[1].loss
    assert _same(model, before)
    assert all(p.grad is None for p in (*model.parameters(), *first[0].parameters()))
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_dropout_comes_from_the_seed():
    tokens, labels = torch.arange(24).view(8, 3) % 10, torch.arange(8) % 2
    model = make_model("encoder", vocabulary=10, width=8, dropout=0.3)
    torch.manual_seed(1)
    first, _ = train_to(model, tokens, labels, epochs=2, descent=Descent(batch_size=4))
    torch.manual_seed(2)
    again, _ = train_to(model, tokens, labels, epochs=2, descent=Descent(batch_size=4))
    assert _same(first, again)


def test_no_epoch_leaves_the_model(digits):
    model = _model()
    trained, phase = train_to(model, *digits, epochs=0)
    assert trained is not model
    assert _same(trained, model)
    assert (phase.epochs, phase.steps) == (0, 0)


def test_epochs_bound_an_accuracy(digits, monkeypatch):
    _, phase = train_to(_model(), *digits, epochs=1, accuracy=1.0)
    assert (phase.epochs, phase.reached) == (1, False)
    monkeypatch.setattr(training, "MOST_EPOCHS", 2)
    _, phase = train_to(_model(), *digits, accuracy=1.0)
    assert (phase.epochs, phase.reached) == (2, False)
    trained, _ = train_to(_model(), *digits, epochs=2)
    _, phase = train_to(trained, *digits, accuracy=0.05)
    assert (phase.epochs, phase.reached) == (0, True)


def test_modes_and_frozen_parameters_stay(digits):
    images, labels = digits
    model = make_model("resnet20", channels=1, image_size=12, widths=(2, 3, 4), blocks=1)
    model.body[1].eval()
    model.fc.bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    trained, _ = train_to(model, images[:40], labels[:40], epochs=1)
    assert [module.training for module in trained.modules()] == modes
    assert torch.equal(trained.fc.bias, model.fc.bias)
    assert not torch.equal(trained.fc.weight, model.fc.weight)
    assert int(trained.body[1].num_batches_tracked) == 2
    assert int(model.body[1].num_batches_tracked) == 0


def _never(*_):
    raise AssertionError("trained again")


def test_a_checkpoint_is_used_again(digits, tmp_path, monkeypatch):
    model, cache = make_model("resnet20", channels=1, widths=(2, 3, 4), blocks=1), tmp_path / "deep" / "er"
    images, labels = digits[0][:40], digits[1][:40]
    first = train_to(model, images, labels, epochs=1, accuracy=0.99, cache=cache)
    (file,) = cache.iterdir()
    assert file.suffix == ".safetensors"
    assert len(file.stem) == 64
    monkeypatch.setattr(training, "_train", _never)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train_to(model, images, labels, epochs=1, accuracy=0.99, cache=cache)
    assert again[1] == first[1]
    assert _same(first[0], again[0])
    assert again[0].training == model.training


def test_another_call_has_another_checkpoint(digits, tmp_path):
    images, labels = digits[0][:20], digits[1][:20]
    brighter = images.clone()
    brighter[0, 0, 0, 0] += 1e-6
    calls = [
        (_model(), images, labels, {}),
        (_model(seed=1), images, labels, {}),
        (make_model("mlp", image_size=12, widths=(32,), activation="tanh"), images, labels, {}),
        (make_model("mlp", image_size=12, widths=(32,), activation=torch.tanh), images, labels, {}),
        (_model(), brighter, labels, {}),
        (_model(), images, labels.flip(0), {}),
        (_model(), images, labels, {"epochs": 2}),
        (_model(), images, labels, {"accuracy": 0.99}),
        (_model(), images, labels, {"descent": Descent("sgd")}),
        (_model(), images, labels, {"descent": Descent(lr=0.002)}),
        (_model(), images, labels, {"descent": Descent(batch_size=7)}),
        (_model(), images, labels, {"descent": Descent(seed=1)}),
    ]
    for count, (model, x, y, options) in enumerate(calls, 1):
        train_to(model, x, y, **{"epochs": 1, **options}, cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == count
    for slope in (1, 2):
        model = _model()
        model.body[1] = FunctionalActivation(partial(F.softplus, beta=slope))
        train_to(model, images, labels, epochs=1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(calls) + 2
    spelt_out = Descent(lr=0.001)  # the default
    train_to(_model(), images, labels, epochs=1, descent=spelt_out, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(calls) + 2


def _flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def _empty(file):
    file.write_bytes(b"")


def _swap_weights(file):
    state, metadata = read_tensors(file)
    write_tensors(file, {name: tensor + 1 for name, tensor in state.items()}, metadata)


def _boast(file):
    state, metadata = read_tensors(file)
    write_tensors(file, state, {**metadata, "phase": metadata["phase"].replace('"epochs": 1', '"epochs": 9')})


def _forget(file):
    write_tensors(file, read_tensors(file)[0])


def _another_run(file):
    state, metadata = read_tensors(file)
    write_tensors(file, state, {**metadata, "belongs_to": "0" * 64})


def test_a_function_without_a_name_is_not_kept(digits, tmp_path):
    model = _model()
    model.body[1] = FunctionalActivation(lambda x: x.sin())
    with pytest.raises(ValueError, match=r"cache: .*<lambda> could be any function"):
        train_to(model, *digits, epochs=1, cache=tmp_path)
    assert train_to(model, *digits, epochs=1)[1].epochs == 1


@pytest.mark.parametrize("damage", [_flip_a_byte, _cut, _empty, _swap_weights, _boast, _forget, _another_run])
def test_a_damaged_checkpoint_is_reported_and_replaced(digits, tmp_path, damage):
    first = train_to(_model(), *digits, epochs=1, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    damage(file)
    assert file.read_bytes() != whole
    with pytest.warns(UserWarning, match=rf"{file.name}: damaged.*; training anew") as caught:
        again = train_to(_model(), *digits, epochs=1, cache=tmp_path)
    assert caught[0].filename == __file__
    assert again[1] == first[1]
    assert _same(first[0], again[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train_to(_model(), *digits, epochs=1, cache=tmp_path)[1] == first[1]
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_code_is_part_of_what_a_checkpoint_belongs_to(digits, tmp_path, monkeypatch):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1))

    model = Own(144, 10)
    train_to(model, *digits, epochs=0, cache=tmp_path)
    monkeypatch.setattr(training_cache.inspect, "getsource", lambda kind: "otherwise")
    train_to(model, *digits, epochs=0, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_progress_goes_to_standard_error(digits, capsys):
    _, phase = train_to(_model(), *digits, epochs=2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"epoch 2, accuracy {phase.accuracy:.3f}, loss {phase.loss:.3f}" in shown.err
    train_to(_model(), *digits, epochs=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": None}, "epochs, accuracy: expected at least one of them"),
        ({"epochs": -1}, "epochs must be at least 0, found -1"),
        ({"accuracy": 90}, r"accuracy must be a fraction in 0\.\.1, found 90"),
        ({"images": torch.zeros(0, 1, 12, 12)}, r"images: expected .* N > 0, found \[0, 1, 12, 12\]"),
        ({"labels": torch.zeros(299, dtype=torch.int64)}, r"labels: expected 300 integers.*\[299\]"),
        ({"labels": torch.zeros(300)}, r"labels: expected 300 integers, found torch.float32 \[300\]"),
        ({"labels": torch.full((300,), 10)}, r"labels: expected 0\.\.9, found 10\.\.10"),
    ],
)
def test_arguments_that_do_not_fit(digits, options, message):
    arguments = {"images": digits[0], "labels": digits[1], "epochs": 1, **options}
    with pytest.raises(ValueError, match=message):
        train_to(_model(), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer must be one of sgd, adam, found 'lbfgs'"),
        ({"lr": 0.0}, "lr must be positive and finite, found 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_descents_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Descent(**options)


def test_what_cannot_be_trained(digits, tmp_path):
    with pytest.raises(ValueError, match="lr: training diverged in epoch"):
        train_to(_model(), *digits, epochs=20, descent=Descent("sgd", lr=1e18))
    frozen = _model().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have a parameter with requires_grad=True"):
        train_to(frozen, *digits, epochs=1)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"cache .*file: cannot be a folder"):
        train_to(_model(), *digits, epochs=1, cache=file)
