"""The Triton kernels without a GPU, in Triton's interpreter.

The interpreter is switched on for a whole process before triton is imported, so
tests/kernels/triton_family runs in processes of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the Triton kernels need triton")

FAMILY = Path(__file__).with_name("triton_family")


# The distances are the longest module of the family: `make test-all` runs the whole of it.
@pytest.mark.parametrize(
    ("module", "chosen"),
    [
        ("distances", "five_digits or multiples"),
        pytest.param("distances", "", marks=pytest.mark.long),
        ("operators", ""),
        ("scale", ""),
        ("tables", ""),
    ],
)
def test_under_the_interpreter(module, chosen):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    done = subprocess.run(
        [*command, str(FAMILY / f"test_triton_{module}.py"), "-k", chosen],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_tensors_on_the_cpu_need_the_interpreter():
    from sapag_fast.kernels import operators

    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this process interprets")
    with pytest.raises(ValueError, match=r"target\[0\]: Triton kernels need tensors on a GPU, found cpu"):
        operators.target_sums([torch.ones(3)], (0,), 1, False)
