"""What nvcc makes of csrc/cuda: registers, shared memory, spills and the width of memory accesses.

Needs nvcc, no GPU. ``python -m benchmarks.kernels.cuda_machine_code`` prints the table.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import BENCHMARKS

SOURCES = BENCHMARKS.parent / "csrc" / "cuda"
ARCHITECTURES = ("80", "90", "100")
NAMES = {"f": "float32", "d": "float64", "BFloat16": "bfloat16", "Float16": "float16"}
WIDTHS = {"float32": 4, "float64": 2, "bfloat16": 8, "float16": 8}
# Of each operand that a lane reads at once: table.h, and two_pass.cu where both are summed.
VECTORS = {"difference_pass": 4, "both_pass": 2, "target_pass": 4, "apply_pass": 4}
# Copies of its sweep that a kernel's code holds: with and without |d|.
SWEEPS = {"difference_pass": 2, "both_pass": 1, "target_pass": 1, "apply_pass": 1}

_USED = re.compile(r"Used (\d+) registers")
_ACCESS = re.compile(r"\b(ld|st)(?:\.volatile)?\.global((?:\.[\w:]+)*?)(?:\.v(\d))?\.[busf](\d+)\s")


def find_nvcc() -> str | None:
    """The nvcc on PATH, or None."""
    return shutil.which("nvcc")


def _identify(mangled: str) -> tuple[str, str, int] | None:
    """Kernel, element type and table size from a mangled name."""
    found = re.search(
        r"\d(block_tier|cluster_tier|grid_tier|difference_pass|target_pass|both_pass|apply_pass|scale_slopes)"
        r"I(f|d|N?\w*?(BFloat16|Float16)E?)(?:Li(\d+))?E",
        mangled,
    )
    if found:
        return found[1], NAMES[found[3] or found[2]], int(found[4] or 0)
    plain = re.search(r"\d(merge_chunks|finish|clear_barriers)", mangled)
    return (plain[1], "", 0) if plain else None


def _resources(report: str) -> Iterable[tuple[str, str, dict[str, int]]]:
    """(mangled name, architecture, numbers) for each kernel in what ptxas -v says."""
    name = arch = None
    numbers: dict[str, int] = {}
    for line in report.splitlines():
        start = re.search(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'", line)
        if start:
            name, arch, numbers = start[1], start[2], {}
        spill = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if spill:  # also once for each function that the kernel calls
            numbers["stack"] = numbers.get("stack", 0) + int(spill[1])
            numbers["spills"] = numbers.get("spills", 0) + int(spill[2]) + int(spill[3])
        used = _USED.search(line)
        if used and name and arch:
            shared = re.search(r"(\d+) bytes smem", line)
            numbers |= {"registers": int(used[1]), "shared": int(shared[1]) if shared else 0}
            yield name, arch, numbers
            name = None


def _accesses(ptx: str) -> dict[str, dict[str, int]]:
    """Widest global load and store in bytes, and how many 16-byte ones, for each kernel in a PTX file."""
    found = {}
    for entry in re.finditer(r"\.entry\s+(\w+)\s*\(.*?\n\}", ptx, re.DOTALL):
        widths: dict[str, list[int]] = {"ld": [0], "st": [0]}
        for kind, _, count, bits in _ACCESS.findall(entry[0]):
            widths[kind].append(int(count or 1) * int(bits) // 8)
        found[entry[1]] = {
            "widest_load": max(widths["ld"]),
            "widest_store": max(widths["st"]),
            "vector_loads": widths["ld"].count(16),
            "vector_stores": widths["st"].count(16),
        }
    return found


def _compile(nvcc: str, source: Path, architectures: Iterable[str]) -> list[dict[str, Any]]:
    with TemporaryDirectory() as folder:
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        options = ["-O3", "-std=c++17", "-Xptxas=-v", "--keep", "--keep-dir", folder, *codes]
        done = subprocess.run(
            [nvcc, *options, "-c", str(source), "-o", str(Path(folder, "object.o"))],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{source.name}: {done.stderr.strip()}")
        accesses: dict[tuple[str, str], dict[str, int]] = {}
        for ptx in Path(folder).glob("*.ptx"):
            text = ptx.read_text()
            target = re.search(r"\.target sm_(\d+)", text)
            if target:
                accesses |= {(name, target[1]): row for name, row in _accesses(text).items()}
    rows = []
    for mangled, arch, numbers in _resources(done.stderr):
        known = _identify(mangled)
        if known is None:
            raise RuntimeError(f"{source.name}: no name for kernel {mangled}")
        kernel, element, table = known
        row = {"kernel": kernel, "element": element, "table": table, "arch": f"sm_{arch}"}
        row |= numbers | accesses[mangled, arch]
        sweeps = SWEEPS.get(kernel)
        row["loads_per_element"] = (
            row["vector_loads"] / sweeps / (VECTORS[kernel] * WIDTHS[element]) if sweeps else None
        )
        rows.append(row)
    return rows


def rows(architectures: Iterable[str] = ARCHITECTURES, nvcc: str | None = None) -> list[dict[str, Any]]:
    """One row for each kernel, element type, table size and architecture.

    Keys: kernel, element, table (rows of the pointer table), arch, registers, shared (static bytes), stack,
    spills (bytes), widest_load, widest_store (bytes of one global access), vector_loads, vector_stores
    (16-byte instructions), loads_per_element (load instructions for one element in a sweep; None where a
    kernel holds several kinds of sweep).
    """
    nvcc = nvcc or find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("nvcc: not found on PATH")
    chosen = tuple(architectures)
    sources = [s for s in sorted(SOURCES.glob("*.cu")) if "__global__" in s.read_text()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda source: _compile(nvcc, source, chosen), sources)
        return [row for part in parts for row in part]


def table(found: list[dict[str, Any]]) -> str:
    """Rows as Markdown; the two table sizes of one kernel share a line where they agree."""
    heads = ("kernel", "element", "arch", "registers", "shared", "spills")
    heads += ("widest load", "widest store", "loads/element")
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---" + "|---:" * 6 + "|"]
    for row in found:
        each = row["loads_per_element"]
        cells = [
            row["kernel"],
            row["element"] or "-",
            row["arch"],
            *(str(row[key]) for key in ("registers", "shared", "spills", "widest_load", "widest_store")),
            "-" if each is None else f"{each:g}",
        ]
        line = "| " + " | ".join(cells) + " |"
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows()))
