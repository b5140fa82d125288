"""Gates on what the Triton kernels compile to: registers, spills, 16-byte accesses. Needs no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import ARCHITECTURES

pytest.importorskip("triton", reason="the Triton kernels need triton")

REGISTERS = 128


@pytest.fixture(scope="module", params=ARCHITECTURES)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def rows(arch):
    # In a process of its own: nothing is compiled where the interpreter was asked for.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.kernels.triton_machine_code",
            "--json",
            "--arch",
            arch,
            "float32",
            "bfloat16",
        ],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def walks(row):
    """Kernels that walk over gradients, rather than over sums."""
    return row["kernel"].split()[0] in ("fused", "chunk_sums", "apply", "scale")


def test_every_kernel_is_there(rows, arch):
    assert {row["arch"] for row in rows} == {f"sm_{arch}"}
    assert {row["kernel"].split()[0] for row in rows} == {
        "fused",
        "chunk_sums",
        "merge_sums",
        "finalise",
        "apply",
        "scale",
    }


def test_no_spills(rows):
    assert not [row for row in rows if row["spills"]]


def test_registers(rows):
    assert not [row for row in rows if row["registers"] > REGISTERS]


def test_loads_of_16_bytes(rows):
    assert not [row for row in rows if walks(row) and row["widest_load"] < 16]


def test_stores_of_16_bytes(rows):
    """V is the only thing that is stored by element."""
    writes = [row for row in rows if row["kernel"].split()[0] in ("fused", "apply", "scale")]
    assert not [row for row in writes if row["widest_store"] < 16]


def test_whole_tiles_load_each_input_once_and_without_a_mask(rows):
    """g' and g, the target alone, or V; where moments are asked for there is a load for the chunk's mean too,
    outside of the loop over its tiles."""
    for row in rows:
        if walks(row):
            # "target" reads one input: its tiles and the first of them for the mean.
            moments = "moments" in row["kernel"]
            inputs = 1 if row["kernel"].startswith("scale") else 3 if moments else 2
            assert row["loads_per_element"] == inputs, row


def test_whole_tiles_store_v_once_and_without_a_mask(rows):
    for row in rows:
        if row["kernel"].split()[0] in ("fused", "apply", "scale"):
            assert row["stores_per_element"] == 1, row
