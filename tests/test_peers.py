"""Peers side by side: what each contender starts from and spends, and the figures and table that follow."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.breaching_import import import_breaching
from benchmarks.peers.contender import SNAPSHOT_EVERY
from benchmarks.peers.contenders import CONTENDERS, OURS
from benchmarks.peers.figures import figures
from benchmarks.peers.measure import Plan, victims_for
from benchmarks.peers.report import peers_section, write_plot
from benchmarks.peers.victims import Case, attacked, load
from benchmarks.peers.workers import Job, Outcome, Run, run_job
from sapag_fast import data
from sapag_fast.models import LeNet, initialise

LBFGS = ("DLG", "iDLG")
PEERS = [name for name in CONTENDERS if name not in OURS]


@pytest.fixture
def victims():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return attacked(initialise(LeNet(channels=3, image_size=16), "normal.1"), images, torch.tensor([3, 1]))


def contender(name):
    if name == "breaching":
        try:
            import_breaching()
        except ImportError as error:
            pytest.skip(f"breaching cannot be imported ({error}); `make test` installs it")
    return CONTENDERS[name]


def seen_by(model):
    """What comes into the network, every call after the other (also into copies of it)."""
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    return seen


@pytest.mark.filterwarnings("ignore")  # hydra's, at breaching's calls
@pytest.mark.parametrize("name", PEERS)
def test_peers_begin_at_the_same_numbers_and_spend_their_budget(victims, name):
    seen = seen_by(victims.model)
    found = contender(name).run(victims, [1, 0], 40)
    starts = victims.starts
    if name not in LBFGS:
        starts = victims.mean + victims.deviation * starts
    calls = [k for k, image in enumerate(seen) if torch.allclose(image, starts[1], atol=1e-6)]
    assert calls[0] == 0
    assert any(torch.allclose(image, starts[0], atol=1e-6) for image in seen[1:])
    assert [one.evaluations for one in found] == [40, 40]
    assert all(one.image.shape == (3, 16, 16) and one.image.isfinite().all() for one in found)
    # breaching looks at the result once more, to score it.
    assert len(seen) == 80 + (2 if name == "breaching" else 0)


def test_ours_begins_at_the_same_numbers_if_told(victims):
    name = next(name for name in OURS if "noise start" in name)
    found = CONTENDERS[name].run(victims, [1, 0], 1)
    # The best of one evaluation is the start.
    for one, victim in zip(found, (1, 0), strict=True):
        assert one.evaluations == 1
        torch.testing.assert_close(one.image, victims.starts[victim, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*LBFGS, "Inverting Gradients"])
def test_iterates_are_shown_on_the_way(victims, name):
    found = CONTENDERS[name].run(victims, [0], 3 * SNAPSHOT_EVERY + 1)[0]
    assert len(found.snapshots) == found.evaluations // SNAPSHOT_EVERY


def test_ours_recovers_what_is_attacked():
    images, labels = data.digits(2, 16)
    victims = attacked(initialise(LeNet(image_size=16), "normal.1"), images, labels)
    found = CONTENDERS["sapag_fast, R=8"].run(victims, [0, 1], 300)
    errors = [(one.image - truth).square().mean() for one, truth in zip(found, victims.images, strict=True)]
    assert max(errors) < 1e-2


def test_normalised_network_is_the_same_network(victims):
    model = victims.normalised()
    normalised = (victims.images - victims.mean) / victims.deviation
    torch.testing.assert_close(model(normalised), victims.model(victims.images))
    assert [p is q for p, q in zip(model.parameters(), victims.model.parameters(), strict=True)]
    assert not list(model.buffers())


@pytest.fixture
def photographs(tmp_path):
    generator = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "cifar10" / "test" / f"class{label}"
        folder.mkdir(parents=True)
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "0001.png")
    return tmp_path


def test_victims_are_fixed_and_fewer_are_the_first_of_more(photographs):
    case = Case("CIFAR, uniform", "cifar10", "test", 3, "uniform", longest=300)
    few, more = load(photographs, case, 3), load(photographs, case, 5)
    for entry in ("images", "labels", "starts", "label_starts"):
        assert torch.equal(getattr(few, entry), getattr(more, entry)[:3])
    with pytest.raises(ValueError, match="expected 11 images or more in test, found 10"):
        load(photographs, case, 11)


def test_a_job_times_and_scores_its_victims(photographs):
    case = Case("CIFAR, uniform", "cifar10", "test", 3, "uniform", longest=300)
    seconds, memory, outcomes = run_job(Job(photographs, case, 3, "iDLG", 25, (2, 0)))
    assert seconds > 0
    assert memory >= 0
    assert [outcome.victim for outcome in outcomes] == [2, 0]
    assert all(0 < outcome.evaluations <= 25 and 0 <= outcome.mse <= 1 for outcome in outcomes)


def test_long_budgets_get_fewer_victims_and_batches_are_filled():
    plan = Plan(victims=20, rounds=2, evaluations=12_000, cores=2)
    assert len(victims_for("DLG", 300, plan)) == 20
    assert len(victims_for("DLG", 6000, plan)) == 4
    assert len(victims_for("breaching", 24_000, plan)) == 2
    assert len(victims_for("sapag_fast, R=1", 300, plan)) == 20
    assert len(victims_for("sapag_fast, R=8", 300, plan)) == 20
    assert len(victims_for("sapag_fast, R=64", 300, plan)) == 128
    assert plan.most(list(CONTENDERS)) == 128


def outcome(victim, *, mse=0.5, evaluations=300, at=None, shown=False):
    return Outcome(victim, mse, 20.0 + victim, evaluations, at, shown)


def run(name, seconds, outcomes, *, budget=300, processes=2):
    return Run(name, budget, processes, 1, seconds, 2**20, tuple(outcomes))


def test_failures_count_in_the_time_of_a_success():
    runs = [
        run("DLG", 60.0, [outcome(0, mse=1e-3, at=100, shown=True), outcome(2, shown=True)]),
        run("DLG", 60.0, [outcome(1, mse=1e-3, at=200, shown=True), outcome(3, evaluations=60, shown=True)]),
    ]
    row = figures(runs, shared=20)["DLG"]["budgets"]["300"]
    assert row["seconds a success"] == 60.0
    assert row["recoveries an hour"] == 60.0
    assert row["recovered of these"] == [0, 1]
    assert row["evaluations to success"] == 150
    assert row["ms an evaluation"] == pytest.approx(1e3 * 120 * 2 / 960)
    assert row["peak MiB"] == 2
    # An evaluation takes 1/8 s of all cores. Stopped at 100: one success in 360; at 200: two in 660.
    assert row["in hindsight"] == pytest.approx(3600 * 2 / (660 / 8))


def test_success_is_counted_on_the_victims_in_common_and_once_each():
    ours = [outcome(victim, mse=1e-3) for victim in range(4)]
    runs = [run("sapag_fast, R=64", 2.0, ours), run("sapag_fast, R=64", 2.0, ours)]
    row = figures(runs, shared=3)["sapag_fast, R=64"]["budgets"]["300"]
    assert row["shared victims"] == row["recovered of these"] == [0, 1, 2]
    assert row["victims"] == 4
    assert row["recoveries an hour"] == 3600 * 8 / 4
    assert row["in hindsight"] is None


def test_best_budget_is_that_of_most_successes_an_hour():
    runs = [
        run("DLG", 10.0, [outcome(0)]),
        run("DLG", 100.0, [outcome(0, mse=1e-3)], budget=6000),
    ]
    found = figures(runs, shared=1)["DLG"]
    assert found["best budget"] == 6000


def _results(runs, shared):
    """As in the result file."""
    machine = {"device": "a processor", "capability": "AVX2", "threads": 2, "torch": "2", "python": "3"}
    cases = {"CIFAR, uniform": {"contenders": figures(runs, shared)}}
    return {"plan": {"victims": shared, "cores": 2}, **machine, "commit": "abc", "cases": cases}


def _lines(found):
    """The table's lines by contender, the last of each."""
    return {line.split(" | ")[0].strip("| "): line for line in peers_section(found).splitlines()}


def test_ours_is_compared_where_it_recovers_as_many():
    runs = [
        run("DLG", 100.0, [outcome(0, mse=1e-3), outcome(1, mse=1e-3)]),
        run("sapag_fast, R=64", 1.0, [outcome(0, mse=1e-3), outcome(1)], budget=50),
        run("sapag_fast, R=64", 4.0, [outcome(0, mse=1e-3), outcome(1, mse=1e-3)], budget=300),
    ]
    lines = _lines(_results(runs, shared=2))
    assert lines["DLG"].endswith("| 25.0× |")
    assert _lines(_results(runs[:2], shared=2))["DLG"].endswith("| fewer successes |")


def test_table_and_plot_come_from_the_result_file(tmp_path):
    runs = [
        run("DLG", 100.0, [outcome(0, mse=1e-3, at=60, shown=True)]),
        run("breaching", 50.0, [outcome(0)]),
        run("sapag_fast, R=64", 1.0, [outcome(0, mse=1e-3)]),
    ]
    found = json.loads(json.dumps(_results(runs, shared=1)))
    rows = _lines(found)
    # DLG in hindsight: 60 of 300 evaluations, 20 s; ours a second.
    assert rows["DLG"].endswith("| 20.0× |")
    assert "| **300** | 1/1 |" in rows["DLG"]
    assert rows["breaching"].endswith("| > 50× |")
    assert rows["sapag_fast, R=64"].endswith("| - |")
    assert "in hindsight" in rows["contender"]
    write_plot(found, tmp_path)
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.size[0] > 300
    assert peers_section(None) == ""
