"""NumPy archives of images and labels: layouts, names, types, and what is refused."""

import io
import zipfile

import numpy as np
import pytest
import torch

from sapag_fast import data

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 0, 8, 7])
CHANNELS_FIRST = torch.from_numpy(BYTES.transpose(0, 3, 1, 2).copy()).float() / 255
GREY = torch.from_numpy(BYTES[..., 0].copy()).float()[:, None] / 255


def write_npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_npz_layouts_types_and_orders(order, dtype, layout, tmp_path):
    values = {"NHW": BYTES[..., 0], "NHWC": BYTES, "NCHW": BYTES.transpose(0, 3, 1, 2)}[layout]
    expected = GREY if layout == "NHW" else CHANNELS_FIRST
    values = values if dtype == np.uint8 else (values / 255).astype(dtype)
    path = write_npz(tmp_path / "d.npz", x=np.array(values, order=order), y=LABELS[:, None])
    images, labels = data.read_dataset(path, first=2, count=7)
    torch.testing.assert_close(images, expected[2:9], rtol=0, atol=1e-7)
    assert images.is_contiguous()
    assert labels.tolist() == LABELS[2:9].tolist()
    assert torch.equal(data.read_dataset(path, layout=layout, first=2, count=7)[0], images)


def test_npz_names_and_splits(tmp_path):
    arrays = {"x_train": BYTES, "y_train": LABELS, "x_test": BYTES[:2], "y_test": LABELS[:2]}
    path = write_npz(tmp_path / "d.npz", **arrays)
    assert len(data.read_dataset(path, split="test")[0]) == 2
    assert len(data.read_dataset(path, images="x_train", labels="y_train")[0]) == 12
    with pytest.raises(ValueError, match=r"expected arrays images and labels or x and y.* found x_train"):
        data.read_dataset(path)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (BYTES, LABELS[:11], "12 images in images, but 11 labels in labels"),
        (BYTES, LABELS - 1, r"label -1 at position 9; expected 0\.\.9223"),
        (BYTES, LABELS + 0.5, "labels: expected integers, found float64"),
        (BYTES, np.eye(12), r"labels: expected shape \[N\], found \[12, 12\]"),
        (BYTES.astype(np.float32), LABELS, r"images: expected values in \[0, 1\], found 0.0 to 255.0"),
        (np.full((12, 4, 4), np.nan), LABELS, r"expected values in \[0, 1\], found nan"),
        (
            BYTES.astype(np.int32),
            LABELS,
            r"images: expected uint8, or float in \[0, 1\], found int32 from 0 to 255",
        ),
        (BYTES // 128, LABELS, "images: .* 255 for white, found 1 as the largest.* multiply by 255"),
        (np.zeros((12, 3, 5, 3)), LABELS, "both NHWC and NCHW fit; pass layout="),
        (np.zeros((12, 5, 5, 4)), LABELS, "no dimension of 1 or 3 channels"),
        (np.zeros((12, 5)), LABELS, r"images: expected \[N, H, W\].* found \[12, 5\]"),
        (
            np.array([{}] * 12),
            LABELS,
            r"images: expected numbers, found object \(Python objects are not read",
        ),
    ],
)
def test_npz_refusals(images, labels, words, tmp_path):
    with pytest.raises(ValueError, match=rf"d\.npz: .*{words}"):
        data.read_dataset(write_npz(tmp_path / "d.npz", images=images, labels=labels))


def test_npz_layout_argument(tmp_path):
    path = write_npz(tmp_path / "d.npz", images=np.zeros((2, 3, 5, 1)), labels=np.zeros(2, int))
    assert data.read_dataset(path, layout="NCHW")[0].shape == (2, 3, 5, 1)
    assert data.read_dataset(path, layout="NHWC")[0].shape == (2, 1, 3, 5)
    with pytest.raises(ValueError, match="layout NHW "):
        data.read_dataset(path, layout="NHW")
    with pytest.raises(ValueError, match="layout must be one of NHW, NHWC, NCHW, found 'CHW'"):
        data.read_dataset(path, layout="CHW")


def test_damaged_npz_files_are_refused(tmp_path):
    path = write_npz(tmp_path / "d.npz", images=BYTES, labels=LABELS)
    whole = path.read_bytes()
    for size in (30, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"d\.npz: damaged, truncated or no \.npz file"):
            data.read_dataset(path)
    # The header promises more than the archive holds.
    short = io.BytesIO()
    np.save(short, np.zeros((12, 4, 4), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", short.getvalue()[:-7])
        archive.writestr("labels.npy", b"no array")
    with pytest.raises(
        ValueError, match=r"d\.npz: images: truncated: the header says 192 bytes .*185 follow"
    ):
        data.read_dataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", short.getvalue())
        archive.writestr("labels.npy", b"no array")
    with pytest.raises(ValueError, match=r"d\.npz: labels: not an array of numbers"):
        data.read_dataset(path)
