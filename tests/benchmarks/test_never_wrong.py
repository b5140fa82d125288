"""The quick ones of the cases made up to mislead: nothing is wrong without a word."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.recovery.never_wrong.case import (
    ANNOUNCED,
    RIGHT,
    SILENT,
    Case,
    Victims,
    judged_labels,
    judged_pictures,
    judged_warning,
    verdicts,
)
from benchmarks.recovery.never_wrong.cases import CASES, chosen
from sapag_fast.recovery.certificate import Certificate
from sapag_fast.victim.cautions import Caution

QUICK = [
    case
    for case in CASES
    if case.kind in ("losses: mistaken", "losses: one's own", "labels: several steps")
    or (case.kind == "labels: heads" and "no bias" in case.name)
    or (case.kind == "labels: scales" and "untrained LeNet, B = 4" in case.name)
]


@pytest.mark.parametrize("kind", dict.fromkeys(case.kind for case in QUICK))
def test_nothing_is_wrong_without_a_word(kind):
    lines = [case.line(Victims()) for case in QUICK if case.kind == kind]
    assert [line for line in lines if line[SILENT]] == []
    assert all(line["said"] for line in lines)


def test_cases_have_names_of_their_own():
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) > 200
    assert chosen([]) == CASES
    assert {case.kind for case in chosen(["losses"])} >= {"losses: told", "losses: sequences"}


def _found(certificate=None, source="inferred", reason="", labels=(3,), warnings=()):
    return SimpleNamespace(
        inputs=torch.full((1, 1, 1, 4, 4), 0.5),
        certificate=(certificate or Certificate("certified"),),
        labels=torch.tensor([labels]),
        label_source=(source,),
        label_reason=(reason,),
        warnings=warnings,
    )


def _verdicts(outcomes):
    return [outcome.verdict for outcome in outcomes]


def test_what_is_claimed_and_wrong_is_told():
    true, false = torch.full((1, 1, 1, 4, 4), 0.5), torch.zeros(1, 1, 1, 4, 4)
    unknown = Certificate("unknown", "too far")
    assert _verdicts(judged_pictures(_found(), true)) == [RIGHT]
    assert _verdicts(judged_pictures(_found(), false)) == [SILENT]
    assert _verdicts(judged_pictures(_found(unknown), false)) == [ANNOUNCED]
    assert _verdicts(judged_pictures(_found(Certificate("unknown")), false)) == [SILENT]
    wrong = torch.tensor([[4]])
    assert _verdicts(judged_labels(_found(labels=(3,)), torch.tensor([[3]]))) == [RIGHT]
    assert _verdicts(judged_labels(_found(), wrong)) == [SILENT]
    assert _verdicts(judged_labels(_found(source="estimated", reason="counts"), wrong)) == [ANNOUNCED]
    assert _verdicts(judged_labels(_found(source="estimated"), wrong)) == [SILENT]
    box = Caution("box", "", "values press past the bounds")
    assert judged_warning(_found(warnings=(box,)), false, "box")[0].said.startswith("warning box")
    assert _verdicts(judged_warning(_found(), false, "box")) == [SILENT]
    assert judged_warning(_found(unknown), false, "box")[0].said == "no warning; unknown: too far"


def test_a_refusal_is_an_announcement():
    def refuse(victims):
        raise ValueError("labels: expected others")

    line = Case("kind", "name", refuse).line(Victims())
    assert (line["verdict"], line["said"]) == (ANNOUNCED, "refused: labels: expected others")
    assert verdicts([line]) == {RIGHT: 0, ANNOUNCED: 1, SILENT: 0}
