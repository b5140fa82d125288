"""Tokenizer and metrics."""

import subprocess
import sys

import pytest
import torch

from sapag_fast.text import encode, score_text, train_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("rouge_score")

SENTENCES = ["The cat sat on the mat.", "The dog sat.", "A cat and a dog sat on a mat, and slept."]


def test_tokens_stand_for_their_sentences():
    tokenizer = train_tokenizer(SENTENCES, vocabulary=60)
    assert tokenizer.get_vocab_size() <= 60
    found, kept = encode(tokenizer, SENTENCES, 5)
    assert found.shape == (2, 5)
    assert kept.tolist() == [0, 2]
    whole = tokenizer.encode(SENTENCES[0]).ids
    assert tokenizer.decode(whole) == "the cat sat on the mat."
    assert found[0].tolist() == whole[:5]
    none, kept = encode(tokenizer, SENTENCES, 100)
    assert none.shape == (0, 100)
    assert kept.shape == (0,)


def test_the_same_sentences_give_the_same_tokens():
    """In every process: victims are fixed by seed."""
    program = f"""
from sapag_fast.text import train_tokenizer
print(sorted(train_tokenizer({SENTENCES!r} * 3, vocabulary=40).get_vocab().items()))
"""
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(3)]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    assert len({run.stdout for run in runs}) == 1


def test_training_refuses_nothing_to_learn():
    with pytest.raises(ValueError, match="sentences: expected some text to train on"):
        train_tokenizer(["", " "])
    with pytest.raises(TypeError, match="sentences must be a sequence of strings"):
        train_tokenizer("The cat")
    with pytest.raises(ValueError, match="vocabulary must be at least 1"):
        train_tokenizer(SENTENCES, vocabulary=0)


def test_scores_of_a_swap():
    truth = torch.tensor([4, 5, 6, 7])
    scores = score_text(torch.tensor([5, 4, 6, 7]), truth)
    assert (scores.positions, scores.recall, scores.rouge1) == (0.5, 1.0, 1.0)
    assert scores.rouge2 == pytest.approx(1 / 3)
    assert scores.rougeL == pytest.approx(0.75)
    assert not scores.success
    assert score_text(truth, truth).success


def test_recall_counts_repeats():
    scores = score_text(torch.tensor([1, 1, 1, 2]), torch.tensor([1, 1, 2, 3]))
    assert scores.recall == 0.75
    with pytest.raises(ValueError, match=r"found, truth: expected two sentences"):
        score_text(torch.tensor([1, 2]), torch.tensor([1]))
