"""Bytes of files that no honest program writes: code in pickles, bombs, headers that lie."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


def pickled_code(canary: Path, protocol: int = 2) -> bytes:
    return pickle.dumps({"0.weight": Code(canary)}, protocol)


def zeros_deflated(megabytes: int) -> bytes:
    """A raw deflate stream of so many megabytes of zeros, a thousandth as long, made at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * megabytes + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def zip_of(members: Mapping[str, tuple[bytes, int, int]]) -> bytes:
    """A zip archive of members given as (packed bytes, true size claimed, method); their CRC is 0."""
    body, directory = b"", b""
    for name, (packed, size, method) in members.items():
        sizes = struct.pack("<III", 0, len(packed), min(size, 2**32 - 1))
        head = struct.pack("<HHHHH", 20, 0, method, 0, 0) + sizes + struct.pack("<HH", len(name), 0)
        place = len(body)
        body += b"PK\x03\x04" + head + name.encode() + packed
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, place)
        directory += name.encode()
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def npy_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def safetensors(header: Mapping[str, Any] | bytes, data: bytes, *, length: int | None = None) -> bytes:
    """A .safetensors file with any header, honest or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data
