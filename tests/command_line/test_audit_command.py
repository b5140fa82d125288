"""``sapag-fast audit`` where all goes well, and what it refuses."""

import csv
import fcntl
import json
import shutil

import pytest
import torch
from command_calls import NETS, files_of, flat, names_in, replaced, run, swapped
from safetensors import safe_open
from safetensors.torch import load_file, save_file

QUICK = ("--steps", 40, "--restarts", 2, "--device", "cpu")


def audit(many, gradients="folder", **options):
    model = ("--model", f"{NETS}:make", "--weights", many / "w.safetensors")
    arguments = ["audit", *model, "--gradients", many / gradients, *QUICK]
    return replaced(arguments, **options)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def details(path):
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()["sapag_fast"])


def table(folder):
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copied(many, tmp_path):
    return shutil.copytree(many, tmp_path / "many")


def test_folder_and_stacked_file_give_the_same(many, tmp_path):
    for name in ("folder", "stacked.safetensors"):
        out = tmp_path / name
        done = run(*audit(many, name, steps=200), "--truth", many / "truth", "--output", out)
        assert done.exit_code == 0, done.output
        assert "6/6 victims" in done.stdout
    results = files_of(tmp_path / "folder" / "results")
    assert sorted(results) == [f"digit{position}.safetensors" for position in range(6)]
    assert results == files_of(tmp_path / "stacked.safetensors" / "results")
    content = summary(tmp_path / "folder")
    assert content["finished"] == content["victims"] == content["recovered"] == 6
    assert content["labels_right"] == 1
    low, high = content["success_95"]
    assert low == pytest.approx(0.6097, abs=1e-3)  # Wilson's interval of 6 in 6
    assert high == 1
    assert content["psnr"]["q50"] > 25
    assert content["recoveries_per_minute"] == pytest.approx(2 * content["victims_per_minute"])
    assert content["peak_memory_bytes"] > 1e6
    assert not (tmp_path / "folder" / "checkpoint.safetensors").exists()


def test_result_holds_what_was_found(many, tmp_path):
    assert run(*audit(many), "--seed", 3, "--output", tmp_path / "o").exit_code == 0
    path = tmp_path / "o" / "results" / "digit2.safetensors"
    tensors, found = load_file(path), details(path)
    assert tensors["inputs"].shape == (1, 1, 8, 8)
    assert tensors["labels"].tolist() == [2]
    assert tensors["history"].shape == (40,)
    assert (tensors["history"] - found["distance"]).abs().min() < 1e-6 * found["distance"]
    assert (found["name"], found["seed"], found["restarts"]) == ("digit2", 3, 2)
    assert found["evaluations"] == 80
    assert found["status"] == "finished"
    assert found["recipe"]["steps"] == 40
    lines = table(tmp_path / "o")
    assert [line["name"] for line in lines] == [f"digit{position}" for position in range(6)]
    assert float(lines[2]["distance"]) == pytest.approx(found["distance"])
    assert lines[2]["psnr"] == ""


def test_batches_and_known_labels_and_truth_by_name(many, tmp_path):
    arguments = audit(many, "pairs.safetensors", labels="known")
    done = run(*arguments, "--truth", many / "truth", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert sorted(files_of(tmp_path / "o" / "results")) == [
        "digit0+digit1.safetensors",
        "digit2+digit3.safetensors",
        "digit4+digit5.safetensors",
    ]
    assert [line["labels"] for line in table(tmp_path / "o")] == ["0 1", "2 3", "4 5"]
    assert "psnr" in summary(tmp_path / "o")


def test_truth_in_order_where_names_do_not_fit(many, copied, tmp_path):
    for position in range(6):
        image = copied / "truth" / f"digit{position}.png"
        image.rename(copied / "truth" / f"{position}.png")
    by_name = run(*audit(many), "--truth", many / "truth", "--output", tmp_path / "n")
    in_order = run(*audit(many), "--truth", copied / "truth", "--output", tmp_path / "o")
    assert by_name.exit_code == in_order.exit_code == 0
    assert summary(tmp_path / "n")["psnr"] == summary(tmp_path / "o")["psnr"]
    (copied / "truth" / "0.png").unlink()
    refused = run(*audit(many), "--truth", copied / "truth", "--output", tmp_path / "p")
    assert refused.exit_code == 2
    assert "5 images" in flat(refused.stderr)
    assert not (tmp_path / "p").exists()


def test_solved_victims_take_no_further_restart(many, tmp_path):
    quick = audit(many, restarts=3, stop_distance=10.0, at_once=6)
    assert run(*quick, "--output", tmp_path / "o").exit_code == 0
    assert all(int(line["evaluations"]) < 3 * 40 for line in table(tmp_path / "o"))


def test_bad_victims_are_skipped_and_the_rest_goes_on(many, copied, tmp_path):
    folder = copied / "folder"
    good = load_file(folder / "digit0.safetensors")
    described = {"input_shape": "1x8x8"}
    (folder / "damaged.safetensors").write_bytes(b"\x10")
    (folder / "pickle.pt").write_bytes(b"cos\nsystem\n")
    torch.save(good, folder / "shapeless.pt")
    save_file(good, folder / "misshapen.safetensors", {"input_shape": "1x9x9"})
    save_file({**good, "5.bias": torch.zeros(9)}, folder / "unfit.safetensors", described)
    save_file({**good, "5.bias": torch.full((10,), torch.inf)}, folder / "infinite.safetensors", described)
    save_file({**good, "5.bias": torch.ones(10)}, folder / "unlabelled.safetensors", described)
    reasons = {
        "damaged": "damaged",
        "pickle": "input shape",
        "shapeless": "does not say the input shape",
        "misshapen": "the model rejects",
        "unfit": "5.bias is 9, the model's 10",
        "infinite": "5.bias is not finite",
        "unlabelled": "labels cannot be inferred",
    }
    out = tmp_path / "o"
    for _ in range(2):  # the second time nothing is left to be done
        done = run(*audit(copied), "--output", out)
        assert done.exit_code == 3, done.output
        assert "7 victims were skipped" in flat(done.stderr)
        results = files_of(out / "results")
        assert len(results) == 6
    skipped = summary(out)["skipped"]
    assert skipped.keys() == reasons.keys()
    assert all(reasons[name] in skipped[name] for name in reasons)
    lines = {line["name"]: line for line in table(out)}
    assert lines["unfit"]["status"] == "skipped"
    assert "5.bias" in lines["unfit"]["reason"]
    assert "infinite" in (out / "summary.html").read_text()


def test_given_input_shape_serves_files_that_do_not_say_it(many, copied, tmp_path):
    for file in (copied / "folder").iterdir():
        torch.save(load_file(file), file.with_suffix(".pt"))
        file.unlink()
    assert run(*audit(copied, input_shape="1x8x8"), "--output", tmp_path / "o").exit_code == 0
    assert len(files_of(tmp_path / "o" / "results")) == 6
    unknown = run(*audit(copied, input_shape="1x8x8", labels="known"), "--output", tmp_path / "p")
    assert unknown.exit_code == 3
    assert "does not give the labels" in flat(unknown.stderr)


def test_hostile_names_stay_in_the_folder_and_in_the_text(many, tmp_path):
    with safe_open(many / "stacked.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
    names = ["../x", "<script>alert(1)</script>", "/etc/y", "..", "[red]=1+1\n\x1b[31m", "é" * 200]
    save_file(
        load_file(many / "stacked.safetensors"),
        tmp_path / "g.safetensors",
        {**metadata, "victims": json.dumps(names)},
    )
    inside = tmp_path / "deep" / "o"
    arguments = replaced(audit(many), gradients=tmp_path / "g.safetensors", output=inside)
    done = run(*arguments, "--truth", many / "truth")
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path)[0:2] == ["deep", "deep/o"]
    assert not (tmp_path / "deep" / "x.safetensors").exists()
    results = list((inside / "results").iterdir())
    assert len(results) == 6
    assert {details(path)["name"] for path in results} == set(names)
    assert [line["name"] for line in table(inside)] == [*names[:4], r"[red]=1+1\n\x1b[31m", names[5]]
    page = (inside / "summary.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # our own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not any(word in page for word in ("http:", "https:", "//cdn", 'src="/', "<link", "@import"))


def test_same_command_again_changes_no_result(many, tmp_path):
    assert run(*audit(many), "--output", tmp_path / "o").exit_code == 0
    before = files_of(tmp_path / "o" / "results")
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "o" / "results").iterdir())]
    assert run(*audit(many), "--output", tmp_path / "o").exit_code == 0
    assert files_of(tmp_path / "o" / "results") == before
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "o" / "results").iterdir())] == stamps
    assert summary(tmp_path / "o")["sessions"] == 2


def test_lost_and_damaged_results_are_searched_again(many, tmp_path):
    assert run(*audit(many), "--output", tmp_path / "o").exit_code == 0
    before = files_of(tmp_path / "o" / "results")
    (tmp_path / "o" / "results" / "digit1.safetensors").unlink()
    (tmp_path / "o" / "results" / "digit4.safetensors").write_bytes(b"half")
    flipped = before["digit5.safetensors"][:-7] + b"\x40" + before["digit5.safetensors"][-6:]
    (tmp_path / "o" / "results" / "digit5.safetensors").write_bytes(flipped)
    done = run(*audit(many), "--output", tmp_path / "o")
    assert done.exit_code == 0
    said = "does not count, its victim is searched anew"
    assert [f"the result of digit{k} {said}" in flat(done.stderr) for k in range(6)] == [
        *[False] * 4,
        True,
        True,
    ]
    assert files_of(tmp_path / "o" / "results") == before


def test_results_without_a_sha256_are_kept(many, tmp_path):
    out = tmp_path / "o"
    assert run(*audit(many, steps=5), "--output", out).exit_code == 0
    for path in (out / "results").iterdir():
        found = details(path)
        for name in ("sha256", "scale", "source", "source_reason"):  # as they were before these
            del found[name]
        save_file(load_file(path), path, {"sapag_fast": json.dumps(found)})
    before = files_of(out / "results")
    done = run(*audit(many, steps=5), "--output", out)
    assert done.exit_code == 0
    assert "searched anew" not in done.stderr
    assert files_of(out / "results") == before


def other_weights(copied):
    tensors = load_file(copied / "w.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, copied / "w.safetensors")


def missing_victim(copied):
    (copied / "folder" / "digit3.safetensors").unlink()


def other_gradient(copied):
    """A file of the same size, so that only its content tells."""
    swapped(copied / "folder" / "digit3.safetensors", 2.0)


CHANGED = {
    "restarts": (None, {"restarts": 3}, "settings restarts was 2, is 3"),
    "seed": (None, {"seed": 1}, "settings seed was 0, is 1"),
    "weights": (other_weights, {}, "the model's weights differ"),
    "modes": (None, {"model": f"{NETS}:evaluated"}, "the model's modules differ"),
    "victims": (missing_victim, {}, "victims digit3 are missing"),
    "content": (other_gradient, {}, "gradients of digit3"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_an_audit_goes_on_only_as_it_was_begun(copied, tmp_path, case):
    change, options, words = CHANGED[case]
    out = tmp_path / "o"
    assert run(*audit(copied, output=out)).exit_code == 0
    (out / "results" / "digit3.safetensors").unlink()  # something is left to be done
    before = files_of(out / "results")
    if change:
        change(copied)
    refused = run(*audit(copied, output=out, **options))
    assert refused.exit_code == 2, refused.output
    assert words in flat(refused.stderr)
    assert files_of(out / "results") == before
    anew = run(*audit(copied, output=out, **options), "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert len(files_of(out / "results")) == (5 if case == "victims" else 6)


REFUSED = {
    "missing gradients": ({"gradients": "none"}, "does not exist"),
    "distance": ({"distance": "l3"}, "l3"),
    "optimizer": ({"optimizer": "sgd"}, "optimizer must be one of lbfgs, adam, signed-adam, found 'sgd'"),
    "recipe": ({"recipe": "cake"}, "recipe must be one of auto, "),
    "basis": ({"basis": "wavelet"}, "basis must be one of pixel, dct"),
    "layer pairing": ({"layers": "twins"}, "layers must be one of modules, shapes, separate"),
    "labels": ({"labels": "3,7"}, "'3,7' is not one of"),
    "size": ({"max_memory": "plenty"}, "'plenty' is not a size"),
    "truth": ({"truth": "none.png"}, "does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(many, tmp_path, case):
    options, words = REFUSED[case]
    done = run(*audit(many, output=tmp_path / "o", **options))
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert not (tmp_path / "o").exists()


def test_refusal_by_the_search_leaves_nothing_behind(many, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise ValueError("no such luck")

    monkeypatch.setattr("sapag_fast.audit.wave.recover", refuses)
    done = run(*audit(many, output=tmp_path / "o"))
    assert done.exit_code == 2
    assert "no such luck" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("others", [("mine.txt",), ("audit.json", "results/digit0.safetensors")])
def test_folder_of_others_is_left_alone(many, tmp_path, others, overwrite):
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"mine": 1}')
    before = names_in(tmp_path)
    refused = run(*audit(many, output=tmp_path), *overwrite)
    assert refused.exit_code == 2
    assert "no audit's" in flat(refused.stderr)
    assert names_in(tmp_path) == before
    assert all((tmp_path / name).read_text() == '{"mine": 1}' for name in others)


def test_overwriting_removes_what_the_audit_wrote_and_names_the_rest(many, copied, tmp_path):
    out = tmp_path / "o"
    assert run(*audit(many, output=out)).exit_code == 0
    mine = [out / "mine.txt", out / "results" / "digit9.safetensors", out / "results" / ".digit0.part"]
    for path in mine:
        path.write_text("mine")
    (out / "results" / "digit1.safetensors").write_bytes(b"half")
    (out / ".audit.json.abcdefgh.part").write_text("half")
    (copied / "folder" / "digit0.safetensors").unlink()
    anew = run(*audit(copied, output=out), "--overwrite")
    assert anew.exit_code == 0, anew.output
    assert all(path.read_text() == "mine" for path in mine)
    assert all(str(path.relative_to(out)) in flat(anew.stderr) for path in mine)
    assert "digit1" not in anew.stderr
    found = set(names_in(out / "results")) - {path.name for path in mine}
    assert found == {f"digit{position}.safetensors" for position in range(1, 6)}
    assert not (out / ".audit.json.abcdefgh.part").exists()


def test_a_stranger_s_file_is_no_result_to_be_written_over(many, copied, tmp_path):
    out = tmp_path / "o"
    (copied / "folder" / "digit0.safetensors").unlink()
    assert run(*audit(copied, output=out)).exit_code == 0
    (out / "results" / "digit0.safetensors").write_text("mine")
    refused = run(*audit(many, output=out), "--overwrite")
    assert refused.exit_code == 2
    assert "digit0.safetensors: no audit's" in flat(refused.stderr)
    assert (out / "results" / "digit0.safetensors").read_text() == "mine"
    assert (out / "results" / "digit1.safetensors").exists()


@pytest.mark.parametrize("begun", [False, True])
def test_a_lock_that_leads_elsewhere_is_refused(many, tmp_path, begun):
    out, mine = tmp_path / "o", tmp_path / "mine.txt"
    out.mkdir()
    if begun:
        assert run(*audit(many, output=out, steps=5)).exit_code == 0
        (out / ".audit.lock").unlink()
    mine.write_text("precious")
    (out / ".audit.lock").symlink_to(mine)
    before = names_in(tmp_path)
    for overwrite in ((), ("--overwrite",)):
        refused = run(*audit(many, output=out, steps=5), *overwrite)
        assert refused.exit_code == 2
        assert ".audit.lock: is a link; expected a regular file" in flat(refused.stderr)
    assert mine.read_text() == "precious"
    assert names_in(tmp_path) == before


@pytest.mark.parametrize("name", [".audit.lock", ".audit-notes", ".audit.json.abcdefgh.part/x", ".audits/x"])
def test_entries_of_others_that_are_called_alike(many, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    refused = run(*audit(many, output=tmp_path, steps=5), "--overwrite")
    assert refused.exit_code == 2
    assert "holds files that are no audit's" in flat(refused.stderr)
    assert path.read_text() == "mine"


def test_what_an_audit_leaves_that_was_killed_before_it_began_is_no_obstacle(many, tmp_path):
    (tmp_path / ".audit.lock").touch()
    (tmp_path / ".audit.json.abcdefgh.part").write_text("half")
    assert run(*audit(many, output=tmp_path, steps=5)).exit_code == 0
    assert not (tmp_path / ".audit.json.abcdefgh.part").exists()


def test_two_audits_in_one_folder(many, tmp_path):
    assert run(*audit(many, output=tmp_path / "o")).exit_code == 0
    with (tmp_path / "o" / ".audit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run(*audit(many, output=tmp_path / "o"))
    assert refused.exit_code == 2
    assert "another audit is at work" in flat(refused.stderr)


def test_capture_of_many_refuses_what_does_not_fit(many, tmp_path):
    arguments = ["capture", "--model", f"{NETS}:make", "--images", many / "truth", "--input-shape", "1x8x8"]
    odd = run(*arguments, "--batch-size", 4, "--gradient", tmp_path / "g.safetensors")
    assert odd.exit_code == 2
    assert "6 images do not fill whole batches" in flat(odd.stderr)
    few = run(*arguments, "--batch-size", 2, "--labels", "1,2", "--gradient", tmp_path / "g")
    assert few.exit_code == 2
    assert "labels: expected 6, one for each image, found 2" in flat(few.stderr)
    full = run(*arguments, "--batch-size", 2, "--gradient", many / "folder")
    assert full.exit_code == 2
    assert "holds files already" in flat(full.stderr)
    assert names_in(tmp_path) == []
