"""File names that nobody shares, and tables that are no programs."""

import csv
import io

import pytest

from sapag_fast.files.names import FileNames, csv_table


def test_file_names_are_plain_where_they_can_be_and_always_different():
    names = FileNames(reserved=["grid.png"])
    victims = ["a", "A", "ａ", "é", "e\u0301", "grid", "GRID", "a-00", "x" * 250, "X" * 250, "ß", "ss"]
    stems = [names.stem(victim, victim, (".png",)) for victim in victims]
    files = [f"{stem}.png".casefold() for stem in stems]
    assert len({*files, "grid.png"}) == len(victims) + 1
    assert stems[0] == "a"
    assert stems[3] == "é"
    assert stems[7] == "a-00"
    assert all(len(stem.encode()) <= 200 for stem in stems)
    assert [names.stem(victim, victim, (".png",)) for victim in victims] == stems


def test_pictures_of_a_batch_do_not_meet_another_victims():
    names = FileNames()
    assert names.stem("a-00", "a-00", (".png",)) == "a-00"
    assert names.stem("a", "a", ("-00.png", "-01.png")) != "a"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1"])
def test_formulas_become_text(text):
    (row,) = csv.DictReader(io.StringIO(csv_table(("name", "reason"), [{"name": text}]), newline=""))
    plain = text.translate({ord("\t"): r"\t", ord("\r"): r"\r", ord("\n"): r"\n"})
    assert row == {"name": f"'{plain}", "reason": ""}


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\x00b\x7f\x9b2J", r"a\x00b\x7f\x9b2J"),
        ("left\u202eright", r"left\u202eright"),
        ("two\nlines\r", r"two\nlines\r"),
        ("lone \ud800", r"lone \ud800"),
        ("é ü 漢", "é ü 漢"),
    ],
)
def test_nothing_that_a_terminal_would_obey_is_left(text, plain):
    table = csv_table(("name",), [{"name": text}])
    assert table == f"name\n{plain}\n"


def test_other_cells_are_as_they_were():
    cells = {"b": 'q"u,o', "c": -1.5, "d": "a=b", "e": True, "f": -3}
    text = csv_table(tuple(cells), [cells])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {"b": 'q"u,o', "c": "-1.5", "d": "a=b", "e": "True", "f": "-3"}
    assert text.startswith("b,c,d,e,f\n")
