"""Sentences that follow from the gradient by arithmetic."""

import classifier_nets as nets
import pytest
import torch
from sentence_victims import gradient_of, gradients_of, make_encoder, make_sentences
from torch.nn import functional as F

import sapag_fast as sf
from sapag_fast.clients.training import Descent, train_to

LENGTH = 16
SHORT = {"restarts": 1, "steps": 20, "candidates": 200}


@pytest.fixture(scope="module")
def trained():
    """Until all of 64 sentences are right, whose labels no sentence tells."""
    tokens, labels = make_sentences(64, LENGTH, seed=1)
    model = make_encoder(max_length=40)
    model, phase = train_to(model, tokens, labels, accuracy=0.99, descent=Descent(lr=0.003))
    assert phase.reached
    return model


@pytest.mark.parametrize("bag", ["bag", None])
def test_sentences_of_a_trained_network_follow(trained, bag):
    tokens, labels = make_sentences(6, LENGTH, seed=2)
    assert any(len(sentence.unique()) < LENGTH for sentence in tokens)
    state = torch.random.get_rng_state()
    found = sf.recover_text(trained, gradients_of(trained, tokens, labels), tokens=bag, batched=True)
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.labels, labels)
    assert found.source == ("exact",) * 6
    assert found.source_reason == ("",) * 6
    assert found.certificate == ("certified",) * 6
    assert found.distance.max() < 1e-8
    assert found.evaluations.tolist() == found.scored.tolist() == [0] * 6
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_span_needs_no_gradient_of_embeddings(trained):
    """Only the first layers' inputs: neither the bag nor the rows of positions."""
    tokens, labels = make_sentences(3, LENGTH, seed=3)
    target = gradients_of(trained, tokens, labels)
    names = [name for name, _ in trained.named_parameters()]
    shared = [
        None if name in ("word.weight", "position.weight") else t
        for name, t in zip(names, target, strict=True)
    ]
    found = sf.recover_text(trained, shared, LENGTH, tokens=None, batched=True)
    assert torch.equal(found.tokens, tokens)
    assert found.source == ("exact",) * 3


def test_other_victims_are_searched_with_the_same_bits():
    """40 tokens span all of 32 features, and without the position embedding's rows nothing else tells."""
    model = make_encoder(max_length=40)
    tokens, labels = make_sentences(2, 40)
    target = gradients_of(model, tokens, labels)
    names = [name for name, _ in model.named_parameters()]
    target[names.index("position.weight")] = None
    one, two = (
        sf.recover_text(model, target, 40, batched=True, exact=exact, **SHORT) for exact in ("auto", "off")
    )
    assert one.source == two.source == ("search",) * 2
    assert "positions: needs the tokens' bag and the gradients of both embeddings" in one.source_reason[0]
    assert "span: the gradient at its sentence differs from the target" in one.source_reason[0]
    assert two.source_reason == ("", "")
    for part in ("tokens", "distance", "evaluations", "scored"):
        assert torch.equal(getattr(one, part), getattr(two, part))


def test_networks_without_a_first_layer_of_tokens_are_searched():
    torch.manual_seed(0)
    model = nets.lstm()
    sentence = torch.tensor([3, 9, 4])
    found = sf.recover_text(model, gradient_of(model, sentence, torch.tensor(1)), 3, **SHORT)
    assert found.source == ("search",)
    assert "a first linear layer that takes a vector for each token" in found.source_reason[0]


def test_a_clients_scale_is_taken_out_and_not_certified():
    model = make_encoder()
    tokens, labels = make_sentences(1, 6)
    target = [t / 2 for t in gradients_of(model, tokens, labels)]
    found = sf.recover_text(model, target, batched=True)
    assert torch.equal(found.tokens, tokens)
    assert found.source == ("exact",)
    assert found.certificate == ("unknown",)
    assert found.certificates[0].reason


def test_gradients_of_no_sentence_are_not_taken_for_one():
    model = make_encoder()
    tokens, labels = make_sentences(2, 6)
    noisy = [t[0] + 1e-2 * t[0].std() * torch.randn(t[0].shape) for t in gradients_of(model, tokens, labels)]
    found = sf.recover_text(model, noisy, 6, labels=labels[:1], tokens=None, **SHORT)
    assert found.source == ("search",)
    assert found.certificate == ("unknown",)
    logits = model(tokens)
    both = torch.autograd.grad(F.cross_entropy(logits, labels), list(model.parameters()))
    found = sf.recover_text(model, both, 6, labels=labels[:1], tokens=None, **SHORT)
    assert found.source == ("search",)
    assert found.certificate == ("unknown",)


def test_a_network_without_an_order_is_not_certified_beyond_it():
    torch.manual_seed(0)
    model = nets.mean_with_positions()
    sentence = torch.tensor([7, 2, 50, 4])
    found = sf.recover_text(model, gradient_of(model, sentence, torch.tensor(0)), 4, **SHORT)
    assert found.certificate[0] in ("certified up to order", "unknown")
    assert torch.equal(found.tokens[0].sort().values, sentence.sort().values)


def test_what_exact_may_be():
    model = make_encoder()
    target = gradients_of(model, *make_sentences(1, 4))
    with pytest.raises(ValueError, match="exact must be one of auto, off"):
        sf.recover_text(model, target, batched=True, exact="on")
