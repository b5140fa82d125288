"""The host emulation of CUDA: right kernels give right sums under every schedule, and faults are reported."""

from pathlib import Path

import pytest
from emulation.toolchain import EMULATION, Outcome, Toolchain, execute, missing

EXIT_CODE = 86
TSAN_EXIT_CODE = 66
SHORT = [("plain", 100), ("address", 15), ("thread", 4)]
LONG = [
    pytest.param(*run, marks=pytest.mark.long) for run in (("plain", 400), ("address", 60), ("thread", 12))
]


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    return Toolchain(tmp_path_factory.mktemp("emulation"))


def program(toolchain: Toolchain, name: str, mode: str) -> Path:
    reason = missing(mode)
    if reason:
        pytest.skip(reason)
    return toolchain.program(name, [EMULATION / f"selftest_{name}.cpp"], mode)


def sums(toolchain: Toolchain, mode: str, case: str, seeds: int) -> Outcome:
    return execute(program(toolchain, "sums", mode), case, 0, seeds)


def faults(toolchain: Toolchain, mode: str, case: str) -> Outcome:
    return execute(program(toolchain, "faults", mode), case)


@pytest.mark.parametrize("case", ["block", "cluster", "grid", "last"])
@pytest.mark.parametrize(("mode", "seeds"), [*SHORT, *LONG])
def test_sums_are_right_under_all_schedules(toolchain, mode, seeds, case):
    outcome = sums(toolchain, mode, case, seeds)
    assert (outcome.code, outcome.output) == (0, "ok\n")


@pytest.mark.parametrize("case", ["no_block_barrier", "no_grid_barrier"])
def test_a_missing_barrier_shows_in_results(toolchain, case):
    outcome = sums(toolchain, "plain", case, 40)
    assert outcome.code == 1
    assert "instead of" in outcome.output


@pytest.mark.parametrize(
    ("case", "report"),
    [
        ("no_cluster_barrier", "before any cluster_sync"),
        ("no_last_barrier", "which has ended"),
    ],
)
def test_a_missing_cluster_barrier_is_reported(toolchain, case, report):
    outcome = sums(toolchain, "plain", case, 40)
    assert outcome.code == EXIT_CODE
    assert report in outcome.output


@pytest.mark.parametrize(
    "case", ["no_block_barrier", "no_grid_barrier", "no_ticket_fence", "no_atomic_ticket"]
)
def test_what_is_not_ordered_is_a_race(toolchain, case):
    outcome = sums(toolchain, "thread", case, 12)
    assert outcome.code == TSAN_EXIT_CODE
    assert "ThreadSanitizer: data race" in outcome.output
    assert "selftest_sums.cpp" in outcome.output


@pytest.mark.parametrize(
    ("case", "reports"),
    [
        ("deadlock_spin", ["deadlock", "CTA 0 threads 0-39: cluster_sync", "CTA 1 threads 0-39: spin_pause"]),
        ("deadlock_mixed", ["deadlock", "threads 0-31: __syncthreads", "threads 32-39: cluster_sync"]),
        ("divergence_sites", ["divergence", "thread 9 is at __syncthreads selftest_faults.cpp:"]),
        ("divergence_ended", ["divergence", "ended without reaching __syncthreads selftest_faults.cpp:"]),
        ("shuffle_not_in_mask", ["is not in its own mask 0xffffffdf"]),
        ("shuffle_missing_lane", ["names lane 8 in its mask 0xffffffff, which does not exist"]),
        ("shuffle_other_mask", ["mask 0xffffffff", "mask 0x0000000f"]),
        ("shuffle_outside_mask", ["reads lane 8, which is not in the mask 0x000000ff"]),
        ("shuffle_other_kind", ["others wait for it at __shfl_xor_sync"]),
        ("shuffle_ended_lane", ["thread 5"]),
        ("early_map", ["cluster_map", "before any cluster_sync"]),
        ("late_map", ["cluster_map", "which has ended"]),
        ("no_shared_memory", ["shared memory", "more than the device has"]),
        ("misaligned_load", ["misaligned", "16 bytes"]),
    ],
)
def test_faults_are_reported(toolchain, case, reports):
    outcome = faults(toolchain, "plain", case)
    assert outcome.code == EXIT_CODE
    assert all(report in outcome.output for report in reports)


def test_memory_never_written_shows_as_nan(toolchain):
    assert "nan" in faults(toolchain, "plain", "stale_shared").output
    assert "nan" not in faults(toolchain, "plain", "none").output


@pytest.mark.parametrize("case", ["overrun", "overrun_dynamic"])
def test_overruns_are_the_address_sanitizers(toolchain, case):
    assert faults(toolchain, "address", "none").code == 0
    outcome = faults(toolchain, "address", case)
    assert outcome.code != 0
    assert "heap-buffer-overflow" in outcome.output


def test_conversions_of_16_bit_floats(toolchain):
    outcome = faults(toolchain, "plain", "halves")
    assert (outcome.code, outcome.output) == (0, "ok\n")


def test_a_thread_meets_the_others_in_less_than_a_microsecond(toolchain):
    outcome = faults(toolchain, "plain", "switches")
    word, nanoseconds = outcome.output.split()
    assert word == "ok"
    assert float(nanoseconds) < 1000
