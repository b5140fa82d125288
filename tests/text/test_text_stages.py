"""Each stage of the search for sentences on its own."""

import itertools

import pytest
import torch
from sentence_victims import VOCABULARY, gradient_of, gradients_of, make_encoder, make_sentences
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.matching.choose import choose_matching
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.search.starts import recovery_generator
from sapag_fast.text.bag import Bag, infer_length, read_bag
from sapag_fast.text.continuous import ScaledEmbeddings
from sapag_fast.text.decode import assign_tokens, nearest_tokens
from sapag_fast.text.discrete import Climb, search_sentences
from sapag_fast.text.neighbours import orders, replacements
from sapag_fast.text.network import TextNetwork, find_tables
from sapag_fast.text.scoring import Scorer
from sapag_fast.text.soft import SoftAssignment, padded_bags
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem


def _problem(model, tokens, labels, kind="sapag"):
    tables = find_tables(model)
    targets = gradients_of(model, tokens, labels)
    targets = [None if i in tables.entries else t for i, t in enumerate(targets)]
    distance = GradientDistance(kind, layers=model_layers(model, "modules"))
    return Problem(VictimModel(TextNetwork(model)), F.cross_entropy, distance, targets), tables


def test_bag_and_length_come_from_the_rows():
    model = make_encoder()
    sentence = torch.tensor([5, 9, 5, 30, 2, 9, 41])
    target = gradient_of(model, sentence, torch.tensor(1))
    tables = find_tables(model)
    assert tables.word is model.word
    assert tables.position is model.position
    length = infer_length(target[tables.position_entry], tables.first_position)
    bag = read_bag(target[tables.word_entry], length)
    assert length == 7
    assert bag.tokens.tolist() == [2, 5, 9, 30, 41]
    assert bag.repeats == 2


def test_rows_that_cannot_be_a_sentence():
    gradient = torch.zeros(10, 3)
    with pytest.raises(ValueError, match=r"length: the position embedding's gradient is zero"):
        infer_length(gradient, 0)
    with pytest.raises(ValueError, match=r"expected 1..4 non-zero rows .* found 0"):
        read_bag(gradient, 4)
    with pytest.raises(ValueError, match=r"expected 1..4 non-zero rows .* found 10; give tokens=None"):
        read_bag(gradient + 1, 4)


@pytest.mark.parametrize("kind", ["sapag", "tag"])
def test_the_way_back_to_logits_is_autograds(kind):
    model = make_encoder().double()
    tokens, labels = make_sentences(3, 5)
    problem, tables = _problem(model, tokens, labels, kind)
    bags = [Bag(row.unique(), 5) for row in tokens]
    table, present = padded_bags(bags)
    victims = torch.tensor([2, 0])
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 5, table.shape[1], generator=g, dtype=torch.float64)
    weight = tables.word.weight
    matching = SoftAssignment(SequentialMatching(problem), weight, table[victims], present[victims], victims)
    matching.retarget(torch.arange(2))
    value, slope, _ = matching.value_and_gradient(logits, labels[victims][:, None])

    for row, victim in enumerate(victims.tolist()):
        bag, z = bags[victim].tokens, logits[row, 0].clone().requires_grad_()
        inputs = (z[:, : len(bag)].softmax(-1) @ weight.detach()[bag])[None]
        dummy = problem.gradients(inputs, labels[victim][None])
        target = [None if t is None else t[victim] for t in problem.targets]
        paired = [d if t is not None else None for d, t in zip(dummy, target, strict=True)]
        expected = problem.distance.copy(backend="reference")(paired, target)
        (toward,) = torch.autograd.grad(expected, z)
        torch.testing.assert_close(value[row], expected.detach(), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(slope[row, 0], toward, rtol=1e-6, atol=1e-12)
        assert not slope[row, 0, :, len(bag) :].any()


def test_the_way_back_to_scaled_embeddings_is_autograds():
    model = make_encoder().double()
    tokens, labels = make_sentences(2, 4)
    problem, tables = _problem(model, tokens, labels)
    inner = SequentialMatching(problem)
    matching = ScaledEmbeddings(inner, tables.word.weight, torch.tensor([1]))
    matching.retarget(torch.tensor([0, 0]))
    g = torch.Generator().manual_seed(1)
    v = torch.randn(2, 1, 4, 32, generator=g, dtype=torch.float64)
    value, slope, _ = matching.value_and_gradient(v, labels[[1, 1]][:, None])
    inner.retarget(torch.tensor([1, 1]))
    scale = tables.word.weight.detach().std()
    expected, toward, _ = inner.value_and_gradient(scale * v, labels[[1, 1]][:, None])
    assert torch.equal(value, expected)
    torch.testing.assert_close(slope, scale * toward)


@pytest.mark.parametrize("repeats", [0, 1, 2])
def test_assignment_is_the_best_of_all_sentences(repeats):
    g = torch.Generator().manual_seed(repeats)
    bag = Bag(torch.tensor([3, 8, 20]), 3 + repeats)
    for _ in range(5):
        shares = (3 * torch.randn(bag.length, 3, generator=g)).softmax(-1)
        found = assign_tokens(torch.cat((shares, torch.zeros(bag.length, 2)), 1), bag)
        allowed = [s for s in itertools.product(range(3), repeat=bag.length) if set(s) == {0, 1, 2}]
        score = [sum(shares[t, k].log().item() for t, k in enumerate(s)) for s in allowed]
        best = allowed[max(range(len(score)), key=score.__getitem__)]
        assert found.tolist() == bag.tokens[list(best)].tolist()


def test_nearest_tokens_look_past_mean_and_size():
    g = torch.Generator().manual_seed(0)
    table, positions = torch.randn(20, 8, generator=g), torch.randn(4, 8, generator=g)
    truth = torch.tensor([[4, 19, 0, 4]])
    sums = 0.3 * (table[truth] + positions) + torch.randn(1, 4, 1, generator=g)
    nearest = nearest_tokens(sums - positions, table, positions, 5)
    assert nearest.shape == (1, 4, 5)
    assert torch.equal(nearest[..., 0], truth)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_orders_are_all_single_changes_once(length):
    swaps, others = orders(length)
    assert len(swaps) == length * (length - 1) // 2
    places = tuple(range(length))
    expected = set()
    for i, j in itertools.combinations(range(length + 1), 2):
        expected.add((*places[:i], *places[i:j][::-1], *places[j:]))
        for k in range(j + 1, length + 1):
            expected.add((*places[:i], *places[j:k], *places[i:j], *places[k:]))
    for i, j in itertools.combinations(range(length), 2):
        swapped = list(places)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        expected.add(tuple(swapped))
    expected.discard(places)
    found = [tuple(order) for order in (*swaps.tolist(), *others.tolist())]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_replacements_keep_what_is_required():
    sentence = torch.tensor([7, 7, 5])
    bag = torch.tensor([5, 7])
    found = replacements(sentence, bag.expand(3, -1), bag)
    assert sorted(map(tuple, found.tolist())) == [(5, 7, 5), (7, 5, 5)]
    free = replacements(sentence, torch.tensor([[1], [7], [2]]), None)
    assert sorted(map(tuple, free.tolist())) == [(1, 7, 5), (7, 7, 2)]


@pytest.mark.parametrize("kind", ["sapag", "l2", "tag"])
def test_scores_are_the_distances(kind):
    model = make_encoder().double()
    tokens, labels = make_sentences(3, 6)
    problem, tables = _problem(model, tokens, labels, kind)
    embeddings = tables.word.weight.detach()[tokens][:, None]
    matching = choose_matching(problem, embeddings, labels[:, None]).matching
    assert matching.mode == "explicit"
    scorer = Scorer(problem, matching, tables.word.weight, labels[:, None], rows=4)
    others, _ = make_sentences(9, 6, seed=1)
    for victim in (2, 0, 2):
        candidates = torch.cat((others, tokens[victim][None]))
        found = scorer(candidates, victim)
        target = [None if t is None else t[victim] for t in problem.targets]
        for candidate, value in zip(candidates, found, strict=True):
            dummy = gradient_of(model, candidate, labels[victim])
            dummy = [None if t is None else d for d, t in zip(dummy, target, strict=True)]
            expected = problem.distance.copy(backend="reference")(dummy, target)
            torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-12)
        assert found.argmin() == len(others)
    assert scorer.scored.tolist() == [10, 0, 20]


class _Hamming:
    """Scores by the number of wrong positions, and counts."""

    def __init__(self, truth):
        self.truth, self.calls = truth, 0

    def __call__(self, sentences, victim):
        self.calls += len(sentences)
        return (sentences != self.truth[victim]).sum(1).double()


def _climb(start, choices, required=None, victim=0):
    return Climb(victim, [(9.0, start)], choices, required, recovery_generator(0, victim, 0), 2)


def test_climbs_reach_the_truth_and_stop_there():
    truth = torch.tensor([[4, 1, 3, 2, 0], [9, 8, 7, 7, 9]])
    scorer = _Hamming(truth)
    none = torch.empty(5, 0, dtype=torch.long)
    bag = torch.tensor([7, 8, 9])
    climbs = [
        _climb(torch.arange(5), none),
        _climb(torch.tensor([7, 8, 9, 9, 9]), bag.expand(5, -1), bag, 1),
    ]
    search_sentences(climbs, scorer, candidates=5000, at_once=16, floor=0.0)
    assert [c.distance for c in climbs] == [0.0, 0.0]
    assert torch.equal(torch.stack([c.best for c in climbs]), truth)
    assert scorer.calls == sum(c.scored for c in climbs) < 5000


def test_a_climb_that_is_cut_short_keeps_its_best():
    truth = torch.tensor([[4, 1, 3, 2, 0]])
    scorer = _Hamming(truth)
    climb = _climb(torch.arange(5), torch.empty(5, 0, dtype=torch.long))

    def stopped(sentences, victim):
        if scorer.calls >= 4:
            raise KeyboardInterrupt
        return scorer(sentences, victim)

    with pytest.raises(KeyboardInterrupt):
        search_sentences([climb], stopped, candidates=100, at_once=4, floor=0.0)
    assert climb.scored == 4
    assert climb.distance == (climb.best != truth[0]).sum() < 5


def test_a_climb_ends_with_its_candidates_or_its_sentences():
    truth = torch.full((1, 4), VOCABULARY)
    climb = _climb(torch.arange(4), torch.empty(4, 0, dtype=torch.long))
    search_sentences([climb], _Hamming(truth), candidates=100, at_once=16, floor=0.0)
    assert climb.scored == 100
    assert sorted(climb.best.tolist()) == [0, 1, 2, 3]
    for length, choices in ((1, 0), (3, 0), (3, 1)):
        zeros = torch.zeros(length, dtype=torch.long)
        alone = _climb(zeros, zeros[:, None].expand(-1, choices))
        search_sentences([alone], _Hamming(truth[:, :length]), candidates=100, at_once=16, floor=0.0)
        assert alone.scored == 0
