"""`recover` from end to end, on digits small enough for a test."""

import copy
import dataclasses

import pytest
import torch
from digit_victims import SHAPE, gradient_of, small_digits, small_lenet, stacked_gradients
from torch import nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.models import ConvNet, LeNet, initialise
from sapag_fast.recovery.recover import recover
from sapag_fast.search import capacity
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.recipe import RECIPES, Recipe, choose_recipe
from sapag_fast.search.starts import START_KINDS, make_start, recovery_generator


def _psnr(found, truth):
    return -10 * (found.clamp(0, 1) - truth).square().flatten(1).mean(1).log10()


@pytest.mark.parametrize("name", ["uniform", "normal.1", "xavier"])
def test_digits_come_back(name):
    model = small_lenet(name)
    images, labels = small_digits(4)
    result = recover(model, stacked_gradients(model, images, labels), SHAPE, batched=True, restarts=2)
    assert result.mode == "explicit"
    assert result.inputs.shape == (4, 1, *SHAPE)
    assert torch.equal(result.labels[:, 0], labels)
    assert (_psnr(result.inputs[:, 0], images) >= 25).all()
    assert result.status == ("finished",) * 4
    assert result.distance.max() < 1e-4
    assert (result.evaluations < result.recipe.steps).all()  # of both restarts: these are easy
    assert result.history.shape == (int(result.restarts.evaluations.max()), 4)
    assert torch.equal(result.distance, result.distance.clamp(min=0))
    assert (result.history.nan_to_num(torch.inf).amin(0) <= result.distance).all()


def test_single_recovery_and_progress():
    model = small_lenet()
    images, labels = small_digits(1, 7)
    seen = []
    result = recover(
        model,
        gradient_of(model, images, labels),
        SHAPE,
        progress=lambda n, best: seen.append((n, best.shape)),
    )
    assert result.mode == "single"
    assert _psnr(result.inputs[0], images).item() >= 25
    assert seen[-1] == (result.recipe.steps, torch.Size([1]))


def test_progress_bar(capsys):
    model = small_lenet()
    recover(model, gradient_of(model, *small_digits(1)), SHAPE, steps=3, progress=True)
    assert "recovering" in capsys.readouterr().out


def test_same_seed_same_bits():
    model = small_lenet("normal.5")
    images, labels = small_digits(2)
    target = stacked_gradients(model, images, labels)
    runs = [recover(model, target, SHAPE, batched=True, restarts=2, steps=30, seed=s) for s in (5, 5, 6)]
    assert torch.equal(runs[0].inputs, runs[1].inputs)
    assert torch.equal(runs[0].history, runs[1].history)
    assert not torch.equal(runs[0].inputs, runs[2].inputs)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", "signed-adam"])
def test_a_batch_is_its_recoveries_one_at_a_time(optimizer):
    model = small_lenet("normal.5").double()
    images, labels = small_digits(3)
    target = stacked_gradients(model, images.double(), labels)
    start = torch.rand(3, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"steps": 25, "optimizer": optimizer}
    together = recover(model, target, SHAPE, batched=True, start=start, **options)
    for v in range(3):
        alone = recover(model, [t[v] for t in target], SHAPE, start=start[v], **options)
        assert alone.mode == "single"
        torch.testing.assert_close(together.inputs[v], alone.inputs[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.history[:, v], alone.history[:, 0], rtol=1e-4, atol=1e-8)


def test_joint_labels():
    model = small_lenet("uniform", seed=3)
    images, labels = small_digits(4, 20)
    result = recover(
        model, stacked_gradients(model, images, labels), SHAPE, batched=True, labels="joint", restarts=3
    )
    good = _psnr(result.inputs[:, 0], images) >= 25
    assert good.sum() >= 3
    assert torch.equal(result.labels[good, 0], labels[good])


def test_two_images_behind_one_gradient():
    model = small_lenet("uniform", seed=1)
    images, labels = small_digits(2, 3)
    result = recover(model, gradient_of(model, images, labels), SHAPE, batch_size=2, restarts=2)
    assert result.inputs.shape == (1, 2, *SHAPE)
    assert torch.equal(result.labels[0], labels.sort().values)
    assert (_psnr(result.inputs[0], images[labels.argsort()]) >= 25).all()
    assert result.recipe.basis == "dct"


class Cliff(nn.Module):
    """A network that gives nan for bright inputs."""

    def __init__(self):
        super().__init__()
        self.net = small_lenet()

    def forward(self, x):
        return self.net(x) * torch.where(x.mean() > 0.9, torch.nan, 1.0)


def test_a_non_finite_recovery_stops_alone():
    model = Cliff()
    images, labels = small_digits(3)
    target = stacked_gradients(model, images, labels)
    start = torch.full((3, 1, *SHAPE), 0.5) + 0.01 * torch.randn(
        3, 1, *SHAPE, generator=torch.Generator().manual_seed(0)
    )
    calm = recover(model, target, SHAPE, batched=True, start=start, steps=40)
    assert calm.status == ("finished",) * 3
    start[1] = 0.95
    result = recover(model, target, SHAPE, batched=True, start=start, steps=40)
    assert result.status == ("finished", "non-finite", "finished")
    assert result.distance.isfinite().tolist() == [True, False, True]
    assert result.evaluations.tolist() == [40, 1, 40]
    assert torch.equal(result.inputs[1], start[1])
    assert result.history[:, 1].isnan().all()
    for v in (0, 2):
        torch.testing.assert_close(result.inputs[v], calm.inputs[v])


def test_best_finite_iterate_is_kept():
    """A huge rate throws the search off; the answer is still the best point it saw."""
    model = small_lenet()
    images, labels = small_digits(1)
    wild = dataclasses.replace(RECIPES["smooth"], lr=1e4, steps=20, line_search=None)
    result = recover(model, gradient_of(model, images, labels), SHAPE, recipe=wild)
    assert result.inputs.isfinite().all()
    assert result.distance.item() == pytest.approx(
        result.history[:1].nan_to_num(torch.inf).min().item(), rel=1e-3
    )


def test_interrupting_keeps_what_is_there():
    model = small_lenet()
    target = stacked_gradients(model, *small_digits(2))
    calls = []

    def stop(done, _):
        calls.append(done)
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # a loop over recover ends, too
        recover(model, target, SHAPE, batched=True, progress=stop)
    assert isinstance(caught.value, Interrupted)
    result = caught.value.recovery
    assert result.status == ("interrupted",) * 2
    assert result.history.shape[0] == 40
    assert result.distance.max() < 0.5
    assert torch.equal(result.evaluations, torch.tensor([40, 40]))


def test_stop_distance_ends_early():
    model = small_lenet()
    recipe = dataclasses.replace(RECIPES["smooth"], stop_distance=1e-2)
    result = recover(
        model, stacked_gradients(model, *small_digits(2)), SHAPE, batched=True, restarts=2, recipe=recipe
    )
    assert result.distance.max() <= 1e-2
    assert result.history.shape[0] < 300


def test_the_users_model_is_left_as_found():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6 * 196, 10),
    )
    model[0].bias.requires_grad_(False)
    model[4].eval()
    images, labels = small_digits(2)
    target = gradient_of(copy.deepcopy(model), images, labels)
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    generator = torch.random.get_rng_state()
    recover(model, target, SHAPE, batch_size=2, restarts=2, steps=5)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert flags == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()][:3] == [True, False, True]


def test_relu_network_improves_on_its_start():
    model = initialise(ConvNet(channels=1, image_size=16), "default", seed=1)
    images, labels = small_digits(1)
    result = recover(model, gradient_of(model, images, labels), SHAPE, steps=120, recipe="relu-adam")
    assert result.recipe.name == "relu-adam"
    assert result.inputs.min() >= 0
    assert result.inputs.max() <= 1
    assert _psnr(result.inputs[0], images).item() > 15


def test_inputs_that_are_no_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 5))
    truth, labels = torch.rand(1, 12), torch.tensor([2])
    result = recover(model, gradient_of(model, truth, labels), (12,), steps=200)
    assert result.recipe.tv == 0
    torch.testing.assert_close(result.inputs[0], truth, atol=0.02, rtol=0)


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.core(x)[0][:, -1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", [Attentive, Recurrent])
def test_sequence_models(kind):
    torch.manual_seed(0)
    model = kind().double()
    truth, labels = torch.rand(2, 1, 4, 16, dtype=torch.float64), torch.tensor([[0], [2]])
    rows = [gradient_of(model, x, y) for x, y in zip(truth, labels, strict=True)]
    target = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    result = recover(model, target, (4, 16), batched=True, start=torch.full((2, 1, 4, 16), 0.4), steps=40)
    assert torch.equal(result.labels, labels)
    assert (result.distance < 0.5 * result.history[0]).all()
    alone = recover(model, rows[1], (4, 16), start=torch.full((4, 16), 0.4), steps=40)
    torch.testing.assert_close(alone.history[:10, 0], result.history[:10, 1], rtol=1e-4, atol=1e-8)


def test_custom_loss_with_real_valued_labels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 2))
    truth, values = torch.rand(1, 8), torch.tensor([[0.3, -1.0]])
    target = torch.autograd.grad(F.mse_loss(model(truth), values), model.parameters())
    result = recover(model, target, (8,), loss_fn=F.mse_loss, labels=values, restarts=2)
    torch.testing.assert_close(result.inputs[0], truth, atol=0.02, rtol=0)
    assert torch.equal(result.labels[0], values)


def test_a_distance_object_and_a_kind():
    model = small_lenet()
    target = gradient_of(model, *small_digits(1))
    by_name = recover(model, target, SHAPE, steps=5, distance="cosine")
    by_object = recover(model, target, SHAPE, steps=5, distance=GradientDistance("cosine", batched=True))
    assert torch.equal(by_name.inputs, by_object.inputs)
    assert by_name.recipe.distance == "cosine"
    wide = recover(
        model,
        target,
        SHAPE,
        steps=5,
        distance=GradientDistance("cosine", layer_weights=None, merge_bias=False),
    )
    assert wide.distance.isfinite().all()


@pytest.mark.parametrize("kind", START_KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (2, 5)])
def test_starts(kind, shape):
    start, again = (make_start(kind, shape, (-1.0, 3.0), recovery_generator(1, 2, 3)) for _ in range(2))
    assert start.shape == shape
    assert torch.equal(start, again)
    assert not torch.equal(start, make_start(kind, shape, (-1.0, 3.0), recovery_generator(1, 2, 4)))
    if kind == "grey":
        assert (start - 1.0).abs().max() < 0.2
    if kind == "blurred" and len(shape) == 4:
        assert start[..., 1:].sub(start[..., :-1]).std() < 0.7 * start.std()


def test_recipe_choice():
    assert choose_recipe("auto", (1, 28, 28), 1, piecewise_linear=False).name == "smooth"
    assert choose_recipe("auto", (3, 32, 32), 1, piecewise_linear=False).name == "smooth-dct"
    assert choose_recipe("auto", (1, 28, 28), 4, piecewise_linear=False).name == "smooth-batch-grey"
    assert choose_recipe("auto", (3, 32, 32), 4, piecewise_linear=False).name == "smooth-batch"
    assert choose_recipe("auto", (3, 32, 32), 4, piecewise_linear=True).name == "relu"
    assert choose_recipe("smooth", (3, 32, 32), 1, piecewise_linear=True).name == "smooth-dct"
    assert choose_recipe("auto", (7,), 1, piecewise_linear=False).tv == 0
    own = Recipe("mine", steps=7)
    assert choose_recipe(own, (1, 28, 28), 1, piecewise_linear=True) is own


def test_relu_is_seen_in_functions_too():
    class Functional(LeNet):
        def forward(self, x):
            return F.relu(super().forward(x))

    model = initialise(Functional(image_size=16), "default")
    assert (
        recover(model, gradient_of(model, *small_digits(1)), SHAPE, labels=[0], steps=1).recipe.name == "relu"
    )


def test_victims_are_handed_out_and_the_run_goes_on_from_its_checkpoint(tmp_path):
    model = small_lenet("normal.5")
    images, labels = small_digits(3)
    target = stacked_gradients(model, images, labels)
    options = {"batched": True, "restarts": 2, "steps": 60, "at_once": 4}
    handed = {}
    whole = recover(model, target, SHAPE, **options, on_finished=handed.__setitem__)
    assert whole.at_once == 4
    for victim, found in handed.items():
        assert torch.equal(found.inputs[0], whole.inputs[victim])
        assert found.distance[0] == whole.distance[victim]
        assert found.status == ("finished",)
    assert sorted(handed) == [0, 1, 2]

    path = tmp_path / "state.safetensors"

    def stop(done, _):
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        recover(model, target, SHAPE, **options, checkpoint=path, progress=stop)
    assert "interrupted" in caught.value.recovery.status
    with pytest.raises(ValueError, match="belongs to a run with other arguments"):
        recover(model, target, SHAPE, **(options | {"restarts": 1}), checkpoint=path)
    found = recover(model, target, SHAPE, **options, checkpoint=path)
    assert torch.equal(found.inputs, whole.inputs)
    assert torch.equal(found.evaluations, whole.evaluations)
    assert not path.exists()


def test_memory_bounds_how_many_run_at_once(monkeypatch):
    """A search takes 300 kB here: what one takes that is so small is lost in the process's noise."""
    model = small_lenet()
    target = stacked_gradients(model, *small_digits(8))
    options = {"batched": True, "restarts": 2, "steps": 5}
    assert recover(model, target, SHAPE, **options).at_once == 16
    monkeypatch.setattr(capacity, "rows_that_fit", lambda measured, kept, budget: max(budget // 300_000, 1))
    tight = recover(model, target, SHAPE, **options, max_memory=3_000_000)
    assert tight.at_once == 8
    assert tight.inputs.shape == (8, 1, *SHAPE)
    assert recover(model, target, SHAPE, **options, max_memory=1).at_once == 1


def test_what_an_interrupt_kept_from_being_handed_out_is_handed_out_next_time(tmp_path):
    """Also where nothing is left to be searched."""
    model = small_lenet()
    target = stacked_gradients(model, *small_digits(3))
    options = {"batched": True, "steps": 20, "seed": 3, "checkpoint": tmp_path / "c.safetensors"}
    handed = []

    def interrupted_at_the_second(victim, found):
        if victim == 1 and victim not in handed:
            handed.append("interrupt")
            raise KeyboardInterrupt
        handed.append(victim)

    with pytest.raises(Interrupted) as caught:
        recover(model, target, SHAPE, **options, on_finished=interrupted_at_the_second)
    assert caught.value.recovery.status == ("finished",) * 3
    assert handed == [0, "interrupt"]
    assert (tmp_path / "c.safetensors").exists()
    recover(model, target, SHAPE, **options, on_finished=lambda victim, _: handed.append(victim))
    assert handed == [0, "interrupt", 1, 2]
    assert not (tmp_path / "c.safetensors").exists()


def test_measuring_how_many_fit_draws_no_random_numbers():
    """A dropout network finds the same with as many searches at once as were measured."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.Sigmoid(), nn.Dropout(0.2), nn.Linear(20, 10))
    target = stacked_gradients(model, *small_digits(4))
    options = {"batched": True, "steps": 5, "restarts": 2, "labels": [[0], [1], [2], [3]]}
    measured = recover(model, target, SHAPE, **options)
    given = recover(model, target, SHAPE, **options, at_once=measured.at_once)
    assert torch.equal(measured.history, given.history)


def test_a_checkpoint_of_another_loss_network_or_mode_is_refused(tmp_path):
    """Their parameters and targets may be the same."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 12), nn.Tanh(), nn.Dropout(0.1), nn.Linear(12, 10)
    ).eval()
    images, labels = small_digits(1)
    target = gradient_of(model, images, labels)
    path = tmp_path / "c.safetensors"
    usual = {"labels": labels, "steps": 60, "restarts": 1, "checkpoint": path, "exact": "off"}

    def stop(done, _):
        raise KeyboardInterrupt

    def smoothed(output, labels):
        return F.cross_entropy(output, labels, label_smoothing=0.3)

    other = nn.Sequential(*model)
    other[2] = nn.Sigmoid()
    for network, options in ((model, {"loss_fn": smoothed}), (other, {}), (model.train(), {})):
        model.eval()
        with pytest.raises(KeyboardInterrupt):
            recover(model, target, SHAPE, **usual, progress=stop)
        network.train(network is model and not options)
        with pytest.raises(ValueError, match="checkpoint"):
            recover(network, target, SHAPE, **usual, **options)
        path.unlink()
