"""``sapag-fast recover --text``."""

import pytest
from command_calls import flat, names_in, replaced, results, run
from safetensors.torch import load_file
from text_calls import LABELS, SENTENCES, command, gradient_files, write_victims

from sapag_fast.text.group import Group

pytest.importorskip("tokenizers")
pytest.importorskip("rouge_score")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    write_victims(folder)
    return folder


@pytest.fixture(scope="module")
def unordered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unordered")
    write_victims(folder, "Mean")
    return folder


def test_sentences_come_back_as_text(sentences, tmp_path):
    out = tmp_path / "o"
    files = gradient_files(sentences, 3)
    done = run(*command("recover", sentences), *files, "--truth", sentences / "truth.txt", "--output", out)
    assert done.exit_code == 0, done.output
    assert names_in(out) == ["recovered.safetensors", "results.json"]
    content = results(out)
    assert content["command"] == "recover --text"
    assert content["status"] == "finished"
    assert content["success_means"] == "every token is right and in its place"
    assert content["settings"]["candidates"] == 300
    assert "input_shape" not in content["settings"]
    tensors = load_file(out / "recovered.safetensors")
    for position, (entry, sentence) in enumerate(zip(content["recoveries"], SENTENCES, strict=True)):
        assert entry["name"] == f"s{position}"
        assert entry["text"] == entry["truth"] == sentence
        assert entry["recovered"] is True
        assert (entry["positions"], entry["rougeL"]) == (1.0, 1.0)
        assert entry["label"] == entry["true_label"] == LABELS[position]
        assert entry["certificate"]["status"] == "certified"
        assert entry["certificate"]["compared"] > 0
        assert tensors[f"s{position}"].tolist() == [entry["tokens"]]
        assert entry["recipe"]["steps"] == 60
        assert (entry["source"], entry["source_reason"], entry["evaluations"]) == ("exact", "", 0)
    assert SENTENCES[2] in done.stdout
    assert "certified" in done.stdout


def test_a_search_is_made_where_arithmetic_is_off(sentences, tmp_path):
    call = replaced([*command("recover", sentences), *gradient_files(sentences, 1)], steps=1, candidates=1)
    done = run(*call, "--exact", "off", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    (entry,) = results(tmp_path / "o")["recoveries"]
    assert (entry["source"], entry["evaluations"]) == ("search", 1)


def test_the_usual_loss_may_be_named(sentences, tmp_path):
    call = replaced([*command("recover", sentences), *gradient_files(sentences, 1)], steps=1, candidates=1)
    done = run(*call, "--loss", "cross-entropy", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert results(tmp_path / "o")["recoveries"][0]["warnings"] == []


def test_warnings_are_shown_once_and_kept(tmp_path):
    write_victims(tmp_path, "DroppingEncoder")
    call = [*command("recover", tmp_path, "DroppingEncoder"), *gradient_files(tmp_path, 2)]
    done = run(*replaced(call, steps=2, candidates=4), "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert flat(done.stderr).count("warning: dropout is active in drop:") == 1
    assert flat(done.stderr).count("warning: BatchNorm takes the batch's own mean and variance in norm:") == 1
    assert "CautionWarning" not in done.stderr
    for entry in results(tmp_path / "o")["recoveries"]:
        kinds = {warning["kind"]: warning["modules"] for warning in entry["warnings"]}
        assert kinds == {"dropout-active": ["drop"], "batchnorm-training": ["norm"]}


def test_what_the_order_hides_is_said(unordered, tmp_path):
    options = ("--embedding", "table", "--length", 9, "--labels", 1)
    call = [*command("recover", unordered, "Mean"), *gradient_files(unordered, 1)]
    length = len(_tokens(unordered, SENTENCES[0]))
    done = run(*call, *options[:2], "--length", length, *options[4:], "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    (entry,) = results(tmp_path / "o")["recoveries"]
    assert entry["certificate"]["status"] == "certified up to order"
    assert sorted(entry["tokens"]) == sorted(_tokens(unordered, SENTENCES[0]))
    assert "recovered" not in entry


def test_any_tokens_without_a_tokenizer(sentences, tmp_path):
    tokens = _tokens(sentences, SENTENCES[2])
    (tmp_path / "truth.txt").write_text(" ".join(map(str, tokens)))
    call = replaced([*command("recover", sentences), *gradient_files(sentences, 3)[-2:]], tokenizer=None)
    truth = ("--truth", tmp_path / "truth.txt")
    call = replaced(
        call, tokens="any", steps=150, candidates=800, start="span", distance="sapag", layers="modules"
    )
    done = run(*call, *truth, "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    (entry,) = results(tmp_path / "o")["recoveries"]
    assert entry["tokens"] == tokens
    assert entry["recovered"] is True
    assert "text" not in entry
    assert entry["recipe"]["name"] == "text-no-bag"


def _tokens(folder, sentence):
    from sapag_fast.text import load_tokenizer

    return load_tokenizer(folder / "tokenizer.json").encode(sentence).ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--input-shape", "1x8x8"), "--input-shape: does not go with --text"),
        (("--tv", 0.1), "--tv: does not go with --text"),
        (("--batch-size", 2), "--batch-size: does not go with --text"),
        (
            ("--loss", "bce"),
            "--loss: expected none, or --loss cross-entropy, with --text, found bce",
        ),
        (("--loss", "mse"), "sapag_fast.recover_text takes other losses as loss_fn="),
        (
            ("--label-smoothing", 0.1),
            "--label-smoothing: expected none, or --loss cross-entropy",
        ),
        (("--class-weights", "1,2"), "--class-weights: expected none"),
        (("--loss", "cross-entropy", "--pos-weight", 2), "--pos-weight: expected none"),
        (("--labels", "joint"), "--labels: with --text expected 'infer' or true labels, found 'joint'"),
        (("--labels", "0,1,0"), "--labels: expected one number, or one for each of 2 victims, found 3"),
        (("--length", "3,4,5"), "--length: expected one number, or one for each of 2 victims, found 3"),
        (("--length", 99), "length: the model takes at most 12 tokens, found 99"),
        (("--tokens", "some"), "--tokens"),
        (("--start", "there"), "--start"),
        (("--recipe", "smooth"), "recipe must be one of text, text-no-bag"),
        (("--distance", "l3"), "distance must be one of sapag"),
        (("--embedding", "fc"), "(the model has word, position), found 'fc': Linear"),
        (("--embedding", "words"), "found 'words': no such module"),
        (("--truth", "missing.txt"), "true sentences missing.txt: does not exist"),
        (("--tokenizer", "missing.json"), "tokenizer missing.json: does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(sentences, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    done = run(*command("recover", sentences), *gradient_files(sentences, 2), *options, "--output", "o")
    assert done.exit_code == 2, done.output
    assert message in flat(done.stderr)
    assert names_in(tmp_path) == []


def test_options_of_sentences_need_text(sentences, tmp_path):
    call = ["recover", "--model", "n.py:make", *gradient_files(sentences, 1), "--output", tmp_path / "o"]
    for option in (("--tokenizer", "t.json"), ("--length", 3), ("--tokens", "bag"), ("--candidates", 5)):
        done = run(*call, *option)
        assert done.exit_code == 2
        assert f"{option[0]}: is for sentences: give --text" in flat(done.stderr)


def test_truth_and_tokenizers_that_do_not_fit(sentences, tmp_path):
    call = [*command("recover", sentences), *gradient_files(sentences, 2), "--output", tmp_path / "o"]
    (tmp_path / "short.txt").write_text("the cat\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\n")
    (tmp_path / "words.txt").write_text("1 2\none two\n")
    (tmp_path / "bad.json").write_text("{}")
    for options, message in (
        ({"truth": tmp_path / "short.txt"}, "--truth: expected 2 sentences, one a line, found 1"),
        ({"truth": tmp_path / "bytes.txt"}, "bytes.txt: not UTF-8"),
        ({"truth": tmp_path / "words.txt", "tokenizer": None}, "words.txt, line 2: expected tokens such as"),
        ({"tokenizer": tmp_path / "bad.json"}, "bad.json: expected a tokenizer's JSON file"),
    ):
        done = run(*replaced(call, **options))
        assert done.exit_code == 2, done.output
        assert message in flat(done.stderr)
    assert not (tmp_path / "o").exists()


def test_ctrl_c_keeps_what_is_finished(sentences, tmp_path, monkeypatch):
    searched, search = [], Group.search

    def stopped(group, restart):
        searched.append(1)
        if len(searched) == 2:
            raise KeyboardInterrupt
        return search(group, restart)

    monkeypatch.setattr(Group, "search", stopped)
    files = gradient_files(sentences, 3)
    done = run(*command("recover", sentences), *files, "--exact", "off", "--output", tmp_path / "o")
    assert done.exit_code == 130, done.output
    content = results(tmp_path / "o")
    assert content["status"] == "interrupted"
    assert [entry["name"] for entry in content["recoveries"]] == ["s0"]
