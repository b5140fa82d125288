"""Files of torch.save: read as torch reads them, without unpickling, and refused by name otherwise."""

import io
import pickle
import random
import struct
import tarfile
import zipfile

import pytest
import torch
from torch import nn

from sapag_fast.files.tensors import load_weights, read_tensors


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def contents():
    base = torch.randn(6, 4)
    attributed = torch.randn(2)
    attributed.note = "mine"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.uint8)
    return {
        "state_dict": net.state_dict(),
        "parameters": dict(net.named_parameters()),
        "views": {"a": base, "b": base.mT, "c": base[1:3, ::2], "d": base[2].expand(5, 4), "e": base[0, 0]},
        "types": {str(dtype): torch.ones(3).to(dtype) for dtype in types},
        "new types": {str(t): torch.ones(3).to(t) for t in (torch.float8_e4m3fn, torch.uint16, torch.cfloat)},
        "empty": {"a": torch.zeros(0), "b": torch.zeros(3, 0), "c": torch.zeros(())},
        "channels last": {"a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)},
        "attributes": {"a": attributed},
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain"])
@pytest.mark.parametrize("name", contents())
@pytest.mark.filterwarnings("ignore::UserWarning")  # of numbers that lose their imaginary part
def test_as_torch_reads_it(name, legacy, tmp_path):
    path = saved(tmp_path / "g.pt", contents()[name], _use_new_zipfile_serialization=not legacy)
    if legacy and name == "new types":  # torch writes them, and cannot read them
        assert list(read_tensors(path)[0]) == list(contents()[name])
        return
    expected = torch.load(path, weights_only=True)
    found, _ = read_tensors(path)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].stride() == tensor.stride()
        assert torch.equal(found[key].float(), tensor.detach().float())
        assert found[key].untyped_storage().data_ptr() % 64 == 0


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(protocol, tmp_path):
    path = saved(tmp_path / "g.pt", [torch.arange(3.0)], pickle_protocol=protocol)
    assert torch.equal(read_tensors(path)[0]["0"], torch.arange(3.0))


def nested():
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


UNREAD = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
    "meta": (lambda: torch.zeros(3, device="meta"), "a meta tensor, which has no numbers"),
    "nested": (nested, "a nested tensor"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "quantized"),
    "conjugated": (lambda: torch.zeros(2, dtype=torch.cfloat).conj(), "still to be conjugated"),
    "numpy": (lambda: torch.zeros(2).numpy(), r"Python objects \(numpy"),
    "class": (lambda: nn.Linear(1, 1), r"Python objects \(torch.nn.modules"),
}


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tensors_are_refused_by_name(kind, tmp_path):
    make, words = UNREAD[kind]
    path = saved(tmp_path / "g.pt", {"a": make()})
    with pytest.raises(ValueError, match=rf"gradient file .*g\.pt: damaged, or holds .*{words}"):
        read_tensors(path, "gradient")


def test_no_advice_to_load_a_file_unsafely(tmp_path):
    with tarfile.open(tmp_path / "tar.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"a": 1.5}, 2))
    saved(tmp_path / "module.pt", nn.Linear(2, 2), _use_new_zipfile_serialization=False)
    script = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(script, tmp_path / "script.pt")
    words = {"tar": "safetensors", "raw": "safetensors", "module": "Python objects", "script": "state_dict"}
    for name, expected in words.items():
        with pytest.raises(ValueError, match=expected) as caught:
            read_tensors(tmp_path / f"{name}.pt")
        assert not any(word in str(caught.value) for word in ("weights_only", "trust", "arbitrary"))


class Operations:
    """A pickle, operation by operation."""

    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"

    def __init__(self, count=3, offset=0, shape=(3,), stride=(1,), kind=b"ctorch\nFloatStorage\n"):
        storage = b"((" + self.text("storage") + kind + self.text("0") + self.text("cpu")
        storage = storage[1:] + self.number(count) + b"tQ"
        sizes = b"".join(b"(" + b"".join(map(self.number, part)) + b"t" for part in (shape, stride))
        rest = b"\x89ccollections\nOrderedDict\n)R"
        self.one = self.tensor + b"(" + storage + self.number(offset) + sizes + rest + b"tR"

    @staticmethod
    def text(word):
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    @staticmethod
    def number(value):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def whole(self, name="a"):
        return b"\x80\x02}" + self.text(name) + self.one + b"s."


def archive(path, pickled, numbers=bytes(12), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", numbers)
    return path


def test_handmade_archive_is_read(tmp_path):
    numbers = struct.pack("<3f", 1, 2, 3)
    found, _ = read_tensors(archive(tmp_path / "g.pt", Operations().whole(), numbers))
    assert found["a"].tolist() == [1, 2, 3]


LYING = {
    "a storage larger than the file": (Operations(count=10**9, shape=(10**9,)), "storage of 12 bytes that"),
    "a tensor beyond its storage": (Operations(shape=(4,)), "beyond its storage of 12 bytes"),
    "an offset beyond its storage": (Operations(offset=1), "beyond its storage"),
    "a stride beyond its storage": (Operations(stride=(2,)), "beyond its storage"),
    "expanded without end": (Operations(shape=(2**62,), stride=(0,)), "no memory bears"),
    "a product that wraps": (Operations(shape=(2**40, 2**40), stride=(0, 0)), "no memory bears"),
    "a negative size": (Operations(shape=(-1,)), "a size is too large"),
    "a negative stride": (Operations(stride=(-1,)), "a size is"),
    "a size beyond int64": (Operations(shape=(2**70,)), "a size is too large"),
    "more strides than sizes": (Operations(stride=(1, 1)), "damaged"),
    "another storage": (Operations(kind=b"cposix\nsystem\n"), r"Python objects \(posix.system\)"),
    "a number type for a storage": (Operations(kind=b"ctorch\nfloat32\n"), "outside its pickle"),
}


@pytest.mark.parametrize("name", LYING)
def test_lies_about_sizes(name, tmp_path):
    operations, words = LYING[name]
    with pytest.raises(ValueError, match=words):
        read_tensors(archive(tmp_path / "g.pt", operations.whole()))


TEXT, ONE = Operations.text, Operations().one
STRANGE = {
    "the same name twice": (b"\x80\x02}" + TEXT("a") + ONE + b"s" + TEXT("a") + ONE + b"s.", "'a' twice"),
    "nested tuples as a name": (b"\x80\x02})" + b"\x85" * 50_000 + b"Ns.", "a tuple among its names"),
    "deeply nested lists": (b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "a dictionary or a list"),
    "memory for a byte array": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "damaged"),
    "a word of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
    "a memo far away": (b"\x80\x02Nr\xff\xff\xff\xff.", "a dictionary or a list"),
    "a call": (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.", r"builtins\.bytearray"),
    "an object": (b"\x80\x02ctorch\nSize\n)\x81.", "Python objects"),
    "nothing": (b"", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "an empty stack": (b"\x80\x02.", "damaged"),
    "itself inside": (b"\x80\x02]q\x00h\x00a.", "a dictionary or a list"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_pickles(name, tmp_path):
    pickled, words = STRANGE[name]
    with pytest.raises(ValueError, match=words):
        read_tensors(archive(tmp_path / "g.pt", pickled))


def test_operations_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("sapag_fast.files.torch_pickle._MOST_OPERATIONS", 100)
    with pytest.raises(ValueError, match="more than 100 operations"):
        read_tensors(archive(tmp_path / "g.pt", b"\x80\x02" + b"]" * 200 + b"."))


def test_strange_archives(tmp_path):
    whole = Operations().whole()
    compressed = archive(tmp_path / "a.pt", whole, bytes(10**7), zipfile.ZIP_DEFLATED)
    twice = archive(tmp_path / "b.pt", whole)
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data/0", bytes(12))
    two = archive(tmp_path / "c.pt", whole)
    with zipfile.ZipFile(two, "a") as file:
        file.writestr("other/data.pkl", whole)
    big = archive(tmp_path / "d.pt", whole)
    with zipfile.ZipFile(big, "a") as file:
        file.writestr("archive/byteorder", "big")
    cases = {
        compressed: "compressed records",
        twice: "records of the same name",
        big: "big-endian",
        two: "damaged",
    }
    for path, words in cases.items():
        with pytest.raises(ValueError, match=words):
            read_tensors(path)


def test_plain_file_that_asks_for_more_than_it_has(tmp_path):
    path = saved(tmp_path / "g.pt", {"a": torch.zeros(10)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\n", Operations.number(10**12)))
    with pytest.raises(ValueError, match="damaged, or holds"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_random_and_flipped_bytes(suffix, tmp_path):
    """Whatever lies in the file: it is read, or one kind of error names it."""
    choose = random.Random(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    whole = io.BytesIO()
    torch.save(model.state_dict(), whole, _use_new_zipfile_serialization=bool(choose.getrandbits(1)))
    if suffix == ".safetensors":
        from safetensors.torch import save

        whole = io.BytesIO(save(model.state_dict(), {"input_shape": "1x8x8"}))
    path, refused = tmp_path / f"g{suffix}", 0
    for turn in range(150):
        content = bytearray(whole.getvalue())
        if turn % 5 == 0:
            content = bytearray(choose.randbytes(choose.randrange(2000)))
        elif turn % 5 == 1:
            content = content[: choose.randrange(len(content))]
        else:
            for _ in range(choose.choice((1, 3, 30))):
                content[choose.randrange(min(len(content), choose.choice((200, 10**6))))] = choose.randrange(
                    256
                )
        path.write_bytes(content)
        try:
            load_weights(model, path)
        except ValueError as error:
            refused += path.name in str(error)
    assert refused > 60
