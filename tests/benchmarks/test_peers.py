"""Peers side by side: what each contender starts from and spends, and the figures and table that follow."""

import json
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.integrations.breaching_import import import_breaching
from benchmarks.peers.contenders import CONTENDERS, OURS
from benchmarks.peers.figures import figures
from benchmarks.peers.measure import Plan, measure, victims_for
from benchmarks.peers.report import peers_section, write_plot
from benchmarks.peers.victims import Case, attacked, load
from benchmarks.peers.watch import Watch, error
from benchmarks.peers.workers import Job, Outcome, Run, Workers, run_job
from benchmarks.shared.victims import SUCCESS
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


class Noted(Watch):
    """Keeps the errors."""

    def __init__(self, truth):
        super().__init__(truth)
        self.errors = []

    def look(self, image):
        self.note(error(image, self.truth))

    def note(self, mse):
        self.errors.append(mse)
        super().note(mse)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_watches_see_every_evaluation_of_the_search_that_is_timed(victims, name):
    watches = [Noted(victims.images[victim]) for victim in (1, 0)]
    timed = contender(name).run(victims, [1, 0], 30)
    seen = seen_by(victims.model)
    watched = contender(name).run(victims, [1, 0], 30, watches)
    errors = [[error(image[0], watch.truth) for image in seen] for watch in watches]
    calls = len(seen) // 2
    for k, (one, same, watch) in enumerate(zip(timed, watched, watches, strict=True)):
        assert torch.equal(one.image, same.image)
        assert len(watch.errors) == one.evaluations == same.evaluations
        assert watch.errors == pytest.approx(errors[k][k * calls : k * calls + one.evaluations])


@pytest.mark.parametrize("name", [OURS[0], OURS[1], OURS[-1]])
def test_watches_see_every_evaluation_of_ours(victims, name):
    """Fewer victims than can be traced, and the result is among what was seen."""
    watches = [Noted(victims.images[victim]) for victim in (1, 0)]
    timed = CONTENDERS[name].run(victims, [1, 0], 12)
    watched = CONTENDERS[name].run(victims, [1, 0], 12, watches)
    for one, same, watch in zip(timed, watched, watches, strict=True):
        torch.testing.assert_close(one.image, same.image, rtol=1e-2, atol=1e-2)
        assert len(watch.errors) == one.evaluations == same.evaluations
        found = error(same.image, watch.truth)
        assert min(abs(mse - found) for mse in watch.errors) < 1e-6


def test_a_watch_keeps_the_first_success():
    truth = torch.full((1, 2, 2), 0.5)
    watch = Watch(truth)
    for image in (truth + 0.4, truth * torch.nan, truth, truth + 0.4):
        watch.look(image)
    watch.note(SUCCESS / 2)
    assert (watch.success_at, watch.evaluations) == (3, 5)


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
    seconds, memory, outcomes = run_job(Job(photographs, case, 3, "iDLG", 25, (2, 0), watched=2))
    assert seconds > 0
    assert memory >= 0
    assert [(outcome.victim, outcome.watched) for outcome in outcomes] == [(2, False), (0, True)]
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


class Recorder:
    """In place of workers."""

    form = (2, 1)

    def __init__(self):
        self.jobs = []

    def run(self, job):
        self.jobs.append(job)
        return run(job.contender, 1.0, [outcome(victim) for victim in job.chosen], budget=job.budget)


def test_parts_of_a_round_fill_the_cores_and_every_victim_is_watched_once(tmp_path):
    case = Case("CIFAR, uniform", "cifar10", "test", 3, "uniform", longest=6000)
    plan, pool = Plan(victims=6, rounds=2, evaluations=6000, cores=2), Recorder()
    names = ["DLG", "sapag_fast, R=8"]
    forms, runs = measure(tmp_path, case, names, plan, [pool], lambda line: None)
    assert forms == dict.fromkeys(names, (2, 1))
    probes, jobs = pool.jobs[:2], pool.jobs[2:]
    assert len(runs) == len(jobs)
    assert not any(job.watched for job in probes)
    parts = [job.chosen for job in jobs if (job.contender, job.budget) == ("DLG", 300)]
    assert parts == [(0, 1, 4, 5), (2, 3)]
    assert [job.chosen for job in jobs if job.budget == 6000] == [(0, 1)]
    watched = [job.watched for job in jobs if (job.contender, job.budget) == ("sapag_fast, R=8", 50)]
    assert watched == [6, 0]


class Busy:
    """A pool of one process that was busy for so long, and held so much."""

    def __init__(self, seconds, memory):
        self.done = seconds, memory

    def submit(self, work, job):
        future = Future()
        future.set_result((*self.done, tuple(outcome(victim) for victim in job.chosen)))
        return future

    def shutdown(self, **options):
        pass


@pytest.mark.parametrize(("chosen", "seconds", "memory"), [((0, 1, 2), 3.0, 7), ((0,), 2.0, 5)])
def test_the_time_of_a_run_is_the_mean_of_all_processes(tmp_path, chosen, seconds, memory):
    case = Case("CIFAR, uniform", "cifar10", "test", 3, "uniform", longest=300)
    with Workers(2, 1) as workers:
        workers.pools = [Busy(4.0, 5), Busy(2.0, 7)]
        found = workers.run(Job(tmp_path, case, 3, "DLG", 300, chosen, watched=3))
    assert (found.seconds, found.memory) == (seconds, memory)
    assert sorted(one.victim for one in found.outcomes) == list(chosen)


def outcome(victim, *, mse=0.5, evaluations=300, at=None, watched=True):
    return Outcome(victim, mse, 20.0 + victim, evaluations, at, watched)


def run(name, seconds, outcomes, *, budget=300, processes=2):
    return Run(name, budget, processes, 1, seconds, 2**20, tuple(outcomes))


def test_failures_count_in_the_time_of_a_success():
    runs = [
        run("DLG", 60.0, [outcome(0, mse=1e-3, at=100), outcome(2)]),
        run("DLG", 60.0, [outcome(1, mse=1e-3, at=200), outcome(3, evaluations=60)]),
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
    ours = [outcome(victim, mse=1e-3, watched=False) for victim in range(4)]
    runs = [run("sapag_fast, R=64", 2.0, ours), run("sapag_fast, R=64", 2.0, ours)]
    row = figures(runs, shared=3)["sapag_fast, R=64"]["budgets"]["300"]
    assert row["shared victims"] == row["recovered of these"] == [0, 1, 2]
    assert row["victims"] == 4
    assert row["recoveries an hour"] == 3600 * 8 / 4
    assert row["in hindsight"] is None


def test_searches_watched_in_one_round_tell_for_all():
    first = [outcome(0, mse=1e-3, at=30), outcome(1, mse=1e-3, at=60), outcome(2, mse=1e-3, watched=False)]
    again = [outcome(victim, mse=1e-3, watched=False) for victim in range(3)]
    runs = [run("sapag_fast, R=64", 9.0, first), run("sapag_fast, R=64", 9.0, again)]
    row = figures(runs, shared=2)["sapag_fast, R=64"]["budgets"]["300"]
    assert row["evaluations to success"] == 45
    # An evaluation takes 1/100 s of all cores. Stopped at 30: one success in 60; at 60: two in 120.
    assert row["in hindsight"] == pytest.approx(3600 * 2 / 1.2)


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
    assert "| 72 | 25.0× |" in lines["DLG"]
    assert _lines(_results(runs[:2], shared=2))["DLG"].count("| fewer successes |") == 2


def test_table_and_plot_come_from_the_result_file(tmp_path):
    runs = [
        run("DLG", 100.0, [outcome(0, mse=1e-3, at=60)]),
        run("breaching", 50.0, [outcome(0)]),
        run("iDLG", 50.0, [outcome(0, mse=1e-3, watched=False)]),
        run("sapag_fast, R=64", 1.0, [outcome(0, mse=1e-3, at=30)]),
    ]
    found = json.loads(json.dumps(_results(runs, shared=1)))
    rows = _lines(found)
    # In hindsight: DLG 60 of 300 evaluations, 20 s; ours 30, 0.1 s.
    assert rows["DLG"].endswith("| 36 | 100.0× | 180 | 200.0× | 2 |")
    assert "| **300** | 1/1 |" in rows["DLG"]
    assert rows["breaching"].endswith("| 0 | > 50× | 0 | > 500× | 2 |")
    assert rows["iDLG"].endswith("| 72 | 50.0× | - | - | 2 |")
    assert rows["sapag_fast, R=64"].endswith("| 3,600 | - | 36,000 | - | 2 |")
    assert rows["contender"].count("ours over it") == 2
    write_plot(found, tmp_path)
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.size[0] > 300
    assert peers_section(None) == ""
