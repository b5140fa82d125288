"""What is certified is right, whatever the network sees of the order of the tokens."""

import classifier_nets as nets
import pytest
import torch
from sentence_victims import gradient_of, gradients_of, make_encoder, make_sentences

import sapag_fast as sf
from sapag_fast.text.rivals import other_orders, other_tokens

DIFFERENT = torch.tensor([3, 17, 44, 9, 51, 30])
REPEATED = torch.tensor([7, 21, 35, 7, 40, 7])
CERTIFIED, UP_TO_ORDER, UNKNOWN = "certified", "certified up to order", "unknown"


def _recover(net, sentence, **options):
    torch.manual_seed(0)
    model = net()
    settings = {"length": len(sentence), "restarts": 1, "steps": 60, "candidates": 400} | options
    return sf.recover_text(model, gradient_of(model, sentence, torch.tensor(1)), **settings)


@pytest.mark.parametrize("sentence", [DIFFERENT, REPEATED], ids=["different", "repeated"])
@pytest.mark.parametrize("net", [nets.encoder, nets.gpt, nets.lstm, nets.gru])
def test_what_sees_the_order_is_certified(net, sentence):
    found = _recover(net, sentence)
    assert torch.equal(found.tokens[0], sentence)
    (certificate,) = found.certificates
    assert (certificate.status, certificate.reason) == (CERTIFIED, "")
    assert certificate.compared > 20
    assert certificate.closest > max(1e-8, 1e4 * float(found.distance[0]))


@pytest.mark.parametrize("sentence", [DIFFERENT, REPEATED], ids=["different", "repeated"])
@pytest.mark.parametrize(
    "net",
    [
        nets.mean,
        nets.mean_with_positions,
        nets.transformer_without_positions,
        nets.torch_transformer_without_positions,
        nets.causal_without_positions,
        nets.both_directions,
        nets.both_halves,
        nets.in_pairs,
        nets.circular,
    ],
)
def test_what_sees_no_order_is_certified_up_to_it(net, sentence):
    found = _recover(net, sentence)
    assert found.certificate == (UP_TO_ORDER,)
    assert torch.equal(found.tokens[0].sort().values, sentence.sort().values)
    assert "other orders" in found.certificates[0].reason
    assert found.certificates[0].closest < 1e-8


@pytest.mark.parametrize(("sentence", "status"), [(DIFFERENT, CERTIFIED), (REPEATED, UP_TO_ORDER)])
def test_pairs_of_neighbours_tell_the_order_unless_tokens_repeat(sentence, status):
    found = _recover(nets.bigrams, sentence)
    assert found.certificate == (status,)
    assert status == UP_TO_ORDER or torch.equal(found.tokens[0], sentence)


@pytest.mark.parametrize("net", [nets.beginning, nets.gpt_first])
@pytest.mark.parametrize("sentence", [DIFFERENT, REPEATED], ids=["different", "repeated"])
def test_tokens_that_leave_no_trace_are_not_certified(net, sentence):
    found = _recover(net, sentence)
    assert found.distance[0] <= 1e-8
    assert found.certificate == (UNKNOWN,)
    assert "other tokens" in found.certificates[0].reason


def test_what_may_follow_is_not_certified():
    """The gradient of the position embedding tells no more than the first token."""
    found = _recover(nets.gpt_first, DIFFERENT, length=None)
    assert found.tokens.tolist() == [[3]]
    assert found.certificate == (UNKNOWN,)
    assert "longer sentence" in found.certificates[0].reason
    whole = _recover(nets.gpt, DIFFERENT, length=None)
    assert whole.certificate == (CERTIFIED,)


def test_without_the_bag_an_order_that_is_open_leaves_nothing_certain():
    options = {"tokens": None, "steps": 150, "restarts": 2, "candidates": 800}
    found = _recover(nets.transformer_without_positions, DIFFERENT, **options)
    assert found.distance[0] <= 1e-8
    assert found.certificate == (UNKNOWN,)
    assert _recover(nets.encoder, DIFFERENT, **options).certificate == (CERTIFIED,)


def test_rows_of_other_counts_are_not_certified():
    """Nothing but the word embedding's gradient tells: the found sentence does not give it."""
    torch.manual_seed(0)
    model = nets.encoder()
    target = gradient_of(model, REPEATED, torch.tensor(1))
    target[0][7] *= 2
    found = sf.recover_text(model, target)
    assert torch.equal(found.tokens[0], REPEATED)
    assert found.certificate == (UNKNOWN,)
    assert "word embedding's gradient" in found.certificates[0].reason


def test_the_reason_says_what_is_missing():
    assert (
        "above the threshold 1e-08"
        in _recover(nets.encoder, DIFFERENT, steps=1, candidates=1, exact="off").certificates[0].reason
    )
    rival = _recover(nets.encoder, DIFFERENT, steps=5, candidates=5, distance="l2")
    assert rival.certificates[0].reason == "no threshold was measured for the distance 'l2'"


def test_the_comparison_is_repeatable_and_not_the_searchs():
    model = make_encoder()
    tokens, labels = make_sentences(3, 6)
    target = gradients_of(model, tokens, labels)
    one, two = (
        sf.recover_text(model, target, batched=True, start="positions", exact="off") for _ in range(2)
    )
    assert one.certificates == two.certificates
    assert one.certificate == (CERTIFIED,) * 3
    assert one.scored.tolist() == [1] * 3
    assert min(certificate.compared for certificate in one.certificates) > 20


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 40])
def test_orders_are_others_of_the_same_tokens(length):
    sentence = torch.arange(length) % 7
    generator = torch.Generator().manual_seed(0)
    found = other_orders(sentence, generator)
    assert len(found) <= 64
    assert len(found.unique(dim=0)) == len(found)
    assert (found != sentence).any(1).all()
    assert torch.equal(found.sort(1).values, sentence.sort().values.expand(len(found), -1))
    assert bool(len(found)) == (length > 1)
    if length > 1:
        assert (found == sentence.flip(0)).all(1).any()
        assert any(torch.equal(row, sentence.roll(-length // 2)) for row in found)


def test_orders_and_circles_keep_the_neighbours():
    generator = torch.Generator().manual_seed(0)
    crossed, exchanged = torch.tensor([1, 5, 2, 7, 1, 6, 2, 9]), [1, 6, 2, 7, 1, 5, 2, 9]
    assert exchanged in other_orders(crossed, generator).tolist()
    table = torch.randn(10, 2, generator=generator)
    circle = torch.tensor([1, 2, 5, 6, 1, 2])
    found = other_tokens(circle, table, None, None, generator).tolist()
    assert all(row in found for row in ([2, 5, 6, 1, 2, 5], [5, 6, 1, 2, 5, 6], [6, 1, 2, 5, 6, 1]))


def test_a_circle_of_neighbours_is_not_certified():
    """Its pairs are those of other tokens: they begin elsewhere and end there."""
    torch.manual_seed(0)
    model = nets.bigrams(padding=0)
    target = gradient_of(model, torch.tensor([7, 3, 37, 42, 53, 7]), torch.tensor(1))
    found = sf.recover_text(model, target, length=6, restarts=1, steps=60, candidates=400)
    assert found.distance[0] <= 1e-8
    assert found.certificate == (UNKNOWN,)


def test_replacements_try_the_nearest_token_padding_and_the_bag():
    table = torch.tensor([[0.0], [1.0], [2.1], [50.0]])
    found = other_tokens(torch.tensor([1, 2]), table, torch.tensor([1]), 3, torch.Generator())
    rows = set(map(tuple, found.tolist()))
    assert {(0, 2), (1, 1), (3, 2), (1, 3)} <= rows
    assert (1, 2) not in rows
