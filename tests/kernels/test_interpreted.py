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


# Distances and tables are the longest modules of the family: `make test-all` runs the whole of them.
@pytest.mark.parametrize(
    ("module", "chosen", "tables"),
    [
        ("distances", "five_digits or multiples", 0),
        pytest.param("distances", "", 0, marks=pytest.mark.long),
        ("operators", "", 0),
        ("scale", "", 0),
        ("tables", "", 200),
        pytest.param("tables", "", 2100, marks=pytest.mark.long),
    ],
)
def test_under_the_interpreter(module, chosen, tables):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    done = subprocess.run(
        [*command, str(FAMILY / f"test_triton_{module}.py"), "-k", chosen],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TABLES": str(tables)},
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
