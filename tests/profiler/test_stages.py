"""A step that is watched is the same step, and its stages come in their order."""

import gc
import weakref

import pytest
import torch
from attacks import MODES, prepared

from sapag_fast.matching.explicit.linear import LinearRule
from sapag_fast.profiler.layers import watching_layers
from sapag_fast.profiler.stages import (
    FIRST_BACKWARD,
    FORWARD,
    OPTIMISER,
    REST,
    SECOND_BACKWARD,
    SUMS,
    watched_step,
    watching,
)
from sapag_fast.profiler.timeline import HostClock, Pointer, Timeline

EVALUATION = [FORWARD, FIRST_BACKWARD, SUMS, SECOND_BACKWARD]


class Noted(Pointer):
    """Every change to something else."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def switch(self, to):
        if to != self.current:
            self.seen.append(to)
        super().switch(to)


def stepped(mode, steps, watch, **overrides):
    model, recoveries = MODES[mode]
    preparation = prepared(model(), **overrides)
    with preparation.conditions():
        run = preparation.run(recoveries)
        batch = run.batch
        assert batch.objective.matching.mode == mode, run.search.mode_reason
        for _ in range(steps):
            watch(batch)
    return batch


@pytest.mark.parametrize("mode", MODES)
def test_stages_come_in_their_order(mode):
    noted = Noted()

    def watch(batch):
        with watching(batch, noted):
            watched_step(batch, noted)

    stepped(mode, 1, watch)
    _, recoveries = MODES[mode]
    # One recovery after the other, with their loop between them.
    evaluations = ([*EVALUATION, REST] * recoveries)[:-1] if mode == "sequential" else EVALUATION
    assert noted.seen == [REST, *evaluations, REST, OPTIMISER, REST, None]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_watched_steps_have_the_same_bits(mode, optimizer):
    def watch(batch):
        timeline = Timeline(HostClock())
        with watching(batch, timeline):
            watched_step(batch, timeline)
        seconds = timeline.seconds()
        assert set(seconds) == {*EVALUATION, OPTIMISER, REST}
        assert min(seconds.values()) >= 0

    plain = stepped(mode, 5, lambda batch: batch.step(), optimizer=optimizer)
    watched = stepped(mode, 5, watch, optimizer=optimizer)
    assert torch.equal(plain.history[:, :5], watched.history[:, :5])
    for name, tensor in plain.state().items():
        assert torch.equal(tensor.nan_to_num(), watched.state()[name].nan_to_num()), name


def test_watched_layers_have_the_same_bits_and_tell_every_layer():
    seen = []

    def watch(batch):
        timeline = Timeline(HostClock())
        with watching_layers(batch.objective.matching, timeline):
            batch.step()
        timeline.switch(None)
        seen.append(timeline.seconds())

    plain = stepped("explicit", 3, lambda batch: batch.step())
    watched = stepped("explicit", 3, watch)
    assert torch.equal(plain.variables, watched.variables)
    assert set(seen[-1]) == {(layer, part) for layer in ("0", "3") for part in ("forward", "sums")}


def test_watched_layers_keep_no_tensors(monkeypatch):
    kept = []
    call = LinearRule.call

    def noted(*given, **wants):
        made = call(*given, **wants)
        kept.append(weakref.ref(made))
        return made

    def watch(batch):
        with watching_layers(batch.objective.matching, Pointer()):
            batch.step()

    monkeypatch.setattr(LinearRule, "call", noted)
    gc.disable()
    try:
        stepped("explicit", 1, watch)
        assert kept
        assert all(reference() is None for reference in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_behind(mode):
    def names(batch):
        matching = batch.objective.matching
        inner = matching.victims[0] if mode == "sequential" else matching
        owners = [matching, inner, inner.problem, inner.distance, batch.optimizer, batch]
        if mode == "explicit":
            owners += [matching.network]
            owners += [layer.module for layer in matching.network.covered]
            owners += [layer.rule for layer in matching.network.covered]
        return [dict(vars(owner)) for owner in owners]

    def watch(batch):
        batch.step()
        before = names(batch)
        timeline = Timeline(HostClock())
        with watching(batch, timeline):
            pass
        if mode == "explicit":
            with watching_layers(batch.objective.matching, timeline):
                pass
        for one, other in zip(before, names(batch), strict=True):
            assert one.keys() == other.keys()
            assert all(one[name] is other[name] for name in one if callable(one[name]))
        nobody_watches(batch)

    stepped(mode, 1, watch)


def nobody_watches(batch):
    matching = batch.objective.matching
    assert matching.stages is None
    assert batch.stages is None
    assert all(victim.stages is None for victim in getattr(matching, "victims", ()))
    assert getattr(matching, "watch", None) is None


@pytest.mark.parametrize("mode", MODES)
def test_an_error_inside_puts_everything_back(mode):
    def watch(batch):
        matching = batch.objective.matching
        timeline = Timeline(HostClock())
        with pytest.raises(RuntimeError, match="stop"), watching(batch, timeline):
            raise RuntimeError("stop")
        if mode == "explicit":
            with pytest.raises(RuntimeError, match="stop"), watching_layers(matching, timeline):
                raise RuntimeError("stop")
        nobody_watches(batch)

    stepped(mode, 1, watch)


def test_watchers_may_be_nested():
    def watch(batch):
        outer, inner = Noted(), Noted()
        with watching(batch, outer):
            with watching(batch, inner):
                watched_step(batch, inner)
            assert outer.seen == []
            watched_step(batch, outer)
        assert outer.seen == inner.seen == [REST, *EVALUATION, REST, OPTIMISER, REST, None]

    stepped("explicit", 1, watch)
