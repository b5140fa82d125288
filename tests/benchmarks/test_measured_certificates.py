"""What the measurement of certificates writes, the package reads; fresh victims only tell what it says."""

import dataclasses
import json

import pytest
import torch
from idx_files import write_idx

from benchmarks.recovery.certificate.__main__ import set_thresholds
from benchmarks.recovery.certificate.fresh import Fresh, counts, is_kept, keep, measure_fresh
from benchmarks.recovery.certificate.searches import Search
from benchmarks.recovery.certificate.tasks import FAMILIES, Material, Tasks, cells, name_of
from benchmarks.recovery.certificate.thresholds import family, largest_threshold, replaced
from benchmarks.report.fresh_certificates_table import fresh_table
from sapag_fast import data
from sapag_fast.recovery import certificate as certifying
from sapag_fast.recovery.certificate import Family, families
from sapag_fast.recovery.recover import recover

PERCEPTRONS = Tasks("small", "mnist", (("mlp", ("kaiming",)),), victims=3, restarts=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """5000 digits of 8 by 8 in MNIST's format."""
    images, labels = data.digits(size=8)
    rows = torch.arange(5000) % len(images)
    folder = tmp_path_factory.mktemp("data")
    write_idx(folder / "mnist", (images[rows, 0] * 255).round().numpy(), labels[rows].numpy(), "t10k")
    return folder


@pytest.fixture(scope="module")
def measured(folder):
    """The certificates and the results of one small family."""
    certificates, results = folder / "certificates.json", folder / "certificate.json"
    set_thresholds(PERCEPTRONS, folder, certificates, results)
    return certificates, results


def _known(path):
    return certifying.families.__wrapped__(path)


def test_the_package_reads_a_measured_family(measured):
    certificates, results = measured
    (found,) = _known(certificates)
    assert found.name == name_of(PERCEPTRONS, 3)
    assert found.operators == ("addmm", "sigmoid")  # of the networks' attacks, without views
    assert (found.channels, found.sides, found.batch_sizes, found.layers) == (1, (8, 8), (1, 1), (3, 3))
    report = json.loads(results.read_text())["families"]
    assert [line["operators"] for line in report[0]["set on"]["cells"]] == [["addmm", "sigmoid"]] * 2


def test_the_files_of_the_package_are_what_the_measurement_writes():
    entries = json.loads(certifying.FILE.read_text())["families"]
    assert all(set(entry) == {field.name for field in dataclasses.fields(Family)} for entry in entries)


def test_operators_are_those_of_all_measured_networks(tmp_path):
    line = {
        "network": "n",
        "initialisation": "default",
        "layers": 3,
        "input_shape": [1, 8, 8],
        "batch_size": 1,
    }
    line |= {"distance": ["sapag", 1.0]}
    lines = [line | {"operators": ["addmm", "sigmoid"]}, line | {"operators": ["addmm", "tanh"]}]
    searches = [Search(cell, number, 1e-9, True) for cell in (0, 1) for number in range(100)]
    entry = family(PERCEPTRONS, searches, lines, largest_threshold(searches))
    replaced(tmp_path / "c.json", [entry])
    (found,) = _known(tmp_path / "c.json")
    assert found.operators == ("addmm", "sigmoid", "tanh")
    assert found.threshold == 1e-9


def test_fresh_victims_are_counted_and_kept(folder, monkeypatch, capsys, tmp_path):
    known = dataclasses.replace(families()[0], name="small, 3 layers", sides=(8, 8))
    for place in (
        "sapag_fast.recovery.certificate.families",
        "benchmarks.recovery.certificate.fresh.families",
    ):
        monkeypatch.setattr(place, lambda: (known,))
    monkeypatch.setenv("SAPAG_FAST_COMMIT", "abc")
    file, settings = tmp_path / "fresh.json", Fresh(victims=2, restarts=1)
    measure_fresh(PERCEPTRONS, folder, file, settings)
    content = json.loads(file.read_text())
    untrained, trained = content["cells"]
    assert (untrained["phase"], trained["phase"]) == ("untrained", "trained")
    assert untrained["family"] == "small, 3 layers"
    assert untrained["threshold"] == known.threshold
    for line in (untrained, trained):
        assert line["victims"] == 2
        assert line["certified"] <= line["close"] <= 2
        assert line["certified and wrong"] == 0
    assert untrained["kept"] == untrained["certified"] > 0
    assert untrained["evaluations of checks"] > 0 < untrained["evaluations of searches"]
    assert "| small, 3 layers | mlp (kaiming), untrained | 2 |" in fresh_table(content["cells"])
    capsys.readouterr()
    measure_fresh(PERCEPTRONS, folder, file, settings)  # all are there
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("benchmarks.recovery.certificate.fresh.families", lambda: ())
    measure_fresh(PERCEPTRONS, folder, file, settings)
    assert "no family has a threshold" in capsys.readouterr().out


def test_cells_of_other_sources_or_settings_are_run_again(tmp_path):
    file = tmp_path / "fresh.json"
    key = {"tasks": "mnist", "cell": "mlp", "victims": 12, "restarts": 1, "commit": "abc"}
    line = key | {"family": "mnist, 3 layers"}
    keep(file, line, {"commit": "abc"})
    assert is_kept(file, key)
    for change in (
        {"victims": 13},
        {"restarts": 2},
        {"commit": "abd"},
        {"cell": "lenet"},
        {"tasks": "cifar"},
    ):
        assert not is_kept(file, key | change)
    for commit in ("abc-dirty", "unknown"):
        keep(file, line | {"commit": commit}, {})
        assert len(json.loads(file.read_text())["cells"]) == 1
        assert not is_kept(file, key | {"commit": commit})


def test_wrong_certificates_are_counted():
    images, labels = data.digits(2, size=8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    shared = [g[None] for g in torch.autograd.grad(
        torch.nn.functional.cross_entropy(model(images[:1]), labels[:1]), list(model.parameters())
    )]  # fmt: skip
    found = recover(model, shared, (1, 8, 8), batched=True, steps=5)
    found = dataclasses.replace(found, certificate=(certifying.Certificate("certified"),))
    told = counts(found, [False], threshold=float(found.distance[0]))
    assert (told["close"], told["close and recovered"], told["certified and wrong"], told["kept"]) == (
        1,
        0,
        1,
        0,
    )
    told = counts(found, [True], threshold=None)
    assert (told["close"], told["certified and wrong"], told["kept"]) == (0, 0, 0)


def test_parts_have_victims_and_networks_of_their_own(folder):
    parts = [Material.read("mnist", folder, part) for part in range(3)]
    cell = next(cells(PERCEPTRONS))
    weights = [next(part.network(cell)[0].parameters()) for part in parts]
    assert not any(torch.equal(weights[a], weights[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    starts = [part.images[0] for part in parts]
    whole, _ = data.read_mnist(folder / "mnist")
    assert all(torch.equal(start, whole[at]) for start, at in zip(starts, (0, 1000, 4000), strict=True))
    assert {tasks.name for tasks in FAMILIES} == {"mnist", "cifar", "mnist-batch", "cifar-relu"}
