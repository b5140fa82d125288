"""From the claims' results to intervals, bars and tables."""

import json

import pytest

from benchmarks.claims import tables
from benchmarks.claims.bars import bar_of, lead_lines, verdict
from benchmarks.claims.summary import recovered_by_first, summarise, wilson
from benchmarks.claims.totals import totals_table


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


def test_totals_are_over_the_places_that_all_were_tried_in():
    hits = {"sapag": (18, 20), "cosine": (3, 4), "layer-cosine": (20, 20), "l2": (20,)}
    results = [
        image_result(count, 20, method, initialisation=place)
        for method, counts in hits.items()
        for place, count in zip(("default", "xavier"), counts, strict=False)
    ]
    results[0]["victims"][0]["restarts"] = [False, False, True]  # by the third alone
    assert recovered_by_first(results[0]["victims"], 2) == 17
    lines = totals_table(results, list(hits)).splitlines()
    assert lines[0] == "| over all initialisations | mnist, untrained |"
    assert lines[2:] == [  # l2 was not tried everywhere
        "| layer cosine | 40/40 [91, 100] |",
        "| SAPAG | 38/40 [83, 99] |",
        "| SAPAG, 2 restarts | 37/40 [80, 97] |",
        "| cosine | 7/40 [9, 32] |",
    ]
    assert totals_table([found for found in results if found["settings"]["method"] == "sapag"], hits) == ""


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
