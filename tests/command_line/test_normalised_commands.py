"""--mean, --std and --bounds: what capture records, and what recover and audit make of it."""

import json

import pytest
import torch
from command_calls import NETS, flat, results, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MNIST = ("--mean", 0.1307, "--std", 0.3081)


def metadata_of(path):
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()


@pytest.fixture(scope="module")
def client(made, tmp_path_factory):
    """What a client shares that normalises its pictures, in a file that says so and in one that does not."""
    folder = tmp_path_factory.mktemp("client")
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", "--input-shape", "1x8x8")
    images = ("--images", made / "0.png", "--images", made / "1.png")
    for name, rest in (("one", images[:2]), ("many", (*images, "--batch-size", 1, "--with-labels"))):
        path = folder / f"{name}.safetensors"
        done = run("capture", *model, *rest, *MNIST, "--gradient", path)
        assert done.exit_code == 0, done.output
    silent = {k: v for k, v in metadata_of(folder / "one.safetensors").items() if k not in ("mean", "std")}
    save_file(load_file(folder / "one.safetensors"), folder / "silent.safetensors", silent)
    return folder


def recover(made, gradient, *rest):
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", "--gradient", gradient)
    return run("recover", *model, "--truth", made / "0.png", "--steps", 120, "--restarts", 1, *rest)


def test_the_file_says_it_and_recover_takes_it(made, client, tmp_path):
    told = metadata_of(client / "one.safetensors")
    assert (told["mean"], told["std"]) == ("0.1307", "0.3081")
    plain, normalised = load_file(made / "g0.safetensors"), load_file(client / "one.safetensors")
    assert not torch.equal(plain["0.weight"], normalised["0.weight"])
    done = recover(made, client / "one.safetensors", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    (found,) = results(tmp_path / "o")["recoveries"]
    assert found["images"][0]["psnr"] > 25
    assert (found["mean"], found["std"], found["warnings"]) == (0.1307, 0.3081, [])
    assert "warning" not in done.stderr


def test_options_say_it_where_the_file_does_not(made, client, tmp_path):
    blind = recover(made, client / "silent.safetensors", "--output", tmp_path / "blind")
    assert blind.exit_code == 0, blind.output
    (found,) = results(tmp_path / "blind")["recoveries"]
    assert found["images"][0]["psnr"] < 20
    assert [(caution["kind"], caution["module"]) for caution in found["warnings"]] == [("box", "")]
    assert "warning: silent:" in flat(blind.stderr)
    assert "give mean and std" in flat(blind.stderr)
    told = recover(made, client / "silent.safetensors", *MNIST, "--output", tmp_path / "told")
    (found,) = results(tmp_path / "told")["recoveries"]
    assert found["images"][0]["psnr"] > 25
    assert "warning" not in told.stderr


def test_options_come_before_the_file_and_say_so(made, client, tmp_path):
    other = ("--mean", 0.2, "--std", 0.5)
    done = recover(made, client / "one.safetensors", *other, "--output", tmp_path / "o")
    words = "--mean, --std: taken in place of what gradient files say, such as 0.1307 and 0.3081"
    assert f"warning: {words}" in flat(done.stderr)
    assert results(tmp_path / "o")["recoveries"][0]["mean"] == 0.2


def test_bounds_are_those_of_what_is_searched(made, client, tmp_path):
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors")
    arguments = (
        "recover",
        *model,
        "--gradient",
        client / "silent.safetensors",
        "--steps",
        120,
        "--restarts",
        1,
    )
    done = run(*arguments, "--bounds=-0.4242:2.8215", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    found = load_file(tmp_path / "o" / "recovered.safetensors")["silent"]
    assert found.min() > -0.6
    assert found.max() > 1.5
    assert "pictures and scores are of values in 0..1" in flat(done.stderr)
    assert "past the bounds" not in done.stderr
    free = run(*arguments, "--bounds", "none", "--output", tmp_path / "free")
    assert free.exit_code == 0, free.output
    assert results(tmp_path / "free")["settings"]["bounds"] is None


def audit(made, gradients, *rest):
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", "--gradients", gradients)
    return run("audit", *model, "--steps", 120, "--restarts", 1, "--device", "cpu", *rest)


def details_of(path):
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()["sapag_fast"])


def test_an_audit_takes_what_each_file_says(made, client, tmp_path):
    folder = tmp_path / "gradients"
    folder.mkdir()
    for name, source in (("0", client / "one.safetensors"), ("1", made / "g1.safetensors")):
        (folder / f"{name}.safetensors").write_bytes(source.read_bytes())
    truth = ("--truth", made / "0.png", "--truth", made / "1.png")
    done = audit(made, folder, *truth, "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["recovered"] == 2
    plain = "1x8x8, 1 image(s)"
    assert set(summary["recipes"]) == {plain, f"{plain}, mean 0.1307, std 0.3081"}
    again = audit(made, folder, *truth, *MNIST, "--output", tmp_path / "o")
    assert again.exit_code == 2
    assert "settings mean was None, is 0.1307" in flat(again.stderr)


def test_an_audits_results_hold_the_warnings(made, client, tmp_path):
    assert audit(made, client / "silent.safetensors", "--output", tmp_path / "o").exit_code == 0
    details = details_of(tmp_path / "o" / "results" / "silent.safetensors")
    assert [caution["kind"] for caution in details["warnings"]] == ["box"]
    many = audit(made, client / "many.safetensors", "--output", tmp_path / "many")
    assert many.exit_code == 0, many.output
    for path in (tmp_path / "many" / "results").iterdir():
        assert details_of(path)["warnings"] == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"mean": "grey", "std": "1"}, "its mean: expected numbers such as 0.1307, found 'grey'"),
        ({"mean": "0.1"}, "its std: expected numbers such as 0.1307, found ''"),
        ({"mean": "0.1", "std": "inf"}, "its std: expected numbers such as 0.1307, found 'inf'"),
        ({"mean": "0.1", "std": "0"}, "std must be positive and finite, found 0.0"),
        ({"mean": "7", "std": "1"}, "mean must lie in the pictures' bounds 0..1"),
        ({"mean": "0.1,0.2", "std": "1"}, "mean must be one number, or one for each of the 1 channels"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(made, client, tmp_path, entries, message):
    told = metadata_of(client / "silent.safetensors") | entries
    save_file(load_file(client / "silent.safetensors"), tmp_path / "g.safetensors", told)
    refused = recover(made, tmp_path / "g.safetensors", "--output", tmp_path / "o")
    assert refused.exit_code == 2
    assert message in flat(refused.stderr)
    assert not (tmp_path / "o").exists()
    skipped = audit(made, tmp_path / "g.safetensors", "--output", tmp_path / "a")
    assert skipped.exit_code in (2, 3)
    assert message in flat(skipped.stderr)
