"""The shipped images and the reading of the user's own."""

import sys

import pytest
import torch
from PIL import Image

from sapag_fast import data
from sapag_fast.data import bundled


@pytest.mark.parametrize(
    ("source", "channels", "classes"), [("digits", 1, 10), ("faces", 1, 100), ("photographs", 3, 10)]
)
def test_source_gives_images_and_labels(source, channels, classes):
    images, labels = data.SOURCES[source](12, 32)
    assert images.shape == (12, channels, 32, 32)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.is_contiguous()
    assert 0 <= labels.min() <= labels.max() < classes
    # Real content: nothing flat, no image twice.
    assert images.flatten(1).std(1).min() > 0.03
    distances = torch.cdist(images.flatten(1), images.flatten(1)) + torch.eye(12) * 1e3
    assert distances.min() > 0.5


@pytest.mark.parametrize("source", list(data.SOURCES))
def test_source_is_deterministic_and_nested(source):
    few, few_labels = data.SOURCES[source](3)
    more, more_labels = data.SOURCES[source](6)
    assert torch.equal(few, more[:3])
    assert torch.equal(few_labels, more_labels[:3])


def test_sources_need_no_download(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    bundled._photograph.cache_clear()
    assert len(data.photographs()[0]) == sum(len(crops) for crops in bundled.CROPS.values())
    assert len(data.faces()[0]) == 100


def test_photographs_begin_with_ten_different_ones():
    _, labels = data.photographs(10)
    assert sorted(labels.tolist()) == list(range(10))


def test_crops_lie_inside_their_photographs():
    for name, crops in bundled.CROPS.items():
        height, width = bundled._photograph(name).shape[:2]
        assert all(top + side <= height and left + side <= width for top, left, side in crops), name


def test_every_size_is_met():
    assert data.digits(2, 8)[0].shape == (2, 1, 8, 8)
    assert data.photographs(1, 5)[0].shape == (1, 3, 5, 5)
    assert data.faces(1, 25)[0].shape == (1, 1, 25, 25)


@pytest.mark.parametrize("count", [0, 101])
def test_count_out_of_range(count):
    with pytest.raises(ValueError, match=r"count must be at (least 1|most 100), found"):
        data.faces(count)


def test_read_images_is_exact_for_matching_sizes(tmp_path):
    pixels = torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    images = data.read_images(tmp_path / "a.png", (3, 9, 7))
    assert torch.equal(images[0], pixels.permute(2, 0, 1) / 255)
    assert images.is_contiguous()


def test_read_images_converts_crops_and_resamples(tmp_path):
    Image.new("RGBA", (40, 20), (255, 0, 0, 255)).save(tmp_path / "wide.png")
    Image.new("L", (3, 3), 128).save(tmp_path / "small.png")
    images = data.read_images([tmp_path / "wide.png", tmp_path / "small.png"], (3, 8, 8))
    assert images.shape == (2, 3, 8, 8)
    assert torch.allclose(images[0, 0], torch.ones(8, 8))
    assert torch.allclose(images[1], torch.full((3, 8, 8), 128 / 255))
    assert data.read_images(tmp_path / "wide.png", (1, 4, 4)).shape == (1, 1, 4, 4)


def test_read_images_takes_a_folder_by_name(tmp_path):
    for name, grey in (("b.png", 200), ("a.png", 100), ("notes.txt", None)):
        if grey is None:
            (tmp_path / name).write_text("not an image")
        else:
            Image.new("L", (4, 4), grey).save(tmp_path / name)
    images = data.read_images(tmp_path, (1, 4, 4))
    assert [round(float(image.mean() * 255)) for image in images] == [100, 200]


def test_read_images_refuses(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (30, 30)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("none.png", "does not exist"),
        ("broken.png", r"broken\.png"),
        ("text.png", "not an image file"),
        ("cut.png", r"cut\.png"),
        ("empty", "no image file"),
    ):
        with pytest.raises(ValueError, match=words):
            data.read_images(tmp_path / name, (3, 8, 8))
    with pytest.raises(ValueError, match="no image"):
        data.read_images([], (3, 8, 8))
    for shape in ((2, 8, 8), (8, 8), (10,)):
        with pytest.raises(ValueError, match="input shape"):
            data.read_images(tmp_path / "whole.png", shape)
