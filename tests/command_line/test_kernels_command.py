"""``sapag-fast kernels``: what there is, and the CUDA planner's dry run."""

import pytest
from command_calls import run

from sapag_fast.distances import operators as ops


def test_backends_of_this_machine():
    found = run("kernels")
    assert found.exit_code == 0
    assert ops.cpu_capability() in found.stdout
    assert ("built in" in found.stdout) == ops.has_cuda_kernels()


def test_plan_of_a_small_network():
    found = run("kernels", "--plan", "12x1x5x5,12,10x588,10", "--recoveries", 64, "--arch", 80)
    assert found.exit_code == 0
    assert found.stdout.startswith("64 recoveries of 2 layers")
    assert "block tier" in found.stdout
    assert "cluster tier" not in found.stdout  # an A100 has none


def test_a_large_layer_takes_a_cluster_where_there_are_clusters():
    assert "cluster tier" in run("kernels", "--plan", "256x512", "--arch", 90).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plan", "12x1,nonsense"), "'nonsense' is not a shape"),
        (("--plan", "12", "--arch", 75), "arch must be one of 80, 90, 100, found 75"),
        (("--plan", "12", "--dtype", "int8"), "dtype must be one of float32"),
    ],
)
def test_errors(arguments, message):
    found = run("kernels", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
