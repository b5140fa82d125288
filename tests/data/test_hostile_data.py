"""Data sets made to harm: bombs, pipes, lies about sizes, numbers beyond their type."""

import gzip
import io
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sapag_fast import data
from sapag_fast.data import conventions


@pytest.fixture
def small(monkeypatch):
    """Bombs of a megabyte."""
    monkeypatch.setattr(conventions, "_SMALL", 1 << 20)


def npy(array_bytes, shape, dtype="|u1", header=None):
    header = header or f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array_bytes


def npz(path, images, labels, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)
    return path


LABELS = npy(bytes(4), (4,))


def test_npz_bomb(small, tmp_path):
    path = npz(tmp_path / "d.npz", npy(bytes(4 << 20), (4, 1024, 1024)), LABELS)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"d\.npz: .* that unpack to 4194304; expected at most 200 times"):
        data.read_dataset(path)
    with pytest.raises(ValueError, match="unpack to 4194304"):
        data.read_dataset(path, first=3, count=1)


def test_memory_that_is_not_there(small, tmp_path, monkeypatch):
    monkeypatch.setattr(conventions, "free_bytes", lambda device: 8 << 20)
    noise = np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8).tobytes()
    path = npz(tmp_path / "d.npz", npy(noise, (4, 1024, 1024)), LABELS, zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match=r"reading it takes 20971520 bytes of memory, 8388608 are free"):
        data.read_dataset(path)
    assert len(data.read_dataset(path, count=1)[0]) == 1


HEADERS = {
    "a billion images": (npy(bytes(64), (10**9, 4, 4)), "truncated: the header says 16000000000 bytes"),
    "more than it says": (npy(bytes(65), (4, 4, 4)), "the header says 64 bytes .* but 65 follow"),
    "sizes that wrap": (npy(bytes(64), (2**62, 2**62, 16)), "truncated"),
    "a negative size": (npy(bytes(64), (4, -4, -4)), "expected .N, H, W."),
    "deep brackets": (npy(b"", (), header="[" * 5000), "not an array of numbers"),
    "a program": (npy(b"", (), header="__import__('os').abort()\n"), "not an array of numbers"),
    "no shape": (
        npy(b"", (), header="{'descr': '|u1', 'fortran_order': False, 'shape': 4, }\n"),
        "not an array",
    ),
    "a long header": (npy(b"", (), header=" " * 65000), "not an array of numbers"),
    "another version": (b"\x93NUMPY\x07\x00" + bytes(10), "version"),
    "complex": (npy(bytes(64), (4, 1, 2), "<c8"), "expected numbers, found complex64"),
    "bool": (npy(bytes(64), (4, 4, 4), "|b1"), "expected numbers, found bool"),
    "16 bits": (
        npy(bytes(64), (4, 4, 2), "<u2"),
        r"expected uint8, or float in .0, 1., found uint16 from 0 to 0",
    ),
    "beyond float": (
        npy(struct.pack("<16f", *range(16)), (4, 2, 2), "<f4"),
        r"expected values in .* 0.0 to 15.0",
    ),
    "infinite": (npy(struct.pack("<16f", *[np.inf] * 16), (4, 2, 2), "<f4"), "found inf to inf"),
    "one nan": (npy(struct.pack("<16f", np.nan, *[0.5] * 15), (4, 2, 2), "<f4"), "found nan to nan"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_npz_headers(name, tmp_path):
    images, words = HEADERS[name]
    with pytest.raises(ValueError, match=rf"d\.npz: .*{words}"):
        data.read_dataset(npz(tmp_path / "d.npz", images, LABELS), layout="NHW" if "shape" in name else None)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (npy(struct.pack("<4Q", 0, 1, 2, 2**63), (4,), "<u8"), "label 9223372036854775808 at position 3"),
        (npy(bytes(4), (4,), "|b1"), "expected numbers, found bool"),
        (npy(bytes(16), (4,), "<f4"), "expected integers, found float32"),
    ],
)
def test_npz_labels(labels, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        data.read_dataset(npz(tmp_path / "d.npz", npy(bytes(64), (4, 4, 4)), labels))


def test_npz_with_one_name_twice(tmp_path):
    path = npz(tmp_path / "d.npz", npy(bytes(64), (4, 4, 4)), LABELS)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.npy", npy(bytes(4), (4,)))
    with pytest.raises(ValueError, match="holds images or labels twice"):
        data.read_dataset(path)


def test_idx_bomb(small, tmp_path):
    content = b"\x00\x00\x08\x03" + struct.pack(">3I", 4, 1024, 1024) + bytes(4 << 20)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 4) + bytes(4))
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz: .* unpack to 4194304"):
        data.read_dataset(tmp_path)


def mat(path, **arrays):
    savemat(path, arrays, do_compression=True)
    return path


def test_svhn_bombs(small, tmp_path):
    path = mat(tmp_path / "a.mat", X=np.zeros((32, 32, 3, 2000), np.uint8), y=np.ones((2000, 1), np.uint8))
    with pytest.raises(ValueError, match=r"a\.mat: .* bytes that unpack to"):
        data.read_dataset(path)
    path = mat(tmp_path / "b.mat", X=np.zeros((2, 2, 3, 2), np.uint8), y=np.ones((2, 1), np.uint8))
    # The shape is small, the numbers behind it are many.
    inner = zlib.decompressobj().decompress(path.read_bytes()[136:])
    lying = zlib.compress(inner[:-24] + struct.pack("<II", 2, 1 << 22) + bytes(4 << 20))
    path.write_bytes(path.read_bytes()[:128] + struct.pack("<II", 15, len(lying)) + lying)
    with pytest.raises(ValueError, match=r"b\.mat: .* bytes that unpack to"):
        data.read_dataset(path)


def test_svhn_of_other_classes(tmp_path):
    cells = np.empty((1, 1), object)
    cells[0, 0] = np.zeros(3)
    for other in (cells, {"a": 1}, "text"):
        path = mat(tmp_path / "a.mat", X=other, y=np.ones((2, 1), np.uint8))
        with pytest.raises(ValueError, match=r"a\.mat: X: expected integers, found"):
            data.read_dataset(path)


KINDS = ("a.npz", "a.bin", "a.mat", "a.idx3", "a.png", "a.tsv")


@pytest.mark.parametrize("name", KINDS)
def test_pipes_and_devices(name, tmp_path):
    os.mkfifo(tmp_path / name)
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / name).symlink_to("/dev/zero")
    readers = [data.read_dataset, data.recognise]
    readers += [data.read_cifar, data.read_arrays, data.read_svhn, data.read_mnist, data.read_idx]
    readers += [data.read_sentences, lambda path: data.read_images(path, (1, 4, 4))]
    for read in readers:
        for path, words in ((tmp_path / name, "is a pipe"), (tmp_path / "device" / name, "is a device")):
            with pytest.raises(ValueError, match=words):
                read(path)


def test_pipes_in_folders(tmp_path):
    (tmp_path / "class").mkdir()
    os.mkfifo(tmp_path / "class" / "a.png")
    for read in (data.read_dataset, lambda path: data.read_images(path / "class", (1, 4, 4))):
        with pytest.raises(ValueError, match=r"a\.png: is a pipe; expected a regular file"):
            read(tmp_path)


def test_sentences_with_a_label_of_thousands_of_digits(tmp_path):
    (tmp_path / "a.tsv").write_text(f"sentence\tlabel\nfine\t{'9' * 5000}\n")
    with pytest.raises(ValueError, match=r"a\.tsv, line 2: expected a label"):
        data.read_sentences(tmp_path / "a.tsv")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp"])
def test_damaged_images_raise_one_error(suffix, tmp_path):
    choose, whole = random.Random(0), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(noise).save(whole, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path, refused = tmp_path / f"a.{suffix}", 0
    for _ in range(40):
        content = bytearray(whole.getvalue())
        for _ in range(choose.choice((1, 4, 20))):
            content[choose.randrange(min(len(content), choose.choice((60, 10**6))))] = choose.randrange(256)
        path.write_bytes(content[: choose.choice((len(content), choose.randrange(len(content))))])
        try:
            data.read_images(path, (1, 16, 16))
        except ValueError as error:
            refused += path.name in str(error)
    assert refused > 5
