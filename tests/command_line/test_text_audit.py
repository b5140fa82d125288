"""``sapag-fast audit --text``."""

import csv
import json
import shutil

import pytest
from command_calls import NETS, files_of, flat, names_in, replaced, run
from safetensors.torch import load_file
from text_calls import LABELS, SENTENCES, command, write_victims

from sapag_fast.text.group import Group

pytest.importorskip("tokenizers")
pytest.importorskip("rouge_score")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    write_victims(folder)
    return folder


@pytest.fixture
def sentences(written, tmp_path):
    return shutil.copytree(written, tmp_path / "sentences")


@pytest.fixture(scope="module")
def whole(written, tmp_path_factory):
    """An audit that nothing has disturbed."""
    out = tmp_path_factory.mktemp("whole") / "o"
    done = run(*_audit(written, out), "--truth", written / "truth.txt")
    assert done.exit_code == 0, done.output
    return done, out


def _audit(folder, out):
    return [*command("audit", folder), "--gradients", folder / "gradients", "--output", out]


def _summary(out):
    return json.loads((out / "summary.json").read_text())


def test_sentences_come_back_and_are_summed_up(whole):
    done, out = whole
    assert "3/3 victims" in done.stdout
    assert "line 1 for s0 ... line 3 for s2" in flat(done.stderr)
    content = _summary(out)
    assert content["status"] == "finished"
    assert content["finished"] == content["recovered"] == content["certified"] == 3
    assert content["exact"] == 3
    assert content["success"] == content["labels_right"] == content["rougeL"]["q50"] == 1
    assert content["recipe"]["steps"] == 60
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["sentence"] for row in rows] == [row["truth"] for row in rows] == SENTENCES
    assert [int(row["label"]) for row in rows] == LABELS
    assert {row["certificate"] for row in rows} == {"certified"}
    assert {row["source"] for row in rows} == {"exact"}
    page = (out / "summary.html").read_text()
    assert all(sentence in page for sentence in SENTENCES)
    assert names_in(out / "results") == [f"s{position}.safetensors" for position in range(3)]
    assert load_file(out / "results" / "s2.safetensors")["inputs"].shape[0] == 1


def test_what_was_stopped_goes_on_to_the_same_bits(sentences, whole, tmp_path, monkeypatch):
    out = tmp_path / "o"
    searched, search = [], Group.search

    def stopped(group, restart):
        searched.append(1)
        if len(searched) == 2:
            raise KeyboardInterrupt
        return search(group, restart)

    with monkeypatch.context() as patched:
        patched.setattr(Group, "search", stopped)
        assert run(*_audit(sentences, out)).exit_code == 130
    assert names_in(out / "results") == ["s0.safetensors"]
    assert (_summary(out)["status"], _summary(out)["waiting"]) == ("interrupted", 2)
    kept = (out / "results" / "s0.safetensors").stat().st_mtime_ns
    done = run(*_audit(sentences, out))
    assert done.exit_code == 0, done.output
    assert (out / "results" / "s0.safetensors").stat().st_mtime_ns == kept
    assert files_of(out / "results") == files_of(whole[1] / "results")
    assert "recovered" not in _summary(out)
    other = run(*_audit(sentences, out), "--length", 6)
    assert other.exit_code == 2
    assert "holds another audit: settings length was" in flat(other.stderr)


def test_what_cannot_be_read_is_skipped(sentences, tmp_path):
    (sentences / "gradients" / "s1.safetensors").write_bytes(b"broken")
    out = tmp_path / "o"
    done = run(*_audit(sentences, out), "--labels", "known")
    assert done.exit_code == 3, done.output
    assert "skipped s1:" in done.stderr
    content = _summary(out)
    assert (content["finished"], content["skipped_count"]) == (2, 1)
    assert "s1" in content["skipped"]
    assert "s1" in (out / "summary.html").read_text()


def test_warnings_are_shown_once_and_summed_up(tmp_path):
    out = tmp_path / "o"
    write_victims(tmp_path, "DroppingEncoder")
    call = replaced(_audit(tmp_path, out), model=f"{NETS}:DroppingEncoder")
    for _ in range(2):  # the second time all are finished
        done = run(*replaced(call, steps=2, candidates=4))
        assert done.exit_code == 0, done.output
        assert flat(done.stderr).count("warning: dropout is active in drop:") == 1
        kept = {warning["kind"]: warning["modules"] for warning in _summary(out)["warnings"]}
        assert kept == {"dropout-active": ["drop"], "batchnorm-training": ["norm"]}
        assert "dropout is active in drop" in (out / "summary.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss", "bce"), "--loss: expected none, or --loss cross-entropy, with --text, found bce"),
        (("--max-memory", "1GB"), "--max-memory: does not go with --text"),
        (("--all-restarts",), "does not go with --text"),
        (("--labels", "joint"), "--labels: with --text expected"),
        (("--length", "3,4"), "--length: expected one number, or one for each of 3 victims, found 2"),
        (("--length", 99), "length: the model takes at most 12 tokens, found 99"),
        (("--truth", "one.txt"), "--truth: expected 3 sentences, one a line, found 1"),
        (("--recipe", "relu"), "recipe must be one of text, text-no-bag"),
    ],
)
def test_what_does_not_fit_is_refused(written, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("the cat\n")
    done = run(*_audit(written, tmp_path / "o"), *options)
    assert done.exit_code == 2, done.output
    assert message in flat(done.stderr)
    assert not (tmp_path / "o").exists()
