"""The claims' engine: cells run once, resume after a kill, run anew when their settings change; the figures
and tables that come from their files.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from benchmarks.attack_peers import dlg_loop
from benchmarks.claims import engine, plan, tables, victims
from benchmarks.claims.bars import bar_of, lead_lines, verdict
from benchmarks.claims.cell import Cell
from benchmarks.claims.methods import DISTANCES, METHODS, make_method
from benchmarks.claims.scores import victim_entries
from benchmarks.claims.summary import summarise, wilson
from sapag_fast.models import LeNet, initialise
from sapag_fast.recover import recover
from sapag_fast.starts import recovery_generator

ROOT = Path(__file__).resolve().parents[1]

MODULE = """
import time
from benchmarks.claims.cell import Cell

def made(name):
    def run():
        with open({log!r}, "a") as log:
            log.write(name + "\\n")
        time.sleep({seconds})
        return {{"victims": [{{"success": True, "evaluations": 3, "exact": 0.5}}]}}
    return Cell(name, "small", {{"name": name}}, run)

def cells(data, quick):
    return [made(f"cell{{k}}") for k in range(4)]
"""

DRIVER = """
from pathlib import Path
from benchmarks.claims.engine import all_cells, run_cells
if __name__ == "__main__":
    modules, data = ["small_cells"], Path("nowhere")
    run_cells(all_cells(modules, data, False), Path("results"), modules=modules, data=data, workers={workers})
"""


def small_cell(runs: list[str], name: str = "one", **settings: object) -> Cell:
    def run() -> dict[str, object]:
        runs.append(name)
        return {"victims": [{"success": True, "evaluations": 7, "psnr": float("inf"), "share": 1 / 3}]}

    return Cell(name, "small", {"name": name, "nested": {"pair": (1, 2)}} | settings, run)


def test_a_finished_cell_is_not_run_again(tmp_path):
    runs = []
    cells = [small_cell(runs), small_cell(runs, "two")]
    assert engine.run_cells(cells, tmp_path, say=lambda line: None) == []
    assert engine.run_cells(cells, tmp_path, say=lambda line: None) == []
    assert runs == ["one", "two"]
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["settings"] == {"name": "one", "nested": {"pair": [1, 2]}}
    assert found["evaluations"] == 7
    assert found["victims"] == [{"success": True, "evaluations": 7, "psnr": None, "share": 0.33333}]
    assert {"commit", "device", "torch", "date", "seconds", "cpu seconds", "threads"} <= set(found)


def test_a_changed_setting_runs_the_cell_again(tmp_path):
    runs = []
    engine.run_cells([small_cell(runs, steps=3)], tmp_path, say=lambda line: None)
    engine.run_cells([small_cell(runs, steps=4)], tmp_path, say=lambda line: None)
    assert runs == ["one", "one"]
    assert json.loads((tmp_path / "one.json").read_text())["settings"]["steps"] == 4


def test_a_damaged_result_is_made_again(tmp_path):
    runs = []
    (tmp_path / "one.json").write_text('{"settings": ')
    engine.run_cells([small_cell(runs)], tmp_path, say=lambda line: None)
    assert runs == ["one"]
    assert engine.is_done(small_cell(runs), tmp_path)


def test_a_failing_cell_leaves_the_others_and_no_file(tmp_path):
    def fail() -> dict[str, object]:
        raise ValueError("no such data")

    runs, lines = [], []
    cells = [Cell("bad", "small", {}, fail), small_cell(runs)]
    assert engine.run_cells(cells, tmp_path, say=lines.append) == ["bad"]
    assert runs == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert any("bad: failed: ValueError: no such data" in line for line in lines)


def test_an_interrupted_cell_is_not_kept(tmp_path):
    def run() -> dict[str, object]:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return {"victims": []}  # as an attack that hands out what it has

    runs = []
    cells = [small_cell(runs), Cell("long", "small", {}, run), small_cell(runs, "two")]
    with pytest.raises(KeyboardInterrupt):
        engine.run_cells(cells, tmp_path, say=lambda line: None)
    assert runs == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_cells_of_one_name_and_unsafe_names_are_refused(monkeypatch):
    module = type(sys)("twice")
    module.cells = lambda data, quick: [small_cell([]), small_cell([])]
    monkeypatch.setitem(sys.modules, "twice", module)
    with pytest.raises(ValueError, match="one stands for more than one cell"):
        engine.all_cells(["twice"], Path(), False)
    with pytest.raises(ValueError, match="name: expected letters"):
        Cell("../up", "small", {}, dict)


def prepared(folder: Path, seconds: float) -> dict[str, str]:
    """A module of four cells that log that they ran, and the environment in which it is found."""
    (folder / "small_cells.py").write_text(MODULE.format(log=str(folder / "log"), seconds=seconds))
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on(tmp_path):
    environment = prepared(tmp_path, 0.5)
    command = [sys.executable, "-c", DRIVER.format(workers=1)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    first = tmp_path / "results" / "cell0.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, ran = first.stat().st_mtime_ns, (tmp_path / "log").read_text().split()
    assert 1 <= len(ran) < 4
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert first.stat().st_mtime_ns == before
    assert {path.stem for path in first.parent.glob("*.json")} == {f"cell{k}" for k in range(4)}
    after = (tmp_path / "log").read_text().split()[len(ran) :]
    assert "cell0" not in after
    assert set(ran + after) == {f"cell{k}" for k in range(4)}


def test_two_workers_run_every_cell_once(tmp_path):
    environment = prepared(tmp_path, 0)
    script = tmp_path / "drive.py"
    script.write_text(DRIVER.format(workers=2))
    subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, check=True)
    assert sorted((tmp_path / "log").read_text().split()) == [f"cell{k}" for k in range(4)]
    assert len(list((tmp_path / "results").glob("*.json"))) == 4


def test_wilson_intervals():
    # Wilson 1927: (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964.
    for successes, trials, low, high in (
        (20, 20, 0.83887, 1.0),
        (8, 10, 0.49016, 0.94332),
        (0, 5, 0, 0.43448),
    ):
        assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def image_victim(success: bool, **more: object) -> dict[str, object]:
    psnr = 30.0 if success else 9.0
    return {
        "success": success,
        "psnr": psnr,
        "ssim": 0.9,
        "evaluations": 600,
        "evaluations to success": 300 if success else None,
        "restarts": [success, False],
    } | more


def image_result(hits: int, of: int, method: str = "sapag", **settings: object) -> dict[str, object]:
    made = [image_victim(k < hits) for k in range(of)]
    group = settings.pop("group", "images")
    fixed = {"dataset": "mnist", "network": "lenet", "activation": "sigmoid", "initialisation": "default"}
    fixed |= {
        "epochs": 0,
        "batch_size": 1,
        "distinct": False,
        "defence": [],
        "training_mode": False,
        "restarts": 2,
        "networks": 4,
    }
    return {
        "name": f"{group}.{method}.{len(settings)}",
        "group": group,
        "settings": fixed | {"method": method} | settings,
        "device": "a processor",
        "threads": 1,
        "torch": "2",
        "commit": "abc",
        "date": "2026-01-01",
        "cpu seconds": 12.0,
        "attack seconds": 6.0,
        "attack cpu seconds": 6.0,
        "evaluations": 600 * of,
        "accuracy": [None],
        "victims": made,
    }


def test_summary_of_victims():
    found = summarise(image_result(3, 4))
    assert (found.successes, found.victims, found.psnr, found.ssim) == (3, 4, 30.0, 0.9)
    assert found.restarts == pytest.approx(3 / 8)
    assert found.evaluations == pytest.approx((3 * 300 + 600) / 3)
    assert found.seconds == pytest.approx(500 * 6.0 / 2400)
    assert summarise(image_result(0, 4)).evaluations is None


def test_bars_and_verdicts():
    for result, told in (
        (image_result(20, 20), "≥ 95 %: holds"),
        (image_result(18, 20), "≥ 95 %: falls short"),
        (image_result(18, 20, initialisation="xavier", epochs=20), "≥ 90 %: holds"),
        (image_result(16, 20, dataset="cifar", epochs=50), "≥ 80 %: holds"),
        (image_result(20, 20, group="relu", network="convnet"), "≥ 35 dB: falls short"),
        (image_result(20, 20, group="relu", network="convnet", epochs=10), "≥ 26 dB: holds"),
        (image_result(15, 20) | {"bar": {"metric": "success", "least": 0.75}}, "≥ 75 %: holds"),
    ):
        assert verdict(bar_of(result), summarise(result)) == told
    assert bar_of(image_result(20, 20, "cosine")) is None
    assert bar_of(image_result(20, 20, dataset="cifar")) is None
    pair = [
        image_result(h, 20, m, group="relu", network="convnet") for m, h in (("sapag", 20), ("inverting", 0))
    ]
    (line,) = lead_lines([(one, summarise(one)) for one in pair])
    assert "+21.0 dB" in line
    assert "≥ 6 dB: holds" in line


def test_tables_come_from_the_files(tmp_path):
    results = [image_result(18, 20), image_result(3, 20, "cosine")]
    results[0]["victims"][0]["certificate"] = "certified"
    text = image_result(1, 2, group="text") | {"name": "text.bag", "settings": {"tokens": 8}}
    text["victims"] = [{"success": True, "evaluations": 4, "exact": value} for value in (1.0, 0.5)]
    for found in (*results, text):
        (tmp_path / f"{found['name']}.json").write_text(json.dumps(found))
    output = tables.write(tmp_path, tmp_path / "CLAIMS.md")
    report = output.read_text()
    assert "Bars held: 0 of 1 measured." in report
    assert "| 18/20 | 3/20 | ≥ 95 %: falls short |" in report
    assert "18/20 = 90 % [70, 97]" in report
    assert "| mnist lenet (sigmoid, default), untrained | 18 | 18 | 20 |" in report  # by restarts 1, 2
    assert "commit abc" in report
    assert "| text.bag | 2/2 = 100 % [34, 100] | 0.750 |" in report
    assert "| images | mnist | 1 | 1 | 100.0 % [20.7, 100.0] | ≥ 99 %: holds |" in report


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
        assert entry["evaluations to success"] == 150 * (entry["restarts"].index(True) + 1)
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


def test_rivals_differ_in_the_distance_alone():
    ours = make_method("sapag", (3, 32, 32), 1, 4)
    for name in DISTANCES:
        rival = make_method(name, (3, 32, 32), 1, 4)
        assert rival.recipe.distance == name
        assert replace(rival.recipe, distance="sapag", bandwidth=ours.recipe.bandwidth) == ours.recipe
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
