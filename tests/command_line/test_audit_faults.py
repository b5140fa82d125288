"""``sapag-fast audit`` where a file, a truth or the audit's own folder is damaged: nothing is lost for it."""

import json
import os
import random
import shutil
import warnings

import pytest
import torch
from command_calls import NETS, files_of, flat, replaced, run, swapped
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sapag_fast.audit import wave as audit_wave
from sapag_fast.command_line import audit as command_audit
from sapag_fast.files.victims import file_state

QUICK = ("--steps", 20, "--restarts", 1, "--device", "cpu")


def audit(many, gradients="folder", **options):
    model = ("--model", f"{NETS}:make", "--weights", many / "w.safetensors")
    arguments = ["audit", *model, "--gradients", many / gradients, *QUICK]
    return replaced(arguments, **options)


def ends(status, *arguments):
    done = run(*arguments)
    assert done.exit_code == status, done.output
    return done


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def copied(many, tmp_path):
    return shutil.copytree(many, tmp_path / "many")


@pytest.fixture(scope="module")
def alone(many, tmp_path_factory):
    """Results of an audit that nothing befell."""
    out = tmp_path_factory.mktemp("alone") / "o"
    ends(0, *audit(many, output=out))
    return files_of(out / "results")


def flipped(content, seed):
    drawn = random.Random(seed)
    content = bytearray(content)
    for _ in range(drawn.randint(1, 40)):
        content[drawn.randrange(len(content))] = drawn.randrange(256)
    return bytes(content)


def odd_tensors(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of prototypes and of what it will drop
        return {
            "sparse": tensor.to_sparse(),
            "meta": tensor.to("meta"),
            "nested": torch.nested.nested_tensor([tensor, tensor]),
            "quantized": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        }


def test_whatever_a_file_raises_skips_its_victim_alone(copied, tmp_path):
    folder = copied / "folder"
    good = load_file(folder / "digit0.safetensors")
    described = {"input_shape": "1x8x8", "batch_size": "1"}
    torch.save(good, tmp_path / "good.pt")
    content = (tmp_path / "good.pt").read_bytes()
    for seed in range(20):
        (folder / f"flipped{seed}.pt").write_bytes(flipped(content, seed))
        (folder / f"random{seed}.pt").write_bytes(random.Random(seed).randbytes(400))
    skipped = {f"random{seed}" for seed in range(20)}
    first = next(iter(good))
    for name, tensor in odd_tensors(good[first]).items():
        torch.save({**good, first: tensor}, folder / f"{name}.pt")
        skipped.add(name)
    for name, metadata in {
        "deep": {**described, "withheld": "[" * 100_000},
        "far_labels": {**described, "labels": str(2**70)},
    }.items():
        save_file(good, folder / f"{name}.safetensors", metadata)
        skipped.add(name)
    with open(os.fsencode(folder) + b"/\xff\xfe.safetensors", "wb") as file:
        file.write(b"\x10")
    out = tmp_path / "o"
    ends(3, *audit(copied, labels="known", input_shape="1x8x8", output=out))
    content = summary(out)
    assert content["status"] == "finished"
    assert content["skipped"].keys() >= skipped | {"\\udcff\\udcfe"}
    assert all(content["skipped"].values())
    assert all(f"digit{position}.safetensors" in files_of(out / "results") for position in range(6))
    assert "\\udcff\\udcfe" in (out / "summary.html").read_text(encoding="utf-8")


def test_other_victims_keep_their_bits(copied, tmp_path, alone):
    (copied / "folder" / "digit6.pt").write_bytes(b"\x80\x02.")
    ends(3, *audit(copied, output=tmp_path / "o"))
    assert files_of(tmp_path / "o" / "results") == alone


def test_errors_that_nobody_foresaw(many, tmp_path, monkeypatch):
    errors = {
        "digit0": IndexError("list index"),
        "digit2": MemoryError(),
        "digit3": RecursionError("deep"),
        "digit5": OSError(5, "I/O"),
    }
    whole = audit_wave.WaveSearch._whole_gradient

    def raises(self, victim):
        if victim.name in errors:
            raise errors[victim.name]
        return whole(self, victim)

    monkeypatch.setattr(audit_wave.WaveSearch, "_whole_gradient", raises)
    ends(3, *audit(many, output=tmp_path / "o"))
    skipped = summary(tmp_path / "o")["skipped"]
    assert {name: reason.partition(":")[0] for name, reason in skipped.items()} == {
        name: type(error).__name__ for name, error in errors.items()
    }
    assert summary(tmp_path / "o")["finished"] == 2


def failing_for(monkeypatch, names, error):
    """The search fails for every wave that holds one of the victims."""
    recover, read = audit_wave.recover, audit_wave.WaveSearch.read
    under_way = []

    def noted(self, wave):
        under_way[:] = [victim.name for victim in wave.victims]
        return read(self, wave)

    def search(*arguments, **options):
        if names & set(under_way):
            raise error
        return recover(*arguments, **options)

    monkeypatch.setattr(audit_wave.WaveSearch, "read", noted)
    monkeypatch.setattr(audit_wave, "recover", search)


@pytest.mark.parametrize("error", [RuntimeError("repeats can not be negative"), ValueError("no labels")])
def test_search_that_one_victim_ends_goes_on_without_it(many, tmp_path, monkeypatch, alone, error):
    out = tmp_path / "o"
    failing_for(monkeypatch, {"digit4"}, error)
    for _ in range(2):
        ends(3, *audit(many, output=out))
        assert summary(out)["finished"] == 5
        assert str(error) in summary(out)["skipped"]["digit4"]
    monkeypatch.undo()
    ends(0, *audit(many, output=out))
    assert files_of(out / "results") == alone


def test_error_that_hits_every_victim_is_said_loudly(many, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPAG_FAST_TRACEBACK", "1")
    failing_for(monkeypatch, {f"digit{position}" for position in range(6)}, RuntimeError("a bug"))
    done = ends(3, *audit(many, output=tmp_path / "o"))
    assert "every victim was skipped, the first one for: RuntimeError: a bug" in flat(done.stderr)
    assert "Traceback" in done.stderr
    assert summary(tmp_path / "o")["skipped_count"] == 6


def test_full_disk_is_no_victims_fault(many, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sapag_fast.files.tensors.replacing", full)
    done = ends(2, *audit(many, output=tmp_path / "o"))
    assert "No space left" in done.stderr
    assert "skipped" not in done.stderr


def test_victim_whose_file_reads_again_is_tried_again(copied, tmp_path, alone):
    out, folder = tmp_path / "o", copied / "folder"
    kept = {name: (folder / name).read_bytes() for name in ("digit1.safetensors", "digit4.safetensors")}
    for name in kept:
        (folder / name).write_bytes(b"gone")
    ends(3, *audit(copied, output=out))
    assert summary(out)["skipped"].keys() == {"digit1", "digit4"}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
        left = {"digit4"} - {name.partition(".")[0]}
        ends(3 if left else 0, *audit(copied, output=out))
        assert summary(out)["skipped"].keys() == left
    assert files_of(out / "results") == alone
    assert json.loads((out / "audit.json").read_text())["skipped"] == {}


def test_passing_error_of_a_whole_folder(many, tmp_path, monkeypatch, alone):
    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sapag_fast.files.victims.read_metadata", gone)
    ends(3, *audit(many, output=tmp_path / "o"))
    monkeypatch.undo()
    ends(0, *audit(many, output=tmp_path / "o"))
    assert files_of(tmp_path / "o" / "results") == alone


def test_finished_victim_whose_file_is_gone_keeps_its_result(copied, tmp_path, alone):
    out = tmp_path / "o"
    ends(0, *audit(copied, output=out))
    path = copied / "folder" / "digit3.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    (out / "results" / "digit0.safetensors").unlink()  # searched again, without digit3 beside it
    ends(0, *audit(copied, output=out))
    assert files_of(out / "results") == alone
    (out / "results" / "digit3.safetensors").unlink()
    ends(3, *audit(copied, output=out))
    assert summary(out)["skipped"].keys() == {"digit3"}


def test_file_of_a_finished_victim_that_holds_another_gradient_is_refused(copied, tmp_path, alone):
    out, path = tmp_path / "o", copied / "folder" / "digit3.safetensors"
    ends(0, *audit(copied, output=out))
    kept = path.read_bytes()
    swapped(path, 2.0)
    done = ends(2, *audit(copied, output=out))
    assert "gradients of digit3: not those with which their results were found" in flat(done.stderr)
    path.write_bytes(kept)  # with another time of its last change, as a copy has
    ends(0, *audit(copied, output=out))
    noted = {v["name"]: v["state"] for v in json.loads((out / "audit.json").read_text())["victims"]}
    assert noted["digit3"] == file_state(path)[1]
    assert files_of(out / "results") == alone


def test_file_that_is_replaced_while_the_audit_runs_is_skipped(copied, tmp_path, monkeypatch, alone):
    """Its labels and shape were read before: they may be another's."""
    path, listed = copied / "folder" / "digit3.safetensors", command_audit.list_victims

    def replacing(*arguments):
        victims = listed(*arguments)
        swapped(path, 1.0)
        return victims

    monkeypatch.setattr(command_audit, "list_victims", replacing)
    done = ends(3, *audit(copied, output=tmp_path / "o"))
    assert "digit3.safetensors: has changed since it was listed" in flat(done.stderr)
    assert "1 victim was skipped" in flat(done.stderr)
    monkeypatch.undo()
    ends(0, *audit(copied, output=tmp_path / "o"))
    assert files_of(tmp_path / "o" / "results") == alone


def change_places(folder, *names):
    """Two files take each other's name; both keep what is in them, and its time."""
    first, second = (folder / f"{name}.safetensors" for name in names)
    first.rename(folder / "between")
    second.rename(first)
    (folder / "between").rename(second)


def without_labels(copied):
    """Files that differ in the gradient alone, written at one time."""
    for path in sorted((copied / "folder").iterdir()):
        save_file(load_file(path), path, {"input_shape": "1x8x8", "batch_size": "1"})
        os.utime(path, ns=(10**18, 10**18))


def test_files_that_have_changed_places_are_refused(copied, tmp_path):
    without_labels(copied)
    out = tmp_path / "o"
    ends(0, *audit(copied, output=out))
    before = files_of(out / "results")
    change_places(copied / "folder", "digit2", "digit3")
    done = ends(2, *audit(copied, output=out))
    assert "gradients of digit2, digit3: not those with which their results were found" in flat(done.stderr)
    change_places(copied / "folder", "digit2", "digit3")
    ends(0, *audit(copied, output=out))
    assert files_of(out / "results") == before


def test_files_that_change_places_while_the_audit_runs_are_skipped(copied, tmp_path, monkeypatch):
    without_labels(copied)
    listed = command_audit.list_victims

    def changing(*arguments):
        victims = listed(*arguments)
        change_places(copied / "folder", "digit2", "digit3")
        return victims

    monkeypatch.setattr(command_audit, "list_victims", changing)
    ends(3, *audit(copied, output=tmp_path / "o"))
    skipped = summary(tmp_path / "o")["skipped"]
    assert skipped.keys() == {"digit2", "digit3"}
    assert all("has changed since it was listed" in reason for reason in skipped.values())


def described(path, **changes):
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(path), path, metadata | changes)


@pytest.mark.parametrize("changes", [{"labels": "7"}, {"input_shape": "1x4x16"}])
def test_other_metadata_of_a_finished_victim_is_refused(copied, tmp_path, changes):
    out, path = tmp_path / "o", copied / "folder" / "digit2.safetensors"
    ends(0, *audit(copied, output=out, labels="known"))
    kept = path.read_bytes()
    described(path, **changes)
    done = ends(2, *audit(copied, output=out, labels="known"))
    assert "labels in the gradient files of victims digit2 have changed" in flat(done.stderr)
    path.write_bytes(kept)
    ends(0, *audit(copied, output=out, labels="known"))
    described(path, batch_size="0")  # tells nothing: the result is kept, and that is said
    done = ends(0, *audit(copied, output=out, labels="known"))
    assert "kept the result of digit2, whose file has changed and cannot be read" in flat(done.stderr)


@pytest.mark.parametrize("damage", ["empty", "missing", "folder"])
def test_truth_that_is_lost_takes_the_scores_of_its_victims_alone(copied, tmp_path, damage):
    out, truth = tmp_path / "o", copied / "truth"
    if damage == "empty":
        (truth / "digit3.png").write_bytes(b"")
    elif damage == "missing":
        (truth / "digit3.png").unlink()
    arguments = (*audit(copied, output=out), "--truth", truth)
    done = ends(0, *arguments)
    if damage == "folder":
        shutil.rmtree(truth)
        done = ends(0, *arguments)
    content = summary(out)
    assert content["finished"] == 6
    lost = {f"digit{position}" for position in range(6)} if damage == "folder" else {"digit3"}
    assert content["unscored"].keys() == lost
    assert content.get("scored", 0) == 6 - len(lost)
    assert f"not scored {min(lost)}: " in flat(done.stderr)
    assert ("every victim was left unscored" in flat(done.stderr)) == (damage == "folder")


def test_emptied_sessions_and_checkpoint_cost_time_alone(many, tmp_path, alone):
    out = tmp_path / "o"
    ends(0, *audit(many, output=out))
    (out / "results" / "digit3.safetensors").unlink()
    for name in ("sessions.json", "checkpoint.safetensors"):
        (out / name).write_bytes(b"")
    done = ends(0, *audit(many, output=out))
    assert "the time and memory of earlier sessions are lost" in flat(done.stderr)
    assert "checkpoint.safetensors: damaged" in flat(done.stderr)
    assert summary(out)["sessions"] == 1
    assert files_of(out / "results") == alone
    assert not (out / "checkpoint.safetensors").exists()


def test_checkpoint_of_another_wave_is_left_behind(many, tmp_path, alone):
    out = tmp_path / "o"
    ends(0, *audit(many, output=out))
    (out / "results" / "digit3.safetensors").unlink()
    for _ in range(2):  # the second time nothing is left to be done
        save_file({"a": torch.zeros(1)}, out / "checkpoint.safetensors", {"belongs_to": "another"})
        ends(0, *audit(many, output=out))
        assert files_of(out / "results") == alone
        assert not (out / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("content", ["", '{"victims": [{"name": 3}]}'])
def test_damaged_manifest_is_refused_and_written_over(many, tmp_path, alone, content):
    out = tmp_path / "o"
    ends(0, *audit(many, output=out))
    (out / "audit.json").write_text(content)
    assert "what this audit was begun with is lost" in flat(ends(2, *audit(many, output=out)).stderr)
    assert files_of(out / "results") == alone
    ends(0, *audit(many, output=out), "--overwrite")
    assert files_of(out / "results") == alone


def test_a_folder_in_a_results_place_is_named_before_anything_is_searched(many, tmp_path, alone):
    out = tmp_path / "o"
    ends(0, *audit(many, output=out))
    (out / "results" / "digit3.safetensors").unlink()
    (out / "results" / "digit3.safetensors").mkdir()
    (out / "results" / "digit4.safetensors").unlink()
    said = ends(2, *audit(many, output=out)).stderr
    assert "digit3.safetensors: expected a result, found a folder" in flat(said)
    assert not (out / "results" / "digit4.safetensors").exists()
    (out / "results" / "digit3.safetensors").rmdir()
    ends(0, *audit(many, output=out))
    assert files_of(out / "results") == alone


def test_a_true_image_that_is_a_link_to_itself_takes_the_score_of_its_victim_alone(copied, tmp_path):
    out, truth = tmp_path / "o", copied / "truth"
    (truth / "digit3.png").unlink()
    (truth / "digit3.png").symlink_to("digit3.png")
    done = ends(0, *audit(copied, output=out), "--truth", truth)
    assert "digit3" in flat(done.stderr)
    assert summary(out)["unscored"].keys() == {"digit3"}
    assert summary(out)["scored"] == 5
