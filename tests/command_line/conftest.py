"""Files that a user would have."""

import pytest
from command_calls import NETS, run

from sapag_fast import data
from sapag_fast.command_line.demo import demo
from sapag_fast.command_line.demo.demo import Cell
from sapag_fast.reports.pictures import to_picture


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two images, weights, a gradient of each image and of both; only read afterwards."""
    folder = tmp_path_factory.mktemp("made")
    images, labels = data.digits(2, 8)
    for position, image in enumerate(images):
        to_picture(image).save(folder / f"{position}.png")
    weights, net = folder / "w.safetensors", f"{NETS}:make"
    both = ("--images", folder / "0.png", "--images", folder / "1.png")
    for name, classes, rest in (
        ("g0", "0", (*both[:2], "--save-weights", weights)),
        ("g1", "1", (*both[2:], "--weights", weights)),
        ("both", "0,1", (*both, "--weights", weights, "--with-labels")),
    ):
        files = ("--labels", classes, "--gradient", folder / f"{name}.safetensors")
        done = run("capture", "--model", net, "--input-shape", "1x8x8", "--seed", 5, *files, *rest)
        assert done.exit_code == 0, done.output
    assert labels.tolist() == [0, 1]
    return folder


@pytest.fixture
def small_demo(monkeypatch):
    monkeypatch.setattr(demo, "CELLS", (Cell("digits", "uniform"), Cell("digits", "xavier")))
    monkeypatch.setattr(demo, "VICTIMS", 2)
    monkeypatch.setattr(demo, "RESTARTS", 2)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Six images, weights, their gradients in a folder and in one file; only read afterwards."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "truth").mkdir()
    images, _ = data.digits(6, 8)
    for position, image in enumerate(images):
        to_picture(image).save(folder / "truth" / f"digit{position}.png")
    weights, model = folder / "w.safetensors", ("--model", f"{NETS}:make", "--seed", 5)
    first = ("--save-weights", weights)
    for name, rest in (
        ("stacked.safetensors", ("--batch-size", 1, *first)),
        ("folder", ("--batch-size", 1, "--weights", weights)),
        ("pairs.safetensors", ("--batch-size", 2, "--weights", weights)),
    ):
        images = ("--images", folder / "truth", "--input-shape", "1x8x8", "--with-labels")
        done = run("capture", *model, *images, "--gradient", folder / name, *rest)
        assert done.exit_code == 0, done.output
    return folder
