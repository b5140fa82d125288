"""Sentences and labels from tab-separated files."""

import pytest
import torch

from sapag_fast import data

COLA = 'gj04\t1\t\tThe ship sank.\r\ngj04\t0\t*\t"He said\u2028so.\ncj99\t1\t\tCafé opened.\n'


def test_sentences_of_cola_and_glue(tmp_path):
    cola, glue = tmp_path / "cola.tsv", tmp_path / "glue.tsv"
    cola.write_bytes(COLA.encode())
    expected = (["The ship sank.", '"He said\u2028so.', "Café opened."], [1, 0, 1])
    sentences, labels = data.read_sentences(cola)
    assert labels.dtype == torch.int64
    assert (sentences, labels.tolist()) == expected
    glue.write_text("label\tindex\tsentence\n1\t0\tgood one \n0\t1\tbad one\n\n", encoding="utf-8-sig")
    for columns in ((), ("sentence", "label"), (2, 0), (-1, "label")):
        sentences, labels = data.read_sentences(glue, *columns)
        assert (sentences, labels.tolist()) == (["good one", "bad one"], [1, 0])
    assert data.read_sentences(cola, 0, 1, first=1, count=2)[0] == ["gj04", "cj99"]


def test_sentences_reads_no_further_than_the_slice(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(COLA.encode() + b"broken\n" * 10_000 + b"\xff\xff\n")
    assert data.read_sentences(path, first=1, count=2)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", {}, "is empty"),
        ("x\t1\t\tyes\nx\t1\n", {}, "line 2: sentence: 2 columns, no column 3"),
        ("x\tone\t\tyes\n", {}, "line 1: expected a label that is a whole number, found 'one'"),
        ("x\t-1\t\tyes\n", {}, "line 1: label -1; expected 0 or more"),
        ("x\t2\t\tyes\n", {"classes": 2}, r"line 1: label 2; expected 0\.\.1"),
        ("x\t1\t\t \n", {}, "line 1: the sentence is empty"),
        (COLA, {"count": 4}, "first=0, count=4: only 3 sentences"),
        (COLA, {"first": 3}, "first=3, count=None: only 0 sentences"),
        (b"x\t1\t\tcaf\xe9\n", {}, "not UTF-8"),
        (
            "index\tsentence\n0\tyes\n",
            {"label": "label"},
            "no column 'label' in the header; found index, sen",
        ),
    ],
)
def test_sentences_refusals(content, options, words, tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"a\.tsv.*{words}"):
        data.read_sentences(path, **options)


def test_sentences_arguments(tmp_path):
    (tmp_path / "a.tsv").write_text(COLA)
    for options in ({"count": 0}, {"first": -1}, {"count": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            data.read_sentences(tmp_path / "a.tsv", **options)
    for options in ({"sentence": 1.5}, {"label": True}):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be a column"):
            data.read_sentences(tmp_path / "a.tsv", **options)
    with pytest.raises(ValueError, match="sentence: 4 columns, no column 9"):
        data.read_sentences(tmp_path / "a.tsv", 9)
    with pytest.raises(ValueError, match="does not exist"):
        data.read_sentences(tmp_path / "b.tsv")


@pytest.mark.parametrize("classes", [0, -1, True, 1.5, "3"])
def test_a_number_of_classes_that_is_none_is_refused_by_name(tmp_path, classes):
    path = tmp_path / "a.tsv"
    path.write_text("label\tsentence\n0\tone\n")
    with pytest.raises((ValueError, TypeError), match="classes must be"):
        data.read_sentences(path, classes=classes)
    with pytest.raises(ValueError, match="only 1 sentences"):
        data.read_sentences(path, count=2**70)
