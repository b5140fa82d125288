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
    assert row == {"name": f"'{text}", "reason": ""}


def test_other_cells_are_as_they_were():
    cells = {"a": "x\ry", "b": 'q"u,o\nte', "c": -1.5, "d": "a=b", "e": True, "f": -3}
    text = csv_table(tuple(cells), [cells])
    assert '"x\ry"' in text
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {"a": "x\ry", "b": 'q"u,o\nte', "c": "-1.5", "d": "a=b", "e": "True", "f": "-3"}
    assert text.startswith("a,b,c,d,e,f\n")
