"""What nvcc makes of the CUDA kernels, without a GPU: gates on registers, spills and widths of accesses."""

import pytest
from architectures import ARCHITECTURES

from benchmarks.kernels import cuda_machine_code as machine_code

pytestmark = pytest.mark.skipif(machine_code.find_nvcc() is None, reason="nvcc is not on PATH")

TIERS = {"block_tier", "cluster_tier", "grid_tier"}
PASSES = {"difference_pass", "both_pass", "target_pass", "apply_pass"}
SWEEPING = TIERS | PASSES | {"scale_slopes"}
ELEMENTS = {"float32", "float64", "bfloat16", "float16"}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def rows(arch):
    return machine_code.rows([arch])


def test_no_architecture_is_left_out():
    assert set(machine_code.ARCHITECTURES) == {"80", "90", "100"}


def test_every_kernel_is_there(rows, arch):
    found = {(row["kernel"], row["element"], row["arch"]) for row in rows if row["element"]}
    arches = {f"sm_{arch}"}
    assert found == {(k, e, a) for k in SWEEPING for e in ELEMENTS for a in arches}


def test_nothing_spills(rows):
    assert [row for row in rows if row["spills"]] == []


def test_registers_allow_three_ctas_of_256_threads(rows):
    assert [row for row in rows if row["registers"] > 80] == []


def test_aligned_loads_and_stores_are_16_bytes(rows):
    sweeping = [row for row in rows if row["element"]]
    assert {row["widest_load"] for row in sweeping} == {16}
    writing = [row for row in sweeping if row["kernel"] in TIERS | {"apply_pass", "scale_slopes"}]
    assert {row["widest_store"] for row in writing} == {16}


def test_each_operand_is_loaded_once_in_a_sweep(rows):
    for row in rows:
        if row["kernel"] in PASSES:
            operands = 1 if row["kernel"] == "target_pass" else 2
            width = machine_code.WIDTHS[row["element"]]
            assert row["loads_per_element"] == operands / width, row
