"""Readers of data sets, on small files in each format that the tests make themselves."""

import gzip
import pickle

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, write_idx
from PIL import Image
from scipy.io import savemat

from sapag_fast import data

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 0, 8, 7])
CHANNELS_FIRST = torch.from_numpy(BYTES.transpose(0, 3, 1, 2).copy()).float() / 255
GREY = torch.from_numpy(BYTES[..., 0].copy()).float()[:, None] / 255


def write_mnist(folder, zipped=False):
    return write_idx(folder, BYTES[..., 0], LABELS, zipped=zipped)


def cifar_bytes(kind, begin=0, end=12):
    rows = BYTES[begin:end].transpose(0, 3, 1, 2).reshape(end - begin, -1)
    fine = LABELS[begin:end, None].astype(np.uint8)
    coarse = [fine + 10] if kind == "cifar100" else []  # another one, to tell them apart
    return np.concatenate([*coarse, fine, rows], 1).tobytes()


def write_cifar(folder, kind="cifar10"):
    folder.mkdir(exist_ok=True)
    if kind == "cifar100":
        (folder / "train.bin").write_bytes(cifar_bytes(kind))
        return folder
    for number, begin in enumerate((0, 5, 7), 1):
        end = (5, 7, 12)[number - 1]
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_bytes(kind, begin, end))
    return folder


def write_svhn(path, X=None, y=None):
    X = BYTES.transpose(1, 2, 3, 0) if X is None else X
    y = np.where(LABELS == 0, 10, LABELS)[:, None].astype(np.uint8) if y is None else y
    savemat(path, {"X": X, "y": y}, do_compression=True)
    return path


def write_folders(root, suffix="png"):
    for image, label in zip(BYTES, LABELS, strict=True):
        folder = root / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(list(folder.iterdir()))}.{suffix}")
    return root


def write_npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def make(kind, folder):
    """A data set of twelve, and the images and labels that are in it."""
    if kind in ("mnist", "mnist.gz"):
        return write_mnist(folder / "d", zipped=kind.endswith("gz")), GREY, LABELS
    if kind in ("cifar10", "cifar100"):
        return write_cifar(folder / "d", kind), CHANNELS_FIRST, LABELS
    if kind == "svhn":
        return write_svhn(folder / "train_32x32.mat"), CHANNELS_FIRST, LABELS
    if kind == "folders":
        order = np.argsort(LABELS, kind="stable")
        return write_folders(folder / "d"), CHANNELS_FIRST[torch.from_numpy(order)], LABELS[order]
    return write_npz(folder / "d.npz", images=BYTES, labels=LABELS), CHANNELS_FIRST, LABELS


ALL = ["mnist", "mnist.gz", "cifar10", "cifar100", "svhn", "folders", "npz"]


@pytest.mark.parametrize("kind", ALL)
def test_every_format_is_recognised_and_read_exactly(kind, tmp_path):
    path, expected, labels = make(kind, tmp_path)
    assert data.recognise(path) == kind.removesuffix(".gz")
    images, numbers = data.read_dataset(path)
    assert (images.dtype, numbers.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous()
    assert torch.equal(images, expected)
    assert numbers.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("first", "count"), [(0, 1), (4, 4), (11, 1), (3, None)])
def test_a_slice_is_a_part_of_the_whole(kind, first, count, tmp_path):
    path, expected, labels = make(kind, tmp_path)
    images, numbers = data.read_dataset(path, first=first, count=count)
    end = 12 if count is None else first + count
    assert torch.equal(images, expected[first:end])
    assert numbers.tolist() == labels[first:end].tolist()


@pytest.mark.parametrize("kind", ALL)
def test_slices_outside_are_refused(kind, tmp_path):
    path, _, _ = make(kind, tmp_path)
    for first, count in ((0, 13), (12, None), (-1, 2), (0, 0), (8, 5)):
        with pytest.raises(ValueError, match=rf"first={first}, count={count}: .* holds 12 entries"):
            data.read_dataset(path, first=first, count=count)
    with pytest.raises(TypeError, match="count must be an int, found float"):
        data.read_dataset(path, count=2.0)


@pytest.mark.parametrize("kind", ALL)
def test_labels_beyond_the_classes_are_refused(kind, tmp_path):
    path, _, _ = make(kind, tmp_path)
    assert data.read_dataset(path, classes=10)[1].max() == 9
    with pytest.raises(ValueError, match=r"label \d.*expected 0\.\.5"):
        data.read_dataset(path, classes=6)


def test_a_slice_needs_no_more_of_the_file(tmp_path):
    """What lies beyond the slice may be damaged."""
    folder = write_mnist(tmp_path / "z", zipped=True)
    file = folder / "train-images-idx3-ubyte.gz"
    noise = RANDOM.integers(0, 256, (4000, 32, 32), dtype=np.uint8)
    file.write_bytes(gzip.compress(idx_bytes(noise))[:2_000_000])
    assert np.array_equal(data.read_idx(file, first=5, count=3), noise[5:8])
    with pytest.raises(ValueError, match="damaged or truncated gzip file"):
        data.read_idx(file)
    root = write_folders(tmp_path / "f")
    (root / "class9" / "0.png").write_bytes(b"no image")
    assert len(data.read_dataset(root, count=11)[0]) == 11
    with pytest.raises(ValueError, match=r"0\.png: not an image file"):
        data.read_dataset(root)


def test_mnist_from_its_two_files_in_any_packing(tmp_path):
    folder = write_mnist(tmp_path / "d", zipped=True)
    write_mnist(tmp_path / "d")
    for images in sorted(folder.glob("*images*")):
        assert torch.equal(data.read_mnist(images)[0], GREY)
    moved = (folder / "train-labels-idx1-ubyte.gz").rename(tmp_path / "elsewhere")
    assert data.read_mnist(folder / "train-images-idx3-ubyte.gz", moved)[1].tolist() == LABELS.tolist()


def test_mnist_splits(tmp_path):
    folder = write_mnist(tmp_path / "d")
    write_idx(folder, BYTES[:4, ..., 1], LABELS[:4], "t10k", zipped=True)
    assert len(data.read_dataset(folder, split="train")[0]) == 12
    assert len(data.read_dataset(folder, split="test")[0]) == 4
    with pytest.raises(ValueError, match=r"several splits \(test, train\); pass split="):
        data.read_dataset(folder)
    with pytest.raises(ValueError, match="split 'extra' is not there; found test, train"):
        data.read_dataset(folder, split="extra")
    with pytest.raises(ValueError, match="split must be one of train"):
        data.read_dataset(folder, split="training")


def test_damaged_idx_files_are_refused(tmp_path):
    folder = write_mnist(tmp_path / "d")
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for content, words in (
        (whole[:-1], "truncated: the header says 12288 bytes .12x32x32., but 12287 follow"),
        (whole + b"x", "says 12288 bytes .12x32x32., but 12289 follow"),
        (whole[:9], "truncated: 12 bytes expected, 5 found"),
        (b"\x00\x00\x0d" + whole[3:], "expected magic 00 00 08, found 00 00 0d 03"),
        (b"", "found an empty file"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "4294967295 images, but 12 labels"),
        (gzip.compress(whole)[:-6000], "truncated"),
        (gzip.compress(whole + b"x"), "more bytes follow than the header says"),
        (idx_bytes(BYTES[0]), "12 labels in"),
        (idx_bytes(BYTES[0, 0]), r"expected images \[N, H, W\], found 32x3"),
    ):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.*{words}"):
            data.read_mnist(folder)
    images.write_bytes(b"\x00\x00\x08\x03" + b"\xff" * 12)  # nothing of that size is allocated
    with pytest.raises(ValueError, match="truncated: the header says"):
        data.read_idx(images)
    images.write_bytes(whole)
    labels.write_bytes(idx_bytes(LABELS[:11]))
    with pytest.raises(ValueError, match=r"12 images, but 11 labels in .*labels-idx1"):
        data.read_mnist(folder)
    labels.unlink()
    with pytest.raises(ValueError, match="no labels beside it"):
        data.read_mnist(folder)


def test_cifar100_has_fine_and_coarse_labels(tmp_path):
    folder = write_cifar(tmp_path / "d", "cifar100")
    assert data.read_dataset(folder, labels="coarse")[1].tolist() == (LABELS + 10).tolist()
    with pytest.raises(ValueError, match="found kind='cifar100', labels='other'"):
        data.read_dataset(folder, labels="other")


def test_cifar_splits_and_single_files(tmp_path):
    folder = write_cifar(tmp_path / "d")
    (folder / "test_batch.bin").write_bytes(cifar_bytes("cifar10", 0, 2))
    assert len(data.read_dataset(folder, split="train")[0]) == 12
    assert len(data.read_dataset(folder, split="test")[0]) == 2
    images, labels = data.read_dataset(folder / "data_batch_2.bin")
    assert torch.equal(images, CHANNELS_FIRST[5:7])
    assert labels.tolist() == LABELS[5:7].tolist()


def test_damaged_cifar_files_are_refused(tmp_path):
    folder = write_cifar(tmp_path / "d")
    file = folder / "data_batch_2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    for kind in (None, "cifar10"):
        with pytest.raises(ValueError, match=r"data_batch_2\.bin: 6145 bytes, truncated"):
            data.read_dataset(folder, kind)
    file.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin: label 11 at position 0; expected 0\.\.9"):
        data.read_dataset(folder)
    file.write_bytes(cifar_bytes("cifar100", 0, 2))
    with pytest.raises(ValueError, match="could be cifar10 or cifar100"):
        data.read_dataset(folder)
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(ValueError, match="Python's pickles is not read"):
        data.read_dataset(tmp_path / "pickles", "cifar10")


def test_svhn_by_folder_and_split(tmp_path):
    write_svhn(tmp_path / "train_32x32.mat")
    assert len(data.read_dataset(tmp_path)[0]) == 12
    write_svhn(tmp_path / "extra_32x32.mat", BYTES.transpose(1, 2, 3, 0)[..., :2], np.array([[1], [10]]))
    assert data.read_dataset(tmp_path, split="extra")[1].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"several splits \(extra, train\)"):
        data.read_dataset(tmp_path)


def test_damaged_svhn_files_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    X, y = BYTES.transpose(1, 2, 3, 0), np.arange(1, 13)[:, None] % 10 + 1
    zero = y.copy()
    zero[3] = 0
    for arguments, words in (
        ((X, y[:11]), "12 images in X, but 11 labels in y"),
        ((X, zero), r"label 0 at position 3; expected 1\.\.10"),
        ((X.astype(float), y), r"X: expected uint8 \[H, W, 3, N\], found float64"),
        ((BYTES, y), r"X: expected uint8 .* found uint8 \[12, 32, 32, 3\]"),
        ((X, y + 0.5), "y: expected integers"),
    ):
        with pytest.raises(ValueError, match=rf"a\.mat: {words}"):
            data.read_svhn(write_svhn(path, *arguments))
    savemat(path, {"digits": X})
    with pytest.raises(ValueError, match="no matrix X and y"):
        data.read_svhn(path)
    whole = write_svhn(path).read_bytes()
    for size in (0, 50, 128, 200, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.mat: "):
            data.read_svhn(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(ValueError, match=r"MATLAB 7\.3 \(HDF5\) is not read"):
        data.read_svhn(path)


def test_class_folders_with_splits(tmp_path):
    for split in ("train", "test"):
        write_folders(tmp_path / split, "bmp")
    assert data.recognise(tmp_path) == "folders"
    assert len(data.read_dataset(tmp_path, split="test")[0]) == 12
    with pytest.raises(ValueError, match=r"several splits \(test, train\); pass split="):
        data.read_dataset(tmp_path)
    with pytest.raises(ValueError, match="split 'val' is not there; found test, train"):
        data.read_dataset(tmp_path, split="val")


def test_class_folders_fit_images_when_told(tmp_path):
    root = write_folders(tmp_path / "d")
    assert data.class_names(root) == [f"class{label}" for label in range(10)]
    Image.new("RGB", (9, 7)).save(root / "class3" / "9.png")
    with pytest.raises(ValueError, match=r"9\.png: 3x7x9, but 0\.png is 3x32x32; pass input_shape="):
        data.read_dataset(root)
    assert data.read_dataset(root, input_shape=(1, 8, 8))[0].shape == (13, 1, 8, 8)


def test_class_folders_refuse_what_is_no_class(tmp_path):
    root = write_folders(tmp_path / "d")
    (root / "class2b").mkdir()
    with pytest.raises(ValueError, match="class2b: holds no image file"):
        data.read_dataset(root)
    (root / "class2b").rmdir()
    file = root / "class2" / "0.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"class2/0\.png"):
        data.read_dataset(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no class folder"):
        data.read_class_folders(tmp_path / "empty")


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.dat").write_bytes(b"\x80\x04abc")
    for name, words in (
        ("none", "does not exist"),
        ("d", "no data set recognised; .* found nothing"),
        ("a.tsv", "read_sentences reads it"),
        ("a.png", "read_images reads it"),
        ("a.dat", "no data set recognised; .* begins with 80 04 61 62 63"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*{words}"):
            data.read_dataset(tmp_path / name)
    with pytest.raises(ValueError, match=r"kind must be one of mnist, .* found 'imagenet'"):
        data.read_dataset(tmp_path / "d", "imagenet")
    write_mnist(tmp_path / "d")
    write_cifar(tmp_path / "d")
    with pytest.raises(ValueError, match="could be mnist or cifar10; pass kind="):
        data.read_dataset(tmp_path / "d")
    assert data.read_dataset(tmp_path / "d", "cifar10")[0].shape[1] == 3


@pytest.mark.parametrize("kind", ALL)
def test_damage_gives_images_or_an_error_that_names_the_file(kind, tmp_path):
    path, _, _ = make(kind, tmp_path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    random = np.random.default_rng(1)
    messages = []
    for attempt in range(60):
        file = files[random.integers(len(files))]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[random.integers(len(whole)) :]
        else:  # mostly in the header
            for _ in range(attempt % 7):
                at = random.integers(min(len(whole), (64, 300, len(whole))[attempt % 3]))
                damaged[at] = random.integers(256)
        file.write_bytes(damaged)
        try:
            images, labels = data.read_dataset(path, kind.removesuffix(".gz"))
        except ValueError as error:
            messages.append(str(error))
        else:
            assert len(images) == len(labels)
            assert images.min() >= 0
            assert images.max() <= 1
        file.write_bytes(whole)
    assert len(messages) >= 10
    assert [message for message in messages if str(tmp_path) not in message] == []


def test_nothing_is_unpickled(monkeypatch, tmp_path):
    """A file that would run code when unpickled is refused by every reader, and runs none."""

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = tmp_path / "trap"
    trap.write_bytes(pickle.dumps(Trap()))
    for kind in ("mnist", "cifar10", "svhn", "npz"):
        with pytest.raises(ValueError, match="trap"):
            data.read_dataset(trap, kind)
    np.savez(tmp_path / "trap.npz", images=np.array([Trap()] * 2), labels=np.zeros(2, int))
    with pytest.raises(ValueError, match="Python objects are not read"):
        data.read_dataset(tmp_path / "trap.npz")


@pytest.mark.parametrize("read", [data.read_dataset, data.read_arrays, data.read_idx, data.read_sentences])
def test_what_is_no_path_is_refused_by_name(read):
    for given, kind in ((None, "NoneType"), (3, "int")):
        with pytest.raises(TypeError, match=f"path must be a string or a Path, found {kind}"):
            read(given)
    with pytest.raises(TypeError, match="paths must be a path or several, found int"):
        data.read_images(3, (1, 2, 2))
