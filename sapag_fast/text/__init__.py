"""Sentences from gradients: see :mod:`sapag_fast.text.recover`."""

from sapag_fast.text.analytic import match_positions, span_residuals, span_test
from sapag_fast.text.bag import Bag, infer_length, read_bag
from sapag_fast.text.batch import SentenceBatch, recover_sentences
from sapag_fast.text.certificate import TextCertificate
from sapag_fast.text.metrics import TextScores, score_text
from sapag_fast.text.network import TextNetwork, find_tables
from sapag_fast.text.options import TextOptions
from sapag_fast.text.recipe import TEXT_RECIPES, TextRecipe
from sapag_fast.text.recover import recover_text
from sapag_fast.text.recovery import TextRecovery
from sapag_fast.text.tokenizer import encode, load_tokenizer, train_tokenizer
from sapag_fast.text.true_sentences import TrueSentence, read_true_sentences

__all__ = [
    "TEXT_RECIPES",
    "Bag",
    "SentenceBatch",
    "TextCertificate",
    "TextNetwork",
    "TextOptions",
    "TextRecipe",
    "TextRecovery",
    "TextScores",
    "TrueSentence",
    "encode",
    "find_tables",
    "infer_length",
    "load_tokenizer",
    "match_positions",
    "read_bag",
    "read_true_sentences",
    "recover_sentences",
    "recover_text",
    "score_text",
    "span_residuals",
    "span_test",
    "train_tokenizer",
]
