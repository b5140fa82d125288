"""Several sentences behind one gradient."""

import pytest
import torch
from sentence_victims import make_encoder
from torch.nn import functional as F

from sapag_fast.models import make_model
from sapag_fast.text import recover_sentences
from sapag_fast.text.counts import Counted, told_rows


def _batch(model, size, length, vocabulary=500):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocabulary, (size, length), generator=g)
    labels = torch.randint(2, (size,), generator=g)
    output = model(tokens)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    trained = list(model.parameters())
    return tokens, labels, torch.autograd.grad(F.cross_entropy(logits, labels), trained, allow_unused=True)


def _pairs(tokens, labels):
    return sorted(zip(tokens.tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize(("size", "length"), [(1, 6), (2, 8), (6, 4)])
def test_sentences_of_an_encoder_come_back(size, length):
    model = make_model("encoder", vocabulary=500, max_length=16, width=64, seed=0)
    tokens, labels, target = _batch(model, size, length)
    state = torch.random.get_rng_state()
    found = recover_sentences(model, target, batch_size=size)
    assert _pairs(found.tokens, found.labels) == _pairs(tokens, labels)
    assert (found.recovered, found.certified, found.reason) == (size, True, "")
    assert found.difference < 1e-5
    assert torch.equal(torch.random.get_rng_state(), state)
    for here, truth in zip(found.candidates, tokens.T, strict=True):
        assert set(truth.tolist()) <= set(here.tolist())


def test_wide_heads_tell_sentences_of_the_same_words():
    model = make_model("encoder", vocabulary=500, max_length=16, width=128, heads=2, seed=0)
    tokens, labels, target = _batch(model, 6, 8, vocabulary=40)
    found = recover_sentences(model, target, batch_size=6)
    assert min(map(len, found.candidates)) > 12  # the first layer alone tells the words, not where they stand
    assert _pairs(found.tokens, found.labels) == _pairs(tokens, labels)
    assert found.certified


def test_a_sentence_that_stands_twice_is_counted():
    model = make_model("encoder", vocabulary=500, max_length=16, width=64, seed=0)
    tokens = torch.tensor([[4, 9, 30, 2], [4, 9, 30, 2], [70, 9, 8, 1]])
    labels = torch.tensor([1, 1, 0])
    target = torch.autograd.grad(F.cross_entropy(model(tokens), labels), list(model.parameters()))
    found = recover_sentences(model, target, batch_size=3)
    assert _pairs(found.tokens, found.labels) == _pairs(tokens, labels)
    assert found.certified


def test_sentences_behind_causal_attention_grow():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=500, n_embd=64, n_layer=2, n_head=4, n_positions=16, num_labels=2, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config).eval()
    tokens, labels, target = _batch(model, 5, 6)
    found = recover_sentences(model, target, batch_size=5)
    assert _pairs(found.tokens, found.labels) == _pairs(tokens, labels)
    assert found.certified


def test_more_tokens_than_the_width_are_refused():
    model = make_encoder()
    _, _, target = _batch(model, 6, 8, vocabulary=60)
    found = recover_sentences(model, target, batch_size=6)
    assert (found.recovered, found.certified) == (0, False)
    assert "too many different tokens for a width of 32" in found.reason
    assert (found.tokens == -1).all()


def test_another_number_of_sentences_is_not_certified():
    model = make_model("encoder", vocabulary=500, max_length=16, width=64, seed=0)
    _, _, target = _batch(model, 3, 4)
    found = recover_sentences(model, target, batch_size=4)
    assert not found.certified
    assert found.reason


def test_an_incomplete_batch_tells_each_sentence_once():
    """The shares of sentences that are missing go to those that are there."""
    counts = torch.tensor([4, 4, 7, 4]), torch.tensor([1, 1, 0, 0])
    incomplete = Counted(*counts, difference=0.3, sure=False)
    assert told_rows(incomplete, 4) == [0, 2]
    assert told_rows(incomplete, 8) == [0, 2]
    assert told_rows(Counted(*counts, difference=1e-6, sure=True), 4) == [0, 1, 2, 3]
    model = make_model("encoder", vocabulary=500, max_length=16, width=64, seed=0)
    _, _, target = _batch(model, 3, 4)
    for size in (2, 5):
        found = recover_sentences(model, target, batch_size=size)
        told = [row for row in found.tokens.tolist() if row[0] >= 0]
        assert len(told) == found.recovered == len({tuple(row) for row in told})


def test_noise_is_not_certified():
    model = make_model("encoder", vocabulary=500, max_length=16, width=64, seed=0)
    _, _, target = _batch(model, 2, 4)
    noisy = [t + 0.01 * t.std() * torch.randn(t.shape) for t in target]
    found = recover_sentences(model, noisy, 4, batch_size=2)
    assert not found.certified
    assert found.reason
