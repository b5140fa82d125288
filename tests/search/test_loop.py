"""The batch stays full, ends what is done, survives a lack of memory, and goes on from its checkpoint."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from bowls import SIZE, Bowls, drawn_starts, search_bowls

from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.recipe import RECIPES
from sapag_fast.search.tasks import Queue

STEPS, CHECK = 45, 10
RECIPE = dataclasses.replace(
    RECIPES["smooth"], patience=0, box=0.0, tv=0.0, lr=0.3, history=5, line_search=None, scale=1.0
)


def _attack(matching, victims, restarts, *, recipe=RECIPE, starts=None, **options):
    tasks = victims * restarts
    return search_bowls(
        matching,
        drawn_starts(tasks) if starts is None else starts,
        recipe=recipe,
        steps=STEPS,
        restarts=restarts,
        labels=torch.arange(tasks)[:, None] // restarts,
        bounds=(0.0, 1.0),
        check_every=CHECK,
        **options,
    )


def each(take):
    """Take every victim that has ended at once."""

    def taken(ended):
        for victim in ended.victims:
            take(victim, ended.result(victim))
            ended.take(victim)

    return taken


def _equal(a, b):
    for name in ("inputs", "labels", "distance", "objective", "evaluations", "finite"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.history.nan_to_num(-1), b.history.nan_to_num(-1))
    assert a.ended == b.ended


@pytest.mark.parametrize("line_search", [None, "armijo"])
def test_scale_makes_up_for_a_distance_that_is_small_all_over(line_search):
    recipe = dataclasses.replace(RECIPE, line_search=line_search)
    height = 2.0**-40  # a power of two leaves the bits alone

    def low(scale):
        scaled = dataclasses.replace(recipe, shown_scale=scale)
        return _attack(Bowls(2, height=height), 2, 2, recipe=scaled)

    high, raised = _attack(Bowls(2), 2, 2, recipe=recipe), low(1 / height)
    assert torch.equal(raised.inputs, high.inputs)
    assert torch.equal(raised.distance, height * high.distance)
    assert (low(1.0).distance > 1e3 * raised.distance).all()  # L-BFGS dropped its pairs
    for scale in (0.0, -1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            dataclasses.replace(recipe, shown_scale=scale)


def test_first_restarts_begin_first():
    queue = Queue(3, 2)
    assert queue.take(2) == [0, 2]
    assert queue.take(3) == [1, 3, 4]
    queue.give_back([1, 4])
    assert queue.take(1) == [4]
    assert queue.drop({2}) == [5]
    assert queue.take(9) == [1]


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_how_many_run_at_once_changes_no_result(rows, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    together = _attack(Bowls(3), 3, 4, recipe=recipe)
    found = _attack(Bowls(3), 3, 4, recipe=recipe, rows=rows)
    assert found.rows == min(rows, 12)
    torch.testing.assert_close(found.inputs, together.inputs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.history, together.history, rtol=1e-6, atol=1e-14, equal_nan=True)
    assert found.evaluations.tolist() == [STEPS] * 12
    assert all(found.ended)


def test_the_batch_stays_full_and_then_shrinks():
    matching = Bowls(3)
    _attack(matching, 3, 3, rows=4)
    sizes = [len(victims) for victims in matching.seen]
    assert sizes == [4] * (2 * STEPS) + [1] * STEPS
    assert matching.seen[0] == [0, 0, 1, 2]


def test_frozen_rows_make_room():
    g = torch.Generator().manual_seed(1)
    starts = 0.5 * torch.rand(6, 1, 1, SIZE, SIZE, generator=g, dtype=torch.float64)
    starts[1] = 5.0
    matching = Bowls(6, bad_above=4.0)
    found = _attack(matching, 6, 1, starts=starts, rows=2)
    assert found.finite.tolist() == [True, False, True, True, True, True]
    assert found.distance.isfinite().tolist() == found.finite.tolist()
    assert found.evaluations.tolist() == [STEPS, 1, STEPS, STEPS, STEPS, STEPS]
    assert matching.seen[CHECK] == [0, 2]
    assert torch.equal(found.inputs[1], starts[1])


def test_a_line_search_goes_back_from_trials_that_are_not_finite():
    far = torch.full((2, 1, 1, SIZE, SIZE), 3.9, dtype=torch.float64)
    far[1] = 5.0
    plain, searched = (
        _attack(
            Bowls(2, bad_above=4.0),
            2,
            1,
            starts=far,
            recipe=dataclasses.replace(RECIPE, lr=8.0, line_search=line_search),
        )
        for line_search in (None, "armijo")
    )
    assert plain.finite.tolist() == [False, False] or plain.distance[0] > 1.0
    assert searched.finite.tolist() == [True, False]
    assert searched.evaluations.tolist() == [STEPS, 1]
    assert searched.distance[0] < 1e-3


def test_a_solved_victim_takes_no_further_restart():
    recipe = dataclasses.replace(RECIPE, stop_distance=1e-2)
    matching = Bowls(3)
    ended = []
    found = _attack(
        matching,
        3,
        4,
        recipe=recipe,
        rows=3,
        on_victims=each(lambda v, r: ended.append((v, r.distance.min().item()))),
    )
    best = found.distance.view(3, 4)
    assert (best[:, 0] <= 1e-2).all()
    assert best[:, 1:].isinf().all()
    assert (found.evaluations.view(3, 4)[:, 1:] == 0).all()
    assert (found.evaluations.view(3, 4)[:, 0] < STEPS).all()
    assert sorted(v for v, _ in ended) == [0, 1, 2]
    assert all(distance <= 1e-2 for _, distance in ended)
    assert all(found.ended)


def test_victims_are_handed_out_as_they_end():
    handed = {}
    progress = []
    found = _attack(
        Bowls(4),
        4,
        2,
        rows=3,
        on_victims=each(handed.__setitem__),
        progress=lambda *seen: progress.append(seen),
    )
    assert sorted(handed) == [0, 1, 2, 3]
    for victim, result in handed.items():
        assert torch.equal(result.inputs, found.inputs[2 * victim : 2 * victim + 2])
        assert all(result.ended)
    done = [evaluations for evaluations, _ in progress]
    assert done == sorted(done)
    assert done[-1] == STEPS
    assert torch.equal(progress[-1][1], found.distance)


def test_victims_that_are_not_taken_come_again():
    seen = []

    def take(ended):
        seen.append((list(ended.victims), ended.last))
        for victim in ended.victims if ended.last else ended.victims[:1]:
            ended.take(victim)

    _attack(Bowls(4), 4, 2, rows=3, on_victims=take)
    assert [last for _, last in seen].count(True) == 1
    assert seen[-1][1]
    first = [victims[0] for victims, _ in seen[:-1]]
    assert sorted(first + seen[-1][0]) == [0, 1, 2, 3]
    assert any(set(before[0][1:]) & set(after[0]) for before, after in pairwise(seen))


def test_memory_that_runs_out_halves_the_batch():
    matching = Bowls(3, most_rows=3)
    found = _attack(matching, 3, 4)
    assert found.rows == 3
    assert max(map(len, matching.seen)) == 3
    torch.testing.assert_close(found.inputs, _attack(Bowls(3), 3, 4).inputs, rtol=1e-9, atol=1e-12)


def test_memory_for_not_even_one_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        _attack(Bowls(2, most_rows=0), 2, 1)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("rows", "checks"), [(3, 1), (3, 7), (3, 13), (12, 1), (12, 3)])
@pytest.mark.parametrize("optimizer", ["lbfgs", "signed-adam"])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, rows, optimizer, checks):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    handed = []
    whole = _attack(Bowls(3), 3, 4, recipe=recipe, rows=rows, on_victims=each(lambda v, _: handed.append(v)))
    path = tmp_path / "state.safetensors"
    seen, again = [], []

    def kill(done, _):
        seen.append(done)
        if len(seen) == checks + 1:
            raise KilledError

    def attack(**options):
        checkpoint = Checkpoint(path, "this run", every=0)
        return _attack(
            Bowls(3), 3, 4, recipe=recipe, rows=rows, checkpoint=checkpoint,
            on_victims=each(lambda v, _: again.append(v)), **options,
        )  # fmt: skip

    with pytest.raises(KilledError):
        attack(progress=kill)
    assert path.exists()
    found = attack()
    _equal(found, whole)
    assert sorted(set(again)) == sorted(handed) == [0, 1, 2]
    assert not path.exists()


def test_an_interrupt_keeps_the_state(tmp_path):
    path = tmp_path / "state.safetensors"

    def stop(done, _):
        if done >= 20:
            raise KeyboardInterrupt

    part = _attack(Bowls(2), 2, 1, checkpoint=Checkpoint(path, "x"), progress=stop)
    assert part.interrupted
    assert part.history.shape[0] == 20
    found = _attack(Bowls(2), 2, 1, checkpoint=Checkpoint(path, "x"))
    _equal(found, _attack(Bowls(2), 2, 1))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    Checkpoint(path, "one").write({"a": torch.ones(2)})
    with pytest.raises(ValueError, match="belongs to a run with other arguments"):
        Checkpoint(path, "another").read()
    assert path.exists()
    path.write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(path, "one").read() is None
    with pytest.raises(ValueError, match="ending in"):
        Checkpoint(tmp_path / "state.pt", "one")
    with pytest.raises(ValueError, match="path in UTF-8"):
        Checkpoint(tmp_path / "\udcff.safetensors", "one")
    with pytest.raises(ValueError, match="does not exist"):
        Checkpoint(tmp_path / "no" / "state.safetensors", "one")
