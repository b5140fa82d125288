"""Gradient and weight files, folders of them, checkpoints."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reliability.files.damage import odd_name
from benchmarks.reliability.files.forged import pickled_code, safetensors, zeros_deflated, zip_of
from benchmarks.reliability.files.sample import Sample
from sapag_fast.files.gradient_file import GradientMetadata, read_gradient, write_gradient, write_stacked
from sapag_fast.files.tensors import load_weights, read_tensors, write_tensors
from sapag_fast.files.victims import list_victims
from sapag_fast.search.checkpoint import Checkpoint

SHAPE = (1, 2, 2)
METADATA = GradientMetadata(input_shape=SHAPE, batch_size=1, labels=(1,))


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))


def numbers(rng: np.random.Generator) -> dict[str, Tensor]:
    """A tensor for each of the network's parameters."""
    return {
        name: torch.from_numpy(rng.standard_normal(tuple(p.shape), dtype=np.float32))
        for name, p in network().named_parameters()
    }


def write_any(
    rng: np.random.Generator, folder: Path, tensors: dict[str, Tensor], *, captured: bool = True
) -> Path:
    """The tensors in one of the formats that are read; ``captured``: with the words of a gradient."""
    suffix = str(rng.choice([".safetensors", ".pt", ".pth", ".bin"]))
    path = folder / odd_name(rng, suffix)
    if suffix == ".safetensors":
        write_tensors(path, tensors, METADATA.entries() if captured else None)
    else:
        legacy = bool(rng.random() < 0.4)
        torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    return path


def gradient(rng: np.random.Generator, folder: Path) -> Sample:
    tensors, model = numbers(rng), network()
    special = rng.random() < 0.3
    path = forged_gradient(rng, folder, tensors) if special else write_any(rng, folder, tensors)

    def right(value: Any) -> str | None:
        same = all(torch.equal(a, b) for a, b in zip(value[0], tensors.values(), strict=True))
        return None if same else "other numbers than were written"

    return Sample(
        path, lambda: read_gradient(model, path), (lambda value: None) if special else right, _sane_gradient,
        special, f"{path.suffix}, {'forged' if special else 'honest'}",
    )  # fmt: skip


def _sane_gradient(value: Any) -> str | None:
    for tensor, parameter in zip(value[0], network().parameters(), strict=True):
        if tensor is None:
            continue
        if tensor.shape != parameter.shape or not tensor.is_floating_point():
            return f"a gradient of {tensor.dtype} {tuple(tensor.shape)}"
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not torch.isfinite(tensor).all():
            return "a gradient that is not dense, not on the CPU or not finite"
    return None


def weights(rng: np.random.Generator, folder: Path) -> Sample:
    tensors, model = numbers(rng), network()
    special = rng.random() < 0.3
    path = (
        forged_gradient(rng, folder, tensors) if special else write_any(rng, folder, tensors, captured=False)
    )

    def read() -> nn.Module:
        load_weights(model, path)
        return model

    def right(value: nn.Module) -> str | None:
        same = all(torch.equal(value.state_dict()[name], tensor) for name, tensor in tensors.items())
        return None if special or same else "other numbers than were written"

    return Sample(path, read, right, refusable=special, words=path.suffix)


def checkpoint(rng: np.random.Generator, folder: Path) -> Sample:
    tensors = numbers(rng)
    kept = Checkpoint(folder / "state.safetensors", "run")
    kept.write(tensors)
    path = kept.path.rename(folder / odd_name(rng, ".safetensors"))

    def right(value: Any) -> str | None:
        same = value is not None and all(torch.equal(value[name], t) for name, t in tensors.items())
        return None if same else "another state than was written"

    return Sample(path, lambda: Checkpoint(path, "run").read(), right)


def victims(rng: np.random.Generator, folder: Path) -> Sample:
    """A folder of four, of which one is damaged, or one file of three."""
    model = network()
    lists = [numbers(rng) for _ in range(4)]
    if rng.random() < 0.4:
        path = folder / odd_name(rng, ".safetensors")
        write_stacked(path, ["a", "b", "c"], lists[:3], GradientMetadata(SHAPE, 1), [[0], [1], [1]])
        return Sample(path, lambda: _listed(path, model), lambda found: _right_victims(found, lists[:3]))
    for position in range(3):
        write_gradient(folder / f"good{position}.safetensors", lists[position], METADATA)
    special = rng.random() < 0.3
    path = forged_gradient(rng, folder, lists[3]) if special else write_any(rng, folder, lists[3])

    def sane(found: Any) -> str | None:
        good = [item for item in found if item[0].startswith("good")]
        return _right_victims(good, lists[:3])

    shape = SHAPE if path.suffix != ".safetensors" or rng.random() < 0.5 else None
    read = lambda: _listed(folder, model, shape)  # noqa: E731
    return Sample(path, read, lambda found: None, sane, words="a folder")


def _listed(path: Path, model: nn.Module, shape: tuple[int, ...] | None = None) -> list[tuple[str, Any]]:
    """Names, and gradients or the reason why there is none."""
    found = []
    for victim in list_victims(path, model, shape, None):
        try:
            if victim.fault is not None:
                raise ValueError(victim.fault)
            found.append((victim.name, victim.gradient(model)))
        except ValueError as error:
            found.append((victim.name, str(error)))
    return found


def _right_victims(found: Any, lists: list[dict[str, Tensor]]) -> str | None:
    if len(found) != len(lists):
        return f"{len(found)} victims, expected {len(lists)}"
    for (name, got), exact in zip(found, lists, strict=True):
        if isinstance(got, str):
            return f"{name}: {got}"
        if not all(torch.equal(a, b) for a, b in zip(got, exact.values(), strict=True)):
            return f"{name}: other numbers than were written"
    return None


ENTRIES = {
    "batch_size": ("20000000", "0", "-1", "9" * 5000, "٣", "1e3", "NaN", ""),
    "input_shape": ("1x40000x40000", "0x2x2", "x", "9" * 40, "1x" * 500 + "1", "1x2x2x", "４x4"),
    "labels": ("9" * 30, "-1", "1,2,3", ",", "9" * 5000, "٣", "[1]", "0" * 100),
    "withheld": ("[" * 100_000, "{}", "[1]", '["nothing"]', '["0.weight"]', "null"),
    "victims": ("[" * 100_000, "[]", '["a", "a"]', '["a", 3]', '{"a": 1}', '["../../x"]', "null"),
    "weights_sha256": ("\x00", "x" * 100_000),
    "defences": ("[" * 100_000, "3"),
}
"""Metadata that lies, by entry."""


def forged_gradient(rng: np.random.Generator, folder: Path, tensors: dict[str, Tensor]) -> Path:
    if rng.random() < 0.5:
        path = folder / odd_name(rng, ".safetensors")
        path.write_bytes(_forged_safetensors(rng, tensors))
    else:
        path = folder / odd_name(rng, ".pt")
        path.write_bytes(_forged_pickle(rng, folder, tensors))
    return path


def _forged_safetensors(rng: np.random.Generator, tensors: dict[str, Tensor]) -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": [*tensor.shape],
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    entries = METADATA.entries()
    for name, lies in ENTRIES.items():
        if rng.random() < 0.3:
            entries[name] = str(rng.choice(lies))
    header["__metadata__"] = entries
    match int(rng.integers(0, 8)):
        case 0:
            return safetensors(header, data, length=int(rng.choice([2**62, 2**40, 0, 1])))
        case 1:
            return safetensors(b"[" * 100_000, data)
        case 2:
            header["1.weight"]["shape"] = [int(rng.choice([2**40, 0, 12])), int(rng.choice([2**40, 1, -1]))]
        case 3:
            header["1.weight"]["data_offsets"] = [0, int(rng.choice([2**40, 0, 8, 1000]))]
        case 4:
            header["1.weight"]["dtype"] = str(rng.choice(["F64", "I32", "BOOL", "F8_E4M3", "X", "BF16"]))
        case 5:
            header[str(rng.choice(["", "\n", "../../x", "1.weight.more"]))] = header.pop("1.weight")
    return safetensors(header, data)


def _forged_pickle(rng: np.random.Generator, folder: Path, tensors: dict[str, Tensor]) -> bytes:
    canary = folder / "canary"
    match int(rng.integers(0, 6)):
        case 0:
            return pickled_code(canary, int(rng.choice([0, 2, 4])))
        case 1:
            return _packed(pickled_code(canary))
        case 2:
            huge = zeros_deflated(2048)
            return zip_of({"archive/data.pkl": (huge, 2**31, 8), "archive/version": (b"3\n", 2, 0)})
        case 3:
            return b"\x80\x02" + b"](" * int(rng.choice([10, 100_000])) + b"."
    content = _odd_content(rng, tensors)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, _use_new_zipfile_serialization=bool(rng.random() < 0.6))
    return buffer.getvalue()


def _packed(pickled: bytes) -> bytes:
    return zip_of({f"archive/{n}": (c, len(c), 0) for n, c in (("data.pkl", pickled), ("version", b"3\n"))})


def _odd_content(rng: np.random.Generator, tensors: dict[str, Tensor]) -> Any:
    """What torch saves and no gradient is."""
    first = tensors["1.weight"]
    odd: list[Callable[[], Any]] = [
        lambda: tensors | {"1.weight": first.to_sparse()},
        lambda: tensors | {"1.weight": first.to("meta")},
        lambda: tensors | {"1.weight": torch.nested.nested_tensor([first[0], first[1][:2]])},
        lambda: tensors | {"1.weight": first.to_sparse_csr()},
        lambda: tensors | {"1.weight": torch.quantize_per_tensor(first, 0.1, 0, torch.qint8)},
        lambda: tensors | {"1.weight": first.to(torch.complex64)},
        lambda: tensors | {"1.weight": first.to(torch.float8_e4m3fn)},
        lambda: tensors | {"1.weight": torch.zeros(1).expand(10**9, 10**6)},
        lambda: tensors | {"1.weight": torch.zeros(1).expand(first.shape)},
        lambda: tensors | {"1.weight": torch.full_like(first, torch.inf)},
        lambda: tensors | {"1.weight": nn.Parameter(first)},
        lambda: tensors | {"1.weight": torch.randint(9, first.shape)},
        lambda: dict(enumerate(tensors.values())),
        lambda: [tensors],
        lambda: list(tensors.values())[::-1],
        lambda: None,
        lambda: "words",
        lambda: first,
        lambda: _nested(int(rng.choice([50, 400]))),
    ]
    return odd[int(rng.integers(len(odd)))]()


def _nested(depth: int) -> list[Any]:
    content: list[Any] = []
    for _ in range(depth):
        content = [content]
    return content


def tensors_of(rng: np.random.Generator, folder: Path) -> Sample:
    """A file of tensors with a JSON list in its words, read by itself."""
    tensors = numbers(rng)
    path = folder / odd_name(rng, ".safetensors")
    write_tensors(path, tensors, {"list": json.dumps(["a"])})
    return Sample(path, lambda: read_tensors(path), lambda value: None if value[1] else "its words are gone")
