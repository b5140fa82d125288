"""The sentence, from figures that the test makes up."""

from sapag_fast.profiler.bottleneck import bottleneck
from sapag_fast.profiler.result import Level, StageProfile
from sapag_fast.profiler.stages import FORWARD, OPTIMISER
from sapag_fast.profiler.work import Work


def level(recoveries, seconds, *, gap=0.0, roofline=0.2):
    long, short = 0.8 * seconds, 0.2 * seconds
    stages = (
        StageProfile(FORWARD, long * (1 - gap), long * gap, Work(1, 1), roofline * long, "compute"),
        StageProfile(OPTIMISER, short * (1 - gap), short * gap, Work(), 0.0, "memory"),
    )
    return Level(recoveries, "explicit", "", seconds, seconds, 0.0, 1, stages, (), 0, None, None, 300)


def test_more_recoveries_first():
    said = bottleneck([level(1, 1.0), level(8, 2.0)])
    assert said.startswith("Too few recoveries at once: R=8 makes 4 times")
    assert "R=1" in said


def test_the_host_where_gaps_are_long():
    said = bottleneck([level(1, 1.0, gap=0.5), level(8, 8.0, gap=0.5)])
    assert said.startswith("The host:")
    assert "50%" in said


def test_a_stage_near_its_ceiling():
    said = bottleneck([level(8, 1.0, roofline=0.9)])
    assert said.startswith("The machine's arithmetic")
    assert "the stage 'forward' takes 80% of a step, at 90%" in said


def test_a_stage_far_from_its_ceiling():
    said = bottleneck([level(8, 1.0)])
    assert said.startswith("The operators, not the machine: at R=8 the stage 'forward' takes 80%")


def test_the_best_number_of_recoveries_counts_not_the_largest():
    assert "at R=4 " in bottleneck([level(4, 1.0), level(8, 4.0)])


def test_nothing():
    assert bottleneck([]) == "Nothing was measured."
