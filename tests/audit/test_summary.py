"""Figures, table and page of an audit, from results made up here."""

import csv
import json
import math

import pytest
import torch

from sapag_fast.audit.folder import AuditFolder, file_name
from sapag_fast.audit.manifest import Manifest
from sapag_fast.audit.summary import GALLERY, quantiles, write_summary
from sapag_fast.reports.finished import Finished


@pytest.fixture
def folder(tmp_path):
    made = AuditFolder(tmp_path / "o", overwrite=False)
    made.open(Manifest({"restarts": 4}, {}, (), {"torch": "2"}, threads=1, wave=64))
    yield made
    made.close()


def finished(name, *, shape=(1, 8, 8), noise=None, distance=1e-6):
    generator = torch.Generator().manual_seed(len(name))
    truth = torch.rand(1, *shape, generator=generator)
    found = truth if noise is None else (truth + noise * torch.randn(truth.shape, generator=generator))
    history = torch.tensor([1.0, 0.1, math.nan, 0.01])
    entry = Finished(
        name=name,
        group=name,
        method="recovered",
        inputs=found,
        labels=torch.tensor([3]),
        distance=distance,
        evaluations=16,
        seconds=0.0,
        status="finished",
        truth=None if noise is None else truth,
        true_labels=torch.tensor([3]),
    )
    return entry, history


def written(folder, names, entries, truth, status="finished"):
    folder.note_time(2**30, now=True)
    write_summary(
        folder, names, entries, status=status, truth=truth, settings={"seed": 0, "tv": None}, recipes={}
    )
    content = json.loads((folder.folder / "summary.json").read_text())
    with (folder.folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return content, lines, (folder.folder / "summary.html").read_text(encoding="utf-8")


def test_success_with_its_interval(folder):
    entries = [finished(f"v{k}", noise=0.001 if k < 9 else 0.5) for k in range(10)]
    content, lines, page = written(folder, [f"v{k}" for k in range(10)], entries, True)
    assert content["recovered"] == 9
    assert content["success"] == 0.9
    # Wilson's score interval, by its formula.
    n, p, z = 10, 0.9, 1.959964
    middle, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    expected = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert content["success_95"] == pytest.approx(expected, abs=1e-6)
    assert [line["recovered"] for line in lines] == ["True"] * 9 + ["False"]
    assert content["evaluations"] == 160
    assert content["recoveries_per_minute"] == pytest.approx(4 * content["victims_per_minute"])
    assert content["peak_memory_bytes"] == 2**30
    assert page.count('alt="truth"') == 10
    assert page.count('class="victim worst"') == 2
    assert page.count("<figure>") == 3


def test_what_is_waiting_or_skipped_or_not_finite(folder):
    folder.skip({"s": "damaged & lost"})
    entries = [finished("a"), finished("b", distance=math.inf)]
    content, lines, page = written(folder, ["a", "b", "s", "w"], entries, False, "interrupted")
    assert [line["status"] for line in lines] == ["finished", "finished", "skipped", "waiting"]
    assert lines[2]["reason"] == "damaged & lost"
    assert (content["finished"], content["waiting"], content["skipped_count"]) == (2, 1, 1)
    assert content["distance"]["q50"] == pytest.approx(1e-6)
    assert content["distance"]["q95"] is None  # infinite
    assert "success" not in content
    assert "damaged &amp; lost" in page
    assert 'alt="recovered"' in page
    assert 'alt="truth"' not in page


def test_nothing_finished(folder):
    content, lines, page = written(folder, ["a"], [], True, "interrupted")
    assert content["distance"] is None
    assert content["victims_per_minute"] == 0
    assert lines[0]["status"] == "waiting"
    assert "<figure>" not in page


def test_inputs_that_are_no_images_have_no_pictures(folder):
    _, _, page = written(folder, ["a"], [finished("a", shape=(7,))], False)
    assert "Pictures" not in page
    assert page.count("<img") == 2  # the plots


def test_pictures_of_the_first_victims_only(folder):
    names = [f"v{k}" for k in range(GALLERY + 3)]
    _, _, page = written(folder, names, [finished(name, shape=(1, 4, 4)) for name in names], False)
    assert page.count('alt="recovered"') == GALLERY
    assert f"first {GALLERY} of {GALLERY + 3}" in page


def test_page_needs_nothing_from_elsewhere(folder):
    name = '"><img src=http://evil onerror=alert(1)>,\n"x"'
    folder.skip({"</table><script>": "<b>"})
    _, lines, page = written(folder, [name], [finished(name, noise=0.1)], True)
    assert lines[0]["name"] == name
    assert "<img src=http" not in page
    assert "<script>" not in page
    assert "<b>&lt;" not in page
    text = page.replace("src=http://evil", "")
    assert not any(word in text for word in ("http:", "https:", "<link", "@import", "url(", "<script"))


def test_quantiles_are_values_that_occur():
    assert quantiles([math.nan]) is None
    found = quantiles([1.0, 2.0, math.inf, math.nan, 3.0])
    assert found["q50"] == 2.0
    assert found["q95"] == math.inf


def test_file_names_are_plain_and_different():
    names = [
        "a",
        "A b",
        "../a",
        "..",
        ".",
        "",
        ".hidden",
        "a/b",
        "a\\b",
        "a%2Fb",
        "x" * 200,
        "x" * 201,
        "é\n",
    ]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert file_name("A b") == "A b"
    for plain in made:
        assert 0 < len(plain) <= 200
        assert not plain.startswith(".")
        assert not set(plain) & set("/\\\n\0")
