"""Hugging Face classifiers with random weights."""

import pytest
import torch
from sentence_victims import gradients_of

import sapag_fast as sf
from sapag_fast.text import find_tables

transformers = pytest.importorskip("transformers")

SENTENCES = torch.tensor([[11, 40, 7, 7, 23], [5, 60, 31, 12, 9]])
LABELS = torch.tensor([1, 0])


def _bert(attention):
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=70,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            attn_implementation=attention,
        )
    )


def _roberta(attention):
    return transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(
            vocab_size=70,
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            attn_implementation=attention,
        )
    )


def _gpt2(attention):
    return transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=70,
            n_embd=24,
            n_layer=1,
            n_head=2,
            n_positions=16,
            num_labels=2,
            pad_token_id=0,
            attn_implementation=attention,
        )
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("make", "first"), [(_bert, 0), (_roberta, 2)])
def test_sentences_come_back(make, first, attention):
    torch.manual_seed(0)
    model = make(attention).eval()
    tables = find_tables(model)
    assert tables.word is model.get_input_embeddings()
    assert tables.first_position == first
    target = gradients_of(model, SENTENCES, LABELS)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = sf.recover_text(model, target, batched=True)
    assert found.mode == "explicit"
    assert torch.equal(found.tokens, SENTENCES)
    assert torch.equal(found.labels, LABELS)
    assert found.certificate == ("certified",) * 2
    assert model.config._attn_implementation == attention
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_without_the_bag():
    torch.manual_seed(0)
    model = _bert("sdpa").eval()
    found = sf.recover_text(model, gradients_of(model, SENTENCES, LABELS), tokens=None, batched=True)
    assert torch.equal(found.tokens, SENTENCES)


def test_a_decoder_with_layers_of_its_own_kind():
    """GPT-2's layers are functions of bare parameters, and its head has no bias to tell the label by."""
    torch.manual_seed(0)
    model = _gpt2("sdpa").eval()
    target = gradients_of(model, SENTENCES, LABELS)
    found = sf.recover_text(model, target, labels=LABELS, batched=True)
    assert (found.mode, found.mode_reason) == ("explicit", "")
    assert torch.equal(found.tokens, SENTENCES)
