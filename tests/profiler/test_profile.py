"""`profile_attack` whole: figures that hang together, files, and errors for what does not fit."""

import io
import json
import math

import pytest
import torch
from attacks import MODES, SHAPE, scaled, small
from PIL import Image
from rich.console import Console
from torch import nn

import sapag_fast as sf
from sapag_fast.profiler import profile as profile_module
from sapag_fast.profiler.stages import STAGES
from sapag_fast.search.recipe import RECIPES

BRIEF = {"evaluations": 40, "seconds": 2.0}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "trace.json"
    return sf.profile_attack(small(), SHAPE, recoveries=(4, 1), trace=trace, **BRIEF), trace


def test_two_arguments_are_enough(monkeypatch):
    # As they are by default, only shorter.
    monkeypatch.setattr(profile_module, "Limits", lambda evaluations, seconds: LIMITS(10, 0.2))
    profile = sf.profile_attack(small(), SHAPE)
    assert [level.recoveries for level in profile.levels] == [1, 8, 64]


LIMITS = profile_module.Limits


def test_levels_are_those_asked_for(found):
    profile, _ = found
    assert [(level.recoveries, level.mode) for level in profile.levels] == [(1, "single"), (4, "explicit")]
    assert profile.model == "Sequential"
    assert profile.input_shape == SHAPE
    assert profile.recipe["name"] == "smooth"
    assert not profile.skipped


def test_stages_add_up(found):
    for level in found[0].levels:
        assert [stage.name for stage in level.stages] == list(STAGES)
        for stage in level.stages:
            assert stage.seconds >= 0
            assert stage.gap >= 0
            assert 0 < stage.whole < level.watched_seconds
        whole = sum(stage.whole for stage in level.stages)
        # All of a watched step but the loop around it.
        assert 0.8 * level.watched_seconds < whole <= level.watched_seconds * (1 + 1e-9)
        # The machine may be busy: the bar itself is benchmarks/profiler/profile_check.py's.
        assert 0.3 < level.accounted < 3
        assert level.accounted == pytest.approx(whole / level.step_seconds)
        assert 0.8 < level.accounted_undisturbed < 1.3


def test_rates_follow_from_times(found):
    steps = RECIPES["smooth"].steps
    for level in found[0].levels:
        assert level.evaluations_per_second == pytest.approx(level.recoveries / level.step_seconds)
        assert level.recoveries_per_hour == pytest.approx(level.evaluations_per_second * 3600 / steps)
        assert level.peak_bytes >= 0
        assert level.launches is None
        assert level.graph_seconds is None


def test_layers_say_their_way_and_why(found):
    single, explicit = found[0].levels
    assert single.layers == ()
    assert [layer.layer for layer in explicit.layers] == ["0", "3"]
    assert [layer.rule for layer in explicit.layers] == ["convolution", "linear"]
    for layer in explicit.layers:
        assert layer.ways == {"weight": "materialised", "bias": "materialised"}
        assert "ms" in layer.why["weight"] or "gain" in layer.why["weight"]
        assert layer.forward_seconds > 0
        assert layer.sums_seconds > 0
        assert layer.share == pytest.approx(
            (layer.forward_seconds + layer.sums_seconds) / explicit.step_seconds
        )


def test_the_trace_holds_the_stages(found):
    names = {event.get("name") for event in json.loads(found[1].read_text())["traceEvents"]}
    assert {f"sapag_fast: {stage}" for stage in STAGES} <= names


def test_json_holds_everything(found, tmp_path):
    profile, _ = found
    text = profile.to_json(tmp_path / "profile.json")
    assert (tmp_path / "profile.json").read_text() == text
    read = json.loads(text)
    assert read["levels"][1]["recoveries"] == 4
    assert read["levels"][1]["accounted"] == pytest.approx(profile.levels[1].accounted)
    assert read["levels"][0]["stages"][0]["roofline"] == pytest.approx(profile.levels[0].stages[0].roofline)
    assert read["bottleneck"] == profile.bottleneck
    assert all(math.isfinite(value) for value in read["ceilings"].values())


def test_the_table_shows_stages_layers_and_the_sentence(found):
    profile, _ = found
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(profile.table())
    text = console.export_text()
    for said in (*STAGES, "host gaps", "R=4", "materialised", "Next bottleneck", "GB/s"):
        assert said in text


def test_the_plot_is_a_picture(found, tmp_path):
    found[0].plot(tmp_path / "profile.png")
    with Image.open(tmp_path / "profile.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_a_model_is_left_as_it_was():
    model = scaled().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    sf.profile_attack(model, SHAPE, recoveries=2, evaluations=2, seconds=0.2)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("mode", ["vmap", "sequential"])
def test_other_ways_of_batching(mode):
    model, recoveries = MODES[mode]
    profile = sf.profile_attack(model(), SHAPE, recoveries=recoveries, evaluations=5, seconds=0.5)
    (level,) = profile.levels
    assert level.mode == mode
    assert level.mode_reason
    assert level.layers == ()
    assert all(stage.whole > 0 for stage in level.stages)


def test_networks_with_kinks_and_batches_of_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    profile = sf.profile_attack(model, SHAPE, recoveries=3, evaluations=2, seconds=0.2, batch_size=2)
    assert profile.recipe["name"] == "relu"
    assert profile.batch_size == 2
    assert profile.levels[0].mode == "explicit"
    assert all(stage.whole > 0 for stage in profile.levels[0].stages)


def test_overrides_reach_the_attack():
    profile = sf.profile_attack(
        small(),
        SHAPE,
        recoveries=2,
        evaluations=2,
        seconds=0.2,
        distance="cosine",
        optimizer="adam",
        steps=50,
    )
    settings = [profile.recipe[name] for name in ("distance", "optimizer", "steps")]
    assert settings == ["cosine", "adam", 50]
    assert profile.levels[0].attack_steps == 50


def test_what_does_not_fit_into_memory_is_skipped(monkeypatch):
    free = iter((2**40, 1))
    monkeypatch.setattr(profile_module, "free_bytes", lambda device: next(free))
    profile = sf.profile_attack(small(), SHAPE, recoveries=(1, 4), evaluations=2, seconds=0.2)
    assert [level.recoveries for level in profile.levels] == [1]
    assert "GiB" in profile.skipped[4]


def test_where_not_even_the_fewest_fit_it_is_refused(monkeypatch):
    monkeypatch.setattr(profile_module, "free_bytes", lambda device: 1)
    with pytest.raises(ValueError, match=r"recoveries: 1 needs about .* GiB that are free"):
        sf.profile_attack(small(), SHAPE, recoveries=(1, 4), evaluations=2, seconds=0.2)


def sequences():
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 5))


REFUSED = {
    "no model": ({"model": 3}, TypeError, "model must be a torch.nn.Module, found int"),
    "shape": ({"input_shape": (3, 8, 8)}, ValueError, "input_shape .*rejects"),
    "recoveries": ({"recoveries": (0, 2)}, ValueError, "recoveries must be at least 1, found 0"),
    "no recoveries": ({"recoveries": ()}, ValueError, "recoveries must hold at least one"),
    "kind of recoveries": ({"recoveries": (1.5,)}, TypeError, "recoveries must be an int, found float"),
    "evaluations": ({"evaluations": 0}, ValueError, "evaluations must be at least 1"),
    "seconds": ({"seconds": 0.0}, ValueError, "seconds must be positive"),
    "kind of seconds": ({"seconds": "long"}, TypeError, "seconds must be a number, found str"),
    "seed": ({"seed": "x"}, TypeError, "seed must be an int, found str"),
    "recipe": ({"recipe": "none"}, ValueError, "recipe must be one of auto, .* found 'none'"),
    "distance": ({"distance": "far"}, ValueError, "far"),
    "optimizer": ({"optimizer": "sgd"}, ValueError, "optimizer must be one of .* found 'sgd'"),
    "no classes": ({"model": sequences()}, ValueError, "labels: random ones need"),
    "loss": ({"loss_fn": lambda output, labels: output}, ValueError, "loss_fn"),
    "trace": ({"trace": "/nowhere/at/all/trace.json"}, ValueError, "trace must be a file in an existing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    changes, error, message = REFUSED[case]
    arguments = {"model": small(), "input_shape": SHAPE, **changes}
    with pytest.raises(error, match=message):
        sf.profile_attack(arguments.pop("model"), arguments.pop("input_shape"), **arguments)


def test_given_labels_serve_models_without_classes():
    def loss(output, labels):
        return (output - labels[..., None]).square().sum()

    profile = sf.profile_attack(
        sequences(), SHAPE, recoveries=2, evaluations=2, seconds=0.2, labels=[[0.5]], loss_fn=loss
    )
    assert profile.levels[0].stages[0].whole > 0
