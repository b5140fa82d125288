"""NumPy archives are read as other files of tensors, and what is no tensor in one is refused."""

import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from sapag_fast.files.gradient_file import read_gradient
from sapag_fast.files.tensors import load_weights, read_tensors


def _net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[0].bias.requires_grad_(False)
    return net


NET = _net()
GRADIENT = {n: torch.randn(p.shape) for n, p in NET.named_parameters() if p.requires_grad}


def _whole():
    """An entry for each of the state's."""
    state = NET.state_dict()
    return [GRADIENT.get(name, torch.zeros_like(state[name])).numpy() for name in state]


def test_arrays_of_every_kind(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "c": np.arange(3, dtype=">f8"),
        "d": np.float16(2.5),
        "e": np.array([True, False]),
        "f": np.zeros((0, 4), np.float32),
        "g": np.arange(100_000, dtype=np.int64),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found, entries = read_tensors(tmp_path / "a.npz")
    assert entries == {}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].numpy().dtype == np.asarray(array).dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.savez(path, *_whole()),
        lambda path: np.savez(path, **dict(zip(NET.state_dict(), _whole(), strict=True))),
        lambda path: np.savez(path, **{f"module.{n}": g.numpy() for n, g in GRADIENT.items()}),
        lambda path: np.savez(path, *[g.numpy() for g in GRADIENT.values()]),
    ],
)
def test_gradients(tmp_path, write):
    write(tmp_path / "g.npz")
    found, _ = read_gradient(NET, tmp_path / "g.npz")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, GRADIENT.values(), strict=True))


def test_weights_in_the_order_of_the_state(tmp_path):
    net = _net()
    other = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    np.savez(tmp_path / "w.npz", *[tensor.numpy() for tensor in other.values()])
    assert load_weights(net, tmp_path / "w.npz") == []
    assert all(torch.equal(tensor, other[name]) for name, tensor in net.state_dict().items())
    torch.save(
        {f"_orig_mod.{name}": tensor for name, tensor in _net().state_dict().items()}, tmp_path / "w.pt"
    )
    load_weights(net, tmp_path / "w.pt")
    assert all(torch.equal(tensor, _net().state_dict()[name]) for name, tensor in net.state_dict().items())


def test_weights_without_buffers(tmp_path):
    parameters = {name: parameter.detach().numpy() for name, parameter in NET.named_parameters()}
    np.savez(tmp_path / "w.npz", **parameters)
    with pytest.raises(ValueError, match=r"no weight for 1\.running_mean"):
        load_weights(_net(), tmp_path / "w.npz")
    kept = load_weights(_net(), tmp_path / "w.npz", whole=False)
    assert kept == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    np.savez(tmp_path / "w.npz", **{n: p for n, p in parameters.items() if n != "2.bias"})
    with pytest.raises(ValueError, match=r"no weight for 2\.bias"):
        load_weights(_net(), tmp_path / "w.npz", whole=False)


def _with_header(
    path, name="a.npy", header="{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", data=b""
):
    with zipfile.ZipFile(path, "w") as archive:
        text = header.encode().ljust(117) + b"\n"
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 20))


def _cut(path):
    np.savez(path, np.ones(100))
    path.write_bytes(path.read_bytes()[:-50])


def _twice(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
        archive.filelist *= 2


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1048576)}"
CALL = "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': ()}"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: np.savez(path, np.array([{}], dtype=object)), "Python objects are not read"),
        (lambda path: np.savez(path, np.array("word")), "of <U4"),
        (lambda path: np.savez(path, np.zeros(2, "c8")), "of complex64"),
        (lambda path: np.savez_compressed(path, np.zeros(9)), "compressed arrays; .*numpy.savez"),
        (_bomb, "compressed arrays"),
        (_cut, "damaged"),
        (_twice, "arrays of the same name"),
        (lambda path: _with_header(path, header=HUGE), "of 0 bytes that should have"),
        (lambda path: _with_header(path, data=b"1234"), "of 4 bytes that should have 8"),
        (lambda path: _with_header(path, header=CALL), "damaged"),
        (lambda path: _with_header(path, name="a.txt"), "'a.txt', which is no array"),
        (lambda path: path.write_bytes(b"PK"), "damaged"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_what_is_not_read(tmp_path, write, words):
    write(tmp_path / "g.npz")
    with pytest.raises(ValueError, match=f"gradient file .*g.npz.*{words}"):
        read_gradient(NET, tmp_path / "g.npz")


def test_weights_are_no_gradient(tmp_path):
    near = [tensor.numpy() for tensor in NET.state_dict().values()]
    np.savez(
        tmp_path / "g.npz", *[array + array.dtype.type(0.01) * (array.dtype.kind == "f") for array in near]
    )
    with pytest.raises(ValueError, match=r"close to the model's weights.*--before and --after"):
        read_gradient(NET, tmp_path / "g.npz")
