"""Figures, table and page of an audit, from results made up here."""

import base64
import csv
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch

from sapag_fast.audit import page as summary_page
from sapag_fast.audit.folder import AuditFolder, file_name
from sapag_fast.audit.manifest import Manifest
from sapag_fast.audit.page import spelled_settings
from sapag_fast.audit.summary import quantiles, write_summary
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


def written(folder, names, entries, truth, status="finished", unscored=None):
    folder.sessions.note_time(2**30, now=True)
    unscored = (unscored or {}) if truth else None
    write_summary(
        folder, names, entries, status=status, unscored=unscored, settings={"seed": 0, "tv": None}, recipes={}
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
    assert page.count('class="victim leaks"') == 9
    shown = re.findall(r'data-name="(v.)"', page)
    assert len(shown) == 10
    assert shown[-1] == "v9"
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


def test_every_victim_is_on_the_page_and_pictures_go_to_those_that_leak_most(folder, monkeypatch):
    monkeypatch.setattr(summary_page, "_MOST_PICTURES", 20_000)
    names = [f"v{k}" for k in range(320)]
    entries = [finished(name, shape=(1, 4, 4), distance=1e-6 * (320 - k)) for k, name in enumerate(names)]
    _, _, page = written(folder, names, entries, False)
    assert re.findall(r'data-name="(v\d+)"', page) == names[::-1]
    pictured = page.count('alt="recovered"')
    assert 20 < pictured < 320
    victims = page.split('class="victim')[1:]
    assert all("<img" in victim for victim in victims[:pictured])
    assert not any("<img" in victim for victim in victims[pictured:])
    assert "results/v0.safetensors" in victims[-1]


def test_page_needs_nothing_from_elsewhere(folder):
    name = '"><img src=http://evil onerror=alert(1)>,\n"x"\x1b\u202e'
    folder.skip({"</table><script>": "<b>"})
    _, lines, page = written(folder, [name], [finished(name, noise=0.1)], True)
    assert lines[0]["name"] == name.replace("\n", r"\n").replace("\x1b\u202e", r"\x1b\u202e")
    assert "<img src=http" not in page
    assert "<b>&lt;" not in page
    assert "\\x1b\\u202e" in page
    assert "\x1b" not in page
    assert page.count("<script") == page.count("<script>") == 1
    (script,) = re.findall("<script>(.*)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page  # no other script runs
    text = page.replace("src=http://evil", "")
    assert not any(word in text for word in ("http:", "https:", "<link", "@import", "url(", "src=/", "eval("))


def test_skipped_victims_come_before_the_others(folder):
    folder.skip({"s": "damaged"})
    _, _, page = written(folder, ["a", "s"], [finished("a")], False)
    assert page.index("damaged") < page.index("<h2>Plots") < page.index('class="victim')


def test_page_fits_a_phone(folder):
    _, _, page = written(folder, ["a"], [finished("a")], False)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "@media (max-width: 600px)" in page


def test_settings_in_words():
    settings = {
        "weights": None,
        "gradients": Path("g"),
        "truth": (),
        "input_shape": None,
        "recipe": "auto",
        "distance": None,
        "tv": None,
        "steps": 30,
        "stop_certified": True,
        "stop_distance": None,
        "at_once": None,
        "max_memory": 4_000_000,
    }
    recipes = {
        "1x8x8, 1 image(s)": {"name": "smooth", "distance": "sapag", "tv": 1e-3},
        "3x8x8, 1 image(s)": {"name": "relu", "distance": "sapag", "tv": 0.0},
    }
    spelled = spelled_settings(settings, recipes, {"1x8x8, 1 image(s)": 8})
    assert spelled == {
        "weights": "none: the model's own",
        "gradients": "g",
        "truth": "not given",
        "input_shape": "as the gradient files say",
        "recipe": "auto: smooth or relu",
        "distance": "sapag (of the recipe)",
        "tv": "0.001 or 0 (of the recipe)",
        "steps": "30",
        "stop_certified": "yes",
        "stop_distance": "none",
        "at_once": "8 (what memory bears)",
        "max_memory": "4,000,000 bytes",
    }


def test_no_python_on_the_page(folder):
    _, _, page = written(folder, ["a"], [finished("a")], False)
    assert not re.search(r"from the recipe|PosixPath|<td>(None|True|False|\()", page)


def test_formulas_in_the_table_are_text(folder):
    folder.skip({"@s": "=1+1"})
    _, lines, _ = written(folder, ["=cmd", "@s"], [finished("=cmd", distance=1e-3)], False)
    assert [line["name"] for line in lines] == ["'=cmd", "'@s"]
    assert lines[0]["distance"] == "0.001"
    assert lines[1]["reason"] == "'=1+1"


def test_what_cannot_be_written_is_named_and_the_rest_is_there(folder):
    (folder.folder / "summary.html").mkdir()
    with pytest.raises(ValueError, match=r"summary\.html: cannot be written: Is a directory"):
        written(folder, ["a"], [finished("a")], False)
    assert json.loads((folder.folder / "summary.json").read_text())["finished"] == 1


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
