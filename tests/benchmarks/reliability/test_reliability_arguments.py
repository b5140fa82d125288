"""The suite's arguments: that it sees nonsense that is taken, and errors that name nothing."""

import pytest

from benchmarks.reliability.arguments import arguments
from benchmarks.reliability.arguments.functions import Function
from benchmarks.reliability.arguments.pools import Pool


def answer(call, monkeypatch, good=(), bad=()):
    own = Function(call, lambda folder: {}, {"steps": Pool(good, bad)})
    monkeypatch.setattr(arguments, "FUNCTIONS", {"own": own})
    monkeypatch.setattr(arguments, "COMMAND_SHARE", 0.0)
    return arguments.Arguments().check(0, 0).faults


def refuses(text, kind=ValueError):
    def call(steps):
        raise kind(text)

    return call


def test_calls_that_do_as_they_should(monkeypatch):
    assert answer(lambda steps: None, monkeypatch, good=[1]) == []
    assert answer(refuses("steps must be 1 or more, found 0"), monkeypatch, bad=[0]) == []
    assert answer(refuses("local steps must be"), monkeypatch, bad=[0]) == []


@pytest.mark.parametrize(
    ("call", "values", "fault"),
    [
        (lambda steps: None, {"bad": [0]}, "took steps"),
        (refuses("steps: no"), {"good": [1]}, "refused what has to work"),
        (refuses("must be 1 or more"), {"bad": [0]}, "names no argument"),
        (refuses("stepsize must be 1 or more"), {"bad": [0]}, "names no argument"),
        (refuses("steps", ZeroDivisionError), {"bad": [0]}, "ZeroDivisionError"),
        (refuses("steps", MemoryError), {"bad": [0]}, "MemoryError"),
    ],
)
def test_calls_that_do_not_are_noticed(call, values, fault, monkeypatch):
    (found,) = answer(call, monkeypatch, **values)
    assert fault in found


def test_a_command_that_takes_nonsense_is_noticed(monkeypatch):
    monkeypatch.setattr(arguments, "COMMAND_SHARE", 1.0)
    kernels = arguments.COMMANDS["kernels"]
    own = type(kernels)(kernels.words, kernels.base, {"--recoveries": Pool([], ["2"])})
    monkeypatch.setattr(arguments, "COMMANDS", {"kernels": own})
    (found,) = arguments.Arguments().check(0, 0).faults
    assert "took --recoveries" in found
