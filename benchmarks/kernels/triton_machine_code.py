"""What the Triton kernels compile to, without a GPU:
``python -m benchmarks.kernels.triton_machine_code [--json] [float32 bfloat16 ...]``.

Registers, shared memory, spills and the length of the code come from the ptxas and the nvdisasm that Triton
brings along; widths and numbers of accesses from the PTX. Of the ways that a tile can go (kernels/memory.py)
loads and stores an element count the unmasked one of 16 bytes alone, which takes all whole tiles.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sapag_fast.kernels import kinds
from sapag_fast.kernels.apply import apply
from sapag_fast.kernels.checks import DTYPES
from sapag_fast.kernels.evaluation import LAYER_BLOCK
from sapag_fast.kernels.finalise import finalise
from sapag_fast.kernels.fused import fused
from sapag_fast.kernels.launches import MERGE_LANES
from sapag_fast.kernels.operators import FACTOR_BLOCK
from sapag_fast.kernels.plans import Tile, limits_for
from sapag_fast.kernels.scale import scale
from sapag_fast.kernels.sums import chunk_sums, merge_sums

ARCHITECTURES = (80, 90, 100)
ALL_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
POINTERS = {
    "shares": "*fp64",
    "target_sums": "*fp64",
    "weights": "*fp64",
    "variance": "*fp64",
    "difference": "*fp64",
    "moments": "*fp64",
    "difference_sums": "*fp64",
    "coefficients": "*fp64",
    "value": "*fp32",
    "grad": "*fp32",
}
INTEGERS = (
    "items",
    "count",
    "group_count",
    "factors",
    "stride",
    "layers",
    "target_stride",
    "weights_stride",
    "variance_stride",
)
DOUBLES = ("bandwidth", "l1_weight")


@dataclass(frozen=True)
class Case:
    """One specialisation of a kernel: its constants, and the tile it works on (None: scalars alone)."""

    name: str
    kernel: triton.JITFunction
    constants: dict = field(default_factory=dict)
    warps: int = 4
    tile: Tile | None = None
    dtype: torch.dtype = torch.float32


def _tile_constants(dtype: torch.dtype, tile: Tile) -> dict:
    vec = limits_for(dtype.itemsize).vec
    return {"DTYPE": DTYPES[dtype], "ROWS": tile.rows, "LANES": tile.lanes, "VEC": vec}


def _number(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def cases(dtypes: Sequence[torch.dtype] = ALL_DTYPES) -> Iterator[Case]:
    """Every kernel in the forms that matter: the default distance, one with sign(d), one with plain sums."""
    options = {"WEIGHTS": True, "VARIANCE": False, "LAYER_BLOCK": LAYER_BLOCK}
    merge = {"LANES": MERGE_LANES}
    for dtype in dtypes:
        limits = limits_for(dtype.itemsize)
        short = str(dtype).removeprefix("torch.")
        number = {"NUMBER": _number(dtype)}
        chunk = {
            **_tile_constants(dtype, limits.chunk),
            "BYTES": dtype.itemsize,
        }
        rest = {"warps": limits.chunk.warps, "tile": limits.chunk, "dtype": dtype}
        for tile in limits.fused:
            for kind, label in ((kinds.SAPAG, "sapag"), (kinds.L2, "l2"), (kinds.TAG, "tag")):
                constants = {
                    **options,
                    **number,
                    "BYTES": dtype.itemsize,
                    **_tile_constants(dtype, tile),
                    "KIND": kind.value,
                    "EXTRA": kinds.needs_extra(kind.value),
                    "GRADIENT": True,
                }
                name = f"fused {label} {short} {tile.elements}"
                yield Case(name, fused, constants, tile.warps, tile, dtype)
        for label, difference, extra, moments in (
            ("difference", True, False, False),
            ("difference+extra", True, True, False),
            ("difference+moments", True, False, True),
            ("target", False, False, True),
        ):
            flags = {"DIFFERENCE": difference, "EXTRA": extra, "MOMENTS": moments}
            yield Case(f"chunk_sums {label} {short}", chunk_sums, {**chunk, **flags}, **rest)
        for label, sign in (("", False), (" sign", True)):
            yield Case(f"apply{label} {short}", apply, {**chunk, **number, "SIGN": sign}, **rest)
        yield Case(f"scale {short}", scale, {**chunk, **number, "FACTOR_BLOCK": FACTOR_BLOCK}, **rest)
    for label, flags in (
        ("difference", {"DIFFERENCE": True, "MOMENTS": False}),
        ("moments", {"DIFFERENCE": False, "MOMENTS": True}),
    ):
        yield Case(f"merge_sums {label}", merge_sums, {**merge, **flags}, MERGE_LANES // 32)
    for kind, label in ((kinds.SAPAG, "sapag"), (kinds.TAG, "tag")):
        constants = {**options, "KIND": kind.value, "CHUNKED": True, "GRADIENT": True, "VALUE": tl.float32}
        yield Case(f"finalise {label}", finalise, constants, LAYER_BLOCK // 32)


def compile_case(case: Case, architecture: int) -> dict:
    """One row: kernel, arch, registers, spills in bytes, instructions, shared memory in bytes, width in bytes
    of the widest load and store, and for an element how many inputs the unmasked 16-byte accesses load and
    how many results they store."""
    signature, constants = {}, {}
    for i, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name] = "constexpr"
            constants[(i,)] = case.constants[name]
        elif name in INTEGERS:
            signature[name] = "i32"
        else:
            signature[name] = "fp64" if name in DOUBLES else POINTERS.get(name, "*i64")
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": case.warps} if case.tile is None else case.tile.launch
    compiled = triton.compile(source, target=target, options=options)
    ptx = compiled.asm["ptx"]
    loads, stores = _accesses("ld", ptx), _accesses("st", ptx)
    row = {
        "kernel": case.name,
        "arch": f"sm_{architecture}",
        "threads": 32 * case.warps,
        **_assembled(ptx, architecture),
        "shared": compiled.metadata.shared,
        "widest_load": max((width for width, _ in loads), default=0),
        "widest_store": max((width for width, _ in stores), default=0),
        "loads_per_element": 0.0,
        "stores_per_element": 0.0,
    }
    if case.tile is not None:
        held = case.tile.elements + (case.tile.lanes if case.kernel is fused else 0)  # its short run
        in_16_bytes = 16 / case.dtype.itemsize * 32 * case.warps
        row["loads_per_element"] = loads.count((16, False)) * in_16_bytes / held
        row["stores_per_element"] = stores.count((16, False)) * in_16_bytes / held
    return row


def _accesses(instruction: str, ptx: str) -> list[tuple[int, bool]]:
    """Bytes a thread moves in each global load or store of the PTX, and whether a mask may forbid it."""
    pattern = rf"^\s*(@!?%p\d+ )?{instruction}\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\b"
    found = re.findall(pattern, ptx, re.MULTILINE)
    return [(int(vector or 1) * int(bits) // 8, bool(mask)) for mask, vector, bits in found]


def _assembled(ptx: str, architecture: int) -> dict:
    """Registers and spilled bytes, by ptxas, and the number of machine instructions."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    blackwell = folder / "ptxas-blackwell"
    ptxas = blackwell if architecture >= 100 and blackwell.exists() else folder / "ptxas"
    name = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.ptx"
        path.write_text(ptx)
        cubin = str(path.with_suffix(".cubin"))
        command = [str(ptxas), "-v", f"--gpu-name={name}", str(path), "-o", cubin]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        command = [str(folder / "nvdisasm"), "-c", cubin]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "spills": sum(map(int, spills)),
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", listing, re.MULTILINE)),
    }


def rows(
    architectures: Sequence[int] = ARCHITECTURES, dtypes: Sequence[torch.dtype] = ALL_DTYPES
) -> list[dict]:
    """All rows, see :func:`compile_case`. Raises RuntimeError in Triton's interpreter."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: nothing is compiled")
    return [compile_case(case, arch) for case in cases(dtypes) for arch in architectures]


def table(found: list[dict]) -> str:
    """The rows as a Markdown table."""
    heads = list(found[0])
    lines = [heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What Triton makes of the kernels.")
    parser.add_argument("dtypes", nargs="*", help="such as float32; all if none is named")
    parser.add_argument("--arch", type=int, action="append", help="such as 90; may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [getattr(torch, word) for word in options.dtypes]
    compiled = rows(options.arch or ARCHITECTURES, chosen or ALL_DTYPES)
    print(json.dumps(compiled) if options.json else table(compiled))
