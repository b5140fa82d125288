"""The output folder: pictures, grid, exact tensors and results.json, valid at every moment."""

import io
import json
import math

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from sapag_fast.reports.finished import Finished
from sapag_fast.reports.pictures import Row, grid, to_picture
from sapag_fast.reports.report import Report, grid_rows, recoveries_table

CPU = torch.device("cpu")


def finished(name="victim", batch=1, shape=(3, 8, 8), truth=True, **changes):
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(len(name)))
    options = {
        "name": name,
        "group": "group",
        "method": "SAPAG",
        "inputs": images,
        "labels": torch.arange(batch),
        "distance": 1e-5,
        "evaluations": 300,
        "seconds": 1.25,
        "status": "ok",
        "truth": images.flip(0) if truth else None,
        "true_labels": torch.arange(batch).flip(0) if truth else None,
    }
    return Finished(**{**options, **changes})


def results(folder):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_holds_everything(tmp_path):
    report = Report(tmp_path / "deep" / "out", "recover", {"seed": 3, "path": tmp_path, "shape": (3, 8)}, CPU)
    assert not (tmp_path / "deep").exists()
    entry = finished("a")
    report.add(entry)
    report.add(finished("two", batch=2))
    report.finish("finished")
    folder = tmp_path / "deep" / "out"
    assert names_in(folder) == [
        "a.png", "grid.png", "recovered.safetensors", "results.json", "two-00.png", "two-01.png"
    ]  # fmt: skip
    content = results(folder)
    assert content["status"] == "finished"
    assert content["command"] == "recover"
    assert content["settings"] == {"seed": 3, "path": str(tmp_path), "shape": [3, 8]}
    assert {"sapag_fast", "torch", "python", "device"} <= set(content["versions"])
    first, second = content["recoveries"]
    assert first["distance"] == 1e-5
    assert first["evaluations"] == 300
    assert first["recovered"] is True
    assert first["images"][0]["file"] == "a.png"
    assert first["images"][0]["mse"] == 0
    assert first["images"][0]["psnr"] is None  # infinite
    assert [image["truth"] for image in second["images"]] == [1, 0]
    assert [image["true_label"] for image in second["images"]] == [0, 1]
    assert torch.equal(load_file(folder / "recovered.safetensors")["a"], entry.inputs)
    with Image.open(folder / "a.png") as picture:
        assert picture.size == (8, 8)
        assert picture.mode == "RGB"


def test_every_state_on_the_way_is_whole(tmp_path):
    report = Report(tmp_path, "demo", {}, CPU)
    for count in (1, 2, 3):
        report.add(finished(f"v{count}"))
        content = results(tmp_path)
        assert content["status"] == "running"
        assert len(content["recoveries"]) == count
        assert all(
            (tmp_path / image["file"]).is_file() for r in content["recoveries"] for image in r["images"]
        )
    report.finish("interrupted", summary=[1])
    assert results(tmp_path)["status"] == "interrupted"
    assert results(tmp_path)["summary"] == [1]


def test_interrupted_write_is_caught_up(tmp_path, monkeypatch):
    report = Report(tmp_path, "demo", {}, CPU)
    report.add(finished("one"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "sapag_fast.reports.report.save_picture", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            report.add(finished("two"))
    assert len(results(tmp_path)["recoveries"]) == 1
    report.finish("interrupted")
    assert [recovery["name"] for recovery in results(tmp_path)["recoveries"]] == ["one", "two"]
    assert (tmp_path / "two.png").is_file()
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]


def test_unknown_truth_and_inputs_that_are_no_images(tmp_path):
    report = Report(tmp_path, "recover", {}, CPU)
    report.add(finished("plain", truth=False), finished("vector", shape=(5,), labels=None))
    report.finish("finished")
    plain, vector = results(tmp_path)["recoveries"]
    assert "recovered" not in plain
    assert "psnr" not in plain["images"][0]
    assert vector["images"][0]["file"] is None
    assert vector["images"][0]["label"] is None
    assert vector["images"][0]["ssim"] is None
    assert names_in(tmp_path) == ["grid.png", "plain.png", "recovered.safetensors", "results.json"]


def test_non_finite_recovery_is_recorded(tmp_path):
    report = Report(tmp_path, "recover", {}, CPU)
    report.add(
        finished("bad", inputs=torch.full((1, 3, 8, 8), math.nan), distance=math.inf, status="non-finite")
    )
    recovery = results(tmp_path)["recoveries"][0]
    assert recovery["distance"] is None
    assert recovery["recovered"] is False
    with Image.open(tmp_path / "bad.png") as picture:
        assert picture.getextrema() == ((0, 0),) * 3


def test_interrupted_before_it_began_is_left_out(tmp_path):
    report = Report(tmp_path, "recover", {}, CPU)
    report.add(
        finished("begun", status="interrupted"),
        finished("not-begun", status="interrupted", distance=math.inf),
    )
    assert [recovery["name"] for recovery in results(tmp_path)["recoveries"]] == ["begun"]


def test_existing_output_is_refused_or_overwritten(tmp_path):
    Report(tmp_path, "recover", {}, CPU).add(finished("old"))
    (tmp_path / "mine.png").write_text("not ours")
    with pytest.raises(ValueError, match="holds files already"):
        Report(tmp_path, "recover", {}, CPU)
    (tmp_path / ".recovered.safetensors.abcdefgh.part").write_text("of a write that was killed")
    report = Report(tmp_path, "recover", {}, CPU, overwrite=True)
    assert not list(tmp_path.glob(".*.part"))
    assert (tmp_path / "old.png").exists()
    report.add(finished("new"))
    assert names_in(tmp_path) == ["grid.png", "mine.png", "new.png", "recovered.safetensors", "results.json"]


def test_overwriting_deletes_nothing_outside_the_folder(tmp_path):
    (tmp_path / "keep.png").write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    images = [{"file": name} for name in ("../keep.png", str(tmp_path / "keep.png"), 3, None)]
    (folder / "results.json").write_text(json.dumps({"recoveries": [{"images": images}]}))
    Report(folder, "recover", {}, CPU, overwrite=True).add(finished("new"))
    assert (tmp_path / "keep.png").read_text() == "precious"


@pytest.mark.parametrize("content", ["", "[]", '{"recoveries": 3}', '{"recoveries": [{"images": [1]}]}'])
def test_foreign_results_are_no_obstacle(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    Report(tmp_path, "recover", {}, CPU, overwrite=True).finish("finished")
    assert results(tmp_path)["recoveries"] == []


@pytest.mark.parametrize("name", ["file", "file/below", "file/further/below"])
def test_output_that_cannot_be_a_folder(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        Report(tmp_path / name, "recover", {}, CPU, overwrite=True)


def test_output_that_turns_out_unwritable(tmp_path):
    report = Report(tmp_path / "out", "recover", {}, CPU)
    (tmp_path / "out").write_text("somebody was quicker")
    with pytest.raises(ValueError, match="cannot be written"):
        report.add(finished())


def test_pictures_clamp_and_round():
    assert to_picture(torch.tensor([[[-1.0, 0.5, 2.0, math.nan]]])).tobytes() == bytes([0, 128, 255, 0])
    assert to_picture(torch.rand(3, 4, 6)).size == (6, 4)


def test_grid_puts_truth_above_each_method_and_breaks_long_rows():
    entries = [
        finished(f"{method}{k}", method=method, batch=2, labels=None)
        for method in ("SAPAG", "DLG")
        for k in range(7)
    ]
    (rows,) = grid_rows(entries)
    assert [row.caption for row in rows] == ["group\ntruth", "SAPAG", "DLG"]
    assert all(len(row.images) == 14 for row in rows)
    assert all(torch.equal(truth, ours) for truth, ours in zip(rows[0].images, rows[1].images, strict=True))
    sheet = grid([rows])
    assert sheet.height > 6 * 64  # three rows, broken once
    assert grid([[Row("only", [None, torch.rand(1, 100, 30)])]]).height > 100


def test_table_shows_every_recovery():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(recoveries_table([finished("first"), finished("second", truth=False)]))
    text = console.export_text()
    assert "first" in text
    assert "second" in text
    assert "PSNR" in text


def test_victims_called_as_our_own_files_or_as_each_other(tmp_path):
    report = Report(tmp_path, "recover", {}, CPU)
    names = ["grid", "Grid", "a", "A", "two-00", "__metadata__", "results", "recovered"]
    entries = [finished(name) for name in names]
    for entry in entries:
        report.add(entry)
    report.add(finished("two", batch=2))
    report.finish("finished")
    listed = [image["file"] for entry in results(tmp_path)["recoveries"] for image in entry["images"]]
    assert len({name.casefold() for name in (*listed, "grid.png")}) == len(names) + 3
    assert set(listed) <= set(names_in(tmp_path))
    assert listed[2] == "a.png"
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 100
    tensors = load_file(tmp_path / "recovered.safetensors")
    assert len(tensors) == len(names) + 1
    assert torch.equal(tensors["grid"], entries[0].inputs)


def test_names_on_the_screen_are_no_markup():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(recoveries_table([finished("[bold]x o[/x]\x1b[31m")]))
    assert "[bold]x o[/x]\\x1b[31m" in console.export_text()
