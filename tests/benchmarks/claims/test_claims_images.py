"""The claims' cells on images: what is attacked, by which methods, and how it is scored."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from benchmarks.claims import plan, victims
from benchmarks.claims.methods import DISTANCES, METHODS, make_method
from benchmarks.claims.scores import victim_entries
from benchmarks.shared.attack_peers import dlg_loop
from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.recover import recover
from sapag_fast.search.starts import recovery_generator


@pytest.fixture
def some_images(monkeypatch):
    """Random images in place of the data sets."""

    def read(data: Path, dataset: str) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(40, *victims.SHAPES[dataset], generator=generator)
        return images, torch.arange(40) % 10

    monkeypatch.setattr(victims, "_reserved", read)


def small_plan(method: str = "sapag", *, steps: int = 12, **options: object) -> plan.Plan:
    batch_size = options.get("batch_size", 1)
    chosen = make_method(method, (1, 28, 28), batch_size, 2, steps=steps)
    where = ("mnist", "lenet", "sigmoid", "uniform", 0, method, chosen.recipe, chosen.labels)
    return plan.Plan(*where, **({"restarts": chosen.restarts, "victims": 4, "networks": 2} | options))


def test_a_plan_runs_every_victim_and_restart(some_images):
    for options in ({}, {"batch_size": 2}, {"defence": ("withhold:-2,-1",)}, {"method": "dlg"}):
        asked = small_plan(**options)
        found = plan.run_plan(Path(), asked)
        assert len(found["victims"]) == 4 * asked.batch_size
        assert found["evaluations"] == 4 * 2 * 12
        assert [entry["network"] for entry in found["victims"]] == [0, 0] * asked.batch_size + [
            1,
            1,
        ] * asked.batch_size
        assert all(len(entry["restarts"]) == 2 for entry in found["victims"])
        assert found["curve"]["evaluations"][-1] == 12
        lowest = found["curve"]["distance"]
        assert lowest == sorted(lowest, reverse=True)
        json.dumps(found)


def test_arithmetic_comes_before_the_search_where_the_method_says_so(some_images):
    told = {}
    for method in ("sapag", "sapag-exact"):
        asked = replace(small_plan(method, steps=2), network="mlp")
        told[method] = plan.run_plan(Path(), asked)
    assert told["sapag-exact"]["evaluations"] == 0
    assert all(entry["mse"] < 1e-8 for entry in told["sapag-exact"]["victims"])
    assert told["sapag"]["evaluations"] == 4 * 2 * 2


def test_a_victim_whose_label_has_left_its_gradient_does_not_cost_the_others(some_images, monkeypatch):
    labels = victims.victim_images(Path(), "mnist", 4)[1]

    def certain(*arguments: object) -> tuple[torch.nn.Module, None]:
        model, phase = victims.victim_network(*arguments)
        with torch.no_grad():
            model.fc.bias[labels[0]] = 200.0  # probability 1 in float32: no loss, no gradient
        return model, phase

    monkeypatch.setattr(plan, "victim_network", certain)
    found = plan.run_plan(Path(), small_plan())
    assert len(found["victims"]) == 4
    assert all(math.isfinite(entry["mse"]) for entry in found["victims"])


def test_a_recovered_victim_counts_evaluations_to_its_first_success(some_images):
    found = plan.run_plan(Path(), small_plan(steps=150, pictured=True))
    recovered = [entry for entry in found["victims"] if entry["success"]]
    assert len(recovered) >= 2
    for entry in recovered:
        assert entry["mse"] < 1e-2
        # Up to the first restart that succeeded; one may end early, once another is certified.
        assert 0 < entry["evaluations to success"] <= 150 * (entry["restarts"].index(True) + 1)
    assert found["strip"]


def test_restarts_that_were_cut_short_have_not_failed():
    truth = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wrong = 1 - truth
    labels = torch.zeros(2, 1, dtype=torch.long)
    restarts = SimpleNamespace(
        inputs=torch.stack((wrong, truth, wrong, wrong), 1),
        evaluations=torch.tensor([[40, 100, 100, 0], [100, 100, 100, 60]]),
    )
    found = SimpleNamespace(
        inputs=truth.clone(),
        labels=labels,
        distance=torch.zeros(2),
        restarts=restarts,
        certificate=(SimpleNamespace(status="certified"), SimpleNamespace(status="unknown")),
    )
    first, second = victim_entries(found, truth, labels, [[7], [8]], 3)
    assert first["restarts"] == [None, True, False, None]
    assert first["evaluations to success"] == 140
    assert (first["victim"], first["network"], first["certificate"]) == (7, 3, "certified")
    assert second["restarts"] == [False, True, False, False]
    assert second["certificate"] == "unknown"


def test_a_trace_holds_the_error_of_every_iterate(some_images):
    found = plan.run_plan(Path(), small_plan(steps=60, victims=8, networks=1, restarts=1, traced=True))
    curve = found["curve"]
    assert len(curve["psnr"]) == len(curve["evaluations"])
    assert curve["psnr"][-1] > curve["psnr"][0] + 3
    final = sorted(entry["psnr"] for entry in found["victims"])
    assert final[0] - 3 <= curve["psnr"][-1] <= final[-1] + 3


def test_a_changed_recipe_changes_the_settings():
    first = plan.image_cell(Path(), "images", small_plan())
    other = plan.image_cell(
        Path(), "images", replace(small_plan(), recipe=make_method("sapag", (1, 28, 28), 1, 2).recipe)
    )
    assert first.name == other.name
    assert first.settings != other.settings
    assert first.settings["recipe"]["steps"] == 12


def test_widths_are_settings_where_a_restart_has_one():
    """A result of one restart, which has the bandwidth itself, does not follow from the others' widths."""
    plain, wide = (
        replace(small_plan(), recipe=replace(small_plan().recipe, widths=widths))
        for widths in ((1.0,), (1.0, 0.5))
    )
    of_one, of_two = (plan.image_cell(Path(), "images", replace(wide, restarts=k)).settings for k in (1, 2))
    same = plan.image_cell(Path(), "images", replace(plain, restarts=1)).settings
    assert of_one == same
    assert "widths" not in same["recipe"]
    assert of_two["recipe"]["widths"] == [1.0, 0.5]


def test_rivals_differ_in_the_distance_and_take_all_evaluations():
    ours = make_method("sapag", (3, 32, 32), 1, 4)
    longest = replace(ours.recipe, patience=0)
    for name in DISTANCES:
        rival = make_method(name, (3, 32, 32), 1, 4)
        assert rival.recipe.distance == name
        assert replace(rival.recipe, distance="sapag", bandwidth=ours.recipe.bandwidth) == longest
        assert (rival.labels, rival.restarts) == (ours.labels, ours.restarts)
    with pytest.raises(ValueError, match="unknown method 'best'"):
        make_method("best", (1, 28, 28), 1, 1)


def test_a_rival_without_priors_leaves_its_start():
    """At its own scale the cosine distance stands still here, its gradient below the optimiser's floors."""
    model = initialise(LeNet(), "default", seed=3)
    image, label = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1)), torch.tensor([4])
    target = torch.autograd.grad(F.cross_entropy(model(image), label), tuple(model.parameters()))
    moved = {}
    for name in ("cosine", "cosine-plain"):
        recipe = replace(make_method("cosine-plain", (1, 28, 28), 1, 1, steps=60).recipe, distance=name)
        found = recover(model, target, (1, 28, 28), recipe=recipe, seed=0)
        moved[name] = (found.distance / found.history[0]).item()
    assert moved["cosine"] > 0.9
    assert moved["cosine-plain"] < 0.1


def test_all_methods_get_as_many_evaluations():
    methods = {name: make_method(name, (3, 32, 32), 1, 4, piecewise_linear=True) for name in METHODS}
    budgets = {name: method.recipe.steps * method.restarts for name, method in methods.items()}
    assert budgets.pop("dlg-own") == 6000
    assert set(budgets.values()) == {4 * methods["sapag"].recipe.steps}


def test_dlg_as_published_is_the_same_on_the_batched_engine():
    """In float64, where rounding does not drive the two apart: evaluation by evaluation the same distances as
    torch.optim.LBFGS with up to 20 iterations a step, image and label logits together."""
    model = initialise(LeNet(), "uniform", seed=3).double()
    generator = torch.Generator().manual_seed(1)
    image, label = torch.rand(1, 1, 28, 28, generator=generator).double(), torch.tensor([4])
    loss = F.cross_entropy(model(image), label)
    target = list(torch.autograd.grad(loss, tuple(model.parameters())))
    method = make_method("dlg", (1, 28, 28), 1, 1, steps=45)
    start = torch.randn(1, 1, 28, 28, generator=generator).double()
    found = recover(
        model,
        target,
        (1, 28, 28),
        labels=method.labels,
        recipe=method.recipe,
        start=start[None, None],
        seed=5,
    )
    logits = torch.randn(1, 10, generator=recovery_generator(5, 0, 0), dtype=torch.float64)
    distances = []
    for evaluations in (1, 20, 21, 45):
        theirs = dlg_loop(model, target, start, logits, evaluations=evaluations, published=True, stop=True)
        assert theirs.evaluations == evaluations
        distances.append(theirs.distance)
    lowest = found.history[:, 0].cummin(0).values
    ours = [lowest[at - 1].item() for at in (1, 20, 21, 45)]
    assert ours == pytest.approx(distances, rel=1e-6)
    assert distances[-1] < 0.5 * distances[0]


def test_victims_and_training_images_are_apart(tmp_path):
    # IDX files of 8000 images of 2 x 2 pixels, of which the first two tell the image's number.
    number = torch.arange(8000)
    pixels = torch.stack((number // 256, number % 256, 0 * number, 0 * number), 1).to(torch.uint8)
    (tmp_path / "mnist").mkdir()
    for name, header, content in (
        ("t10k-images-idx3-ubyte", (0x803, 8000, 2, 2), pixels),
        ("t10k-labels-idx1-ubyte", (0x801, 8000), (number % 10).to(torch.uint8)),
    ):
        words = b"".join(value.to_bytes(4, "big") for value in header)
        (tmp_path / "mnist" / name).write_bytes(words + content.numpy().tobytes())

    def numbers(images: torch.Tensor) -> list[int]:
        first = (images[:, 0, 0] * 255).round().long()
        return (first[:, 0] * 256 + first[:, 1]).tolist()

    images, labels, places = victims.victim_images(tmp_path, "mnist", 50)
    assert numbers(images) == places
    assert labels.tolist() == [place % 10 for place in places]
    assert len(set(places)) == 50
    assert min(places) >= 4000
    assert victims.victim_images(tmp_path, "mnist", 20)[2] == places[:20]
    assert numbers(victims.training_images(tmp_path, "mnist")[0]) == list(range(2000, 4000))
