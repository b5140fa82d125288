"""`recover_text` from end to end, on networks and sentences small enough for a test."""

import copy

import pytest
import torch
from sentence_victims import VOCABULARY, gradient_of, gradients_of, make_encoder, make_sentences
from torch import nn

import sapag_fast as sf
from sapag_fast.distances.layering import model_layers
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.optimizers import Adam
from sapag_fast.text import Bag, TextRecipe, find_tables, match_positions, read_bag, span_test
from sapag_fast.text.group import Group
from sapag_fast.victim.cautions import CautionWarning

LENGTH = 6


@pytest.fixture(scope="module")
def victims():
    model = make_encoder()
    tokens, labels = make_sentences(3, LENGTH)
    tokens[1, 4] = tokens[1, 0]  # a token that stands twice
    return model, tokens, labels, gradients_of(model, tokens, labels)


@pytest.mark.parametrize("bag", ["bag", None])
def test_sentences_come_back(victims, bag):
    model, tokens, labels, target = victims
    found = sf.recover_text(model, target, tokens=bag, batched=True, exact="off")
    assert found.source == ("search",) * 3
    assert found.mode == "explicit"
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.labels, labels)
    assert found.lengths == (LENGTH,) * 3
    assert found.certificate == ("certified",) * 3
    assert found.distance.max() < 1e-8
    assert (found.bags is None) == (bag is None)
    assert found.recipe.name == ("text" if bag else "text-no-bag")


def test_what_speaks_against_a_recovery_is_warned_of(victims):
    model, _, _, target = victims
    quick = {"restarts": 1, "steps": 1, "candidates": 1}
    plain = sf.recover_text(model, target, batched=True, **quick)
    assert plain.warnings == ()
    dropping = copy.deepcopy(model)
    dropping.fc = nn.Sequential(nn.Dropout(0.5), dropping.fc).train()
    first = [t[0] for t in target]
    state = torch.random.get_rng_state()
    with pytest.warns(CautionWarning, match=r"dropout is active in fc\.0:") as caught:
        found = sf.recover_text(dropping, first, labels=[1], **quick)
    assert [(caution.kind, caution.modules) for caution in found.warnings] == [("dropout-active", ("fc.0",))]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(torch.random.get_rng_state(), state)
    halved = copy.deepcopy(model).half()
    with pytest.warns(CautionWarning, match="half|float16"):
        found = sf.recover_text(halved, first, labels=[1], **quick)
    assert [caution.kind for caution in found.warnings] == ["low-precision"]


def test_one_victim_alone(victims):
    model, tokens, labels, target = victims
    found = sf.recover_text(model, [t[1] for t in target])
    assert found.mode == "explicit"
    assert torch.equal(found.tokens, tokens[1:2])
    assert torch.equal(found.labels, labels[1:2])
    short = sf.recover_text(model, [t[1] for t in target], restarts=1, steps=1, candidates=40, exact="off")
    assert 0 < short.scored[0] <= 41


def test_the_same_seed_gives_the_same_bits(victims):
    model, _, _, target = victims
    one, two = (
        sf.recover_text(
            model, target, batched=True, seed=3, restarts=1, steps=30, candidates=300, exact="off"
        )
        for _ in range(2)
    )
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.distance, two.distance)
    assert torch.equal(one.scored, two.scored)


def test_the_distance_is_that_of_the_tokens(victims):
    """Also where the search had no time to arrive."""
    model, _, labels, target = victims
    found = sf.recover_text(model, target, batched=True, restarts=1, steps=1, candidates=3, exact="off")
    skipped = find_tables(model).entries
    layers = model_layers(model, "modules")
    for v in range(3):
        pairs = zip(gradient_of(model, found.tokens[v], labels[v]), [t[v] for t in target], strict=True)
        dummy, own = zip(*((None, None) if i in skipped else p for i, p in enumerate(pairs)), strict=True)
        expected = sf.distance(dummy, own, layers=layers).double()
        torch.testing.assert_close(found.distance[v], expected, rtol=1e-3, atol=1e-12)
        assert found.certificate[v] == ("certified" if expected <= 1e-8 else "unknown")
    assert found.evaluations.tolist() == [1] * 3
    assert (found.scored <= 4).all()


def test_ctrl_c_between_searches_leaves_the_best_so_far(victims):
    model, _, labels, target = victims

    def stop(done, lowest):
        raise KeyboardInterrupt

    options = {"batched": True, "steps": 1, "candidates": 3, "exact": "off"}
    with pytest.raises(Interrupted) as caught:
        sf.recover_text(model, target, **options, progress=stop)
    whole = sf.recover_text(model, target, **options, restarts=1)
    assert torch.equal(caught.value.recovery.tokens, whole.tokens)
    assert torch.equal(caught.value.recovery.distance, whole.distance)
    assert torch.equal(caught.value.recovery.labels, labels)


def test_ctrl_c_during_a_continuous_search_leaves_its_sentence(victims, monkeypatch):
    model, _, _, target = victims
    taken = Adam.step
    calls = []

    def stopped(optimizer, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return taken(optimizer, *arguments)

    monkeypatch.setattr(Adam, "step", stopped)
    with pytest.raises(Interrupted) as caught:
        sf.recover_text(model, target, batched=True, exact="off")
    recovery = caught.value.recovery
    assert (recovery.tokens >= 0).all()
    assert torch.equal(recovery.tokens, recovery.continuous)
    assert torch.isfinite(recovery.distance).all()
    assert 0 < recovery.evaluations.max() <= 5
    assert recovery.scored.tolist() == [1] * 3


def test_ctrl_c_before_any_sentence(victims, monkeypatch):
    model, _, _, target = victims

    def stopped(optimizer, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Group, "search", stopped)
    with pytest.raises(Interrupted) as caught:
        sf.recover_text(model, target, batched=True, exact="off")
    recovery = caught.value.recovery
    assert (recovery.tokens == -1).all()
    assert torch.isinf(recovery.distance).all()
    assert recovery.certificate == ("unknown",) * 3


def test_sentences_of_several_lengths():
    model = make_encoder(seed=2)
    sentences = [torch.tensor(s) for s in ([7, 3, 7, 50], [9], [1, 2, 3, 4], [8, 8])]
    rows = [gradient_of(model, s, torch.tensor(k % 2)) for k, s in enumerate(sentences)]
    target = [torch.stack(part) for part in zip(*rows, strict=True)]
    told = []
    found = sf.recover_text(model, target, batched=True, progress=lambda *state: told.append(state))
    assert found.lengths == (4, 1, 4, 2)
    for row, sentence in zip(found.tokens, sentences, strict=True):
        assert row[: len(sentence)].tolist() == sentence.tolist()
        assert (row[len(sentence) :] == -1).all()
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert told[-1][1].max() < 1e-8


@pytest.mark.parametrize("attack", ["positions", "span"])
def test_analytic_attacks_read_the_sentence(victims, attack):
    model, tokens, _, target = victims
    tables = find_tables(model)
    for v, sentence in enumerate(tokens):
        own = [t[v] for t in target]
        bag = read_bag(own[tables.word_entry], LENGTH)
        if attack == "span":
            for candidates in (bag, None):
                assert torch.equal(span_test(model, own, tables.word, LENGTH, candidates), sentence)
        else:
            rows = own[tables.word_entry], own[tables.position_entry]
            assert torch.equal(match_positions(*rows, bag, tables.first_position), sentence)
    found = sf.recover_text(model, target, batched=True, start=attack, exact="off")
    assert torch.equal(found.tokens, tokens)
    assert found.evaluations.tolist() == [0] * 3
    assert found.scored.tolist() == [1] * 3


def test_positions_go_to_the_tokens_whose_sums_miss_them():
    """Rows of tokens that stand several times are no position's row."""
    g = torch.Generator().manual_seed(0)
    positions = torch.randn(9, 16, generator=g)
    sentence = torch.tensor([4, 2, 4, 6, 2, 4, 5])
    words = torch.zeros(8, 16).index_add_(0, sentence, positions[2:])
    found = match_positions(words, positions, Bag(sentence.unique(), 7), first=2)
    assert torch.equal(found, sentence)


@pytest.mark.parametrize("distance", ["l2", "tag", "cosine"])
def test_rivals_run_and_certify_nothing(victims, distance):
    model, tokens, _, target = victims
    found = sf.recover_text(
        model, target, batched=True, distance=distance, restarts=1, steps=20, candidates=200, exact="off"
    )
    assert found.recipe.distance == distance
    assert found.certificate == ("unknown",) * 3
    assert found.evaluations.tolist() == [20] * 3
    assert torch.equal(found.tokens.sort(1).values[[0, 2]], tokens.sort(1).values[[0, 2]])  # no repeats


def test_layers_without_a_gradient_carry_no_weight(victims):
    """The key bias of a softmax attention: what its gradient holds is rounding."""
    model, _, _, target = victims
    names = [name for name, _ in model.named_parameters()]
    whole = torch.stack([t[0].norm() for t in target]).norm()
    keys = [i for i, name in enumerate(names) if name.endswith("key.bias")]
    assert len(keys) == 2
    assert all(target[i][0].norm() <= 1e-6 * whole for i in keys)
    separate = sf.GradientDistance(layers=range(len(names)), batched=True).degenerate(target)
    assert separate[:, keys].all()
    found = sf.recover_text(model, target, batched=True, layers="separate")
    assert found.certificate == ("certified",) * 3


def test_the_model_is_left_as_it_was(victims):
    model, _, _, target = victims
    model = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    sf.recover_text(model, target, batched=True, restarts=1, steps=5, candidates=50)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class _NoEmbeds(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.fc = nn.Embedding(5, 4), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.fc(self.word(tokens).mean(1))


def test_errors_name_the_argument(victims):
    model, _, _, target = victims
    recover = sf.recover_text
    for options, message in (
        ({"tokens": "some"}, r"tokens must be one of bag, or None, found 'some'"),
        ({"start": "there"}, r"start must be one of random, positions, span, found 'there'"),
        ({"recipe": "smooth"}, r"recipe must be one of text, text-no-bag, or a TextRecipe, found 'smooth'"),
        ({"distance": "far"}, r"distance must be one of sapag, .* found 'far'"),
        ({"length": 3}, r"expected 1..3 non-zero rows .* found"),
        ({"length": 17}, r"length: the model takes at most 16 tokens, found 17"),
        ({"length": [6, 6]}, r"length: expected one for each of 3 victims, found 2"),
        ({"labels": [0, 1, 2]}, r"labels must lie in 0..1"),
        ({"restarts": 0}, r"restarts must be at least 1"),
        ({"candidates": 0}, r"candidates must be at least 1"),
        ({"embedding": nn.Embedding(3, 32)}, r"embedding: expected a module of the model"),
        ({"start": "positions", "tokens": None}, r"start='positions': needs tokens='bag'"),
    ):
        with pytest.raises(ValueError, match=message):
            recover(model, target, batched=True, **options)
    with pytest.raises(ValueError, match="recipe must be one of text, text-no-bag, or a TextRecipe, found 3"):
        recover(model, target, batched=True, recipe=3)
    with pytest.raises(TypeError, match=r"embedding must be a torch\.nn\.Embedding, found Linear"):
        recover(model, target, batched=True, embedding=model.fc)
    with pytest.raises(ValueError, match=r"model: expected one that takes inputs_embeds \[B, T, 4\]"):
        recover(other := _NoEmbeds(), [torch.ones_like(p) for p in other.parameters()])
    withheld = [None if i < 2 else t for i, t in enumerate(target)]
    with pytest.raises(ValueError, match="there is no position embedding's gradient to tell it"):
        recover(model, withheld, batched=True)
    with pytest.raises(ValueError, match=r"tokens='bag': needs the word embedding's gradient"):
        recover(model, withheld, 6, batched=True)


def test_withheld_embeddings_need_a_length_and_no_bag(victims):
    model, tokens, _, target = victims
    withheld = [None if i < 2 else t for i, t in enumerate(target)]
    found = sf.recover_text(model, withheld, LENGTH, tokens=None, batched=True)
    assert torch.equal(found.tokens, tokens)


def test_a_recipe_of_ones_own(victims):
    model, _, _, target = victims
    recipe = TextRecipe("mine", steps=7, candidates=20)
    found = sf.recover_text(model, target, batched=True, recipe=recipe, restarts=1, candidates=10)
    assert found.recipe.name == "mine"
    assert (found.recipe.steps, found.recipe.candidates) == (7, 10)


def test_tokens_are_all_of_the_vocabulary(victims):
    model, _, _, target = victims
    found = sf.recover_text(model, target, batched=True, tokens=None, restarts=1, steps=2, candidates=5)
    assert ((found.tokens >= 0) & (found.tokens < VOCABULARY)).all()
