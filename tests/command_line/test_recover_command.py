"""The command line where all goes well: round trips, options, the demo."""

import torch
from command_calls import NETS, QUICK, names_in, results, run, victim
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import sapag_fast


def test_gradient_file_says_what_is_public_and_no_labels(made):
    with safe_open(made / "g0.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
        assert sorted(opened.keys()) == sorted(load_file(made / "w.safetensors"))
    assert metadata["batch_size"] == "1"
    assert metadata["input_shape"] == "1x8x8"
    assert metadata["loss"] == "cross_entropy"
    assert "labels" not in metadata
    with safe_open(made / "both.safetensors", framework="pt") as opened:
        assert opened.metadata()["labels"] == "0,1"
        assert opened.metadata()["batch_size"] == "2"


def test_round_trip_recovers_the_image(made, tmp_path):
    done = run(*victim(made), "--steps", 200, "--truth", made / "0.png", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert names_in(tmp_path / "out") == ["g0.png", "grid.png", "recovered.safetensors", "results.json"]
    content = results(tmp_path / "out")
    (recovery,) = content["recoveries"]
    assert content["status"] == "finished"
    assert content["settings"]["restarts"] == 4
    assert content["versions"]["sapag_fast"] == sapag_fast.__version__
    assert recovery["status"] == "finished"
    assert recovery["images"][0]["label"] == 0
    assert recovery["recovered"] is True
    assert recovery["recipe"]["steps"] == 200
    assert "PSNR" in done.stdout
    assert "warning" not in done.stderr


def test_batch_with_given_options(made, tmp_path):
    options = (
        "--labels",
        "0,1",
        "--distance",
        "l2",
        "--optimizer",
        "adam",
        "--basis",
        "dct",
        "--tv",
        0,
        "--box",
        0.5,
        "--scale",
        2.5,
    )
    done = run(
        *victim(made, "both.safetensors"),
        *QUICK,
        *options,
        "--truth",
        made,
        "--output",
        tmp_path / "o",
        "--recipe",
        "smooth",
    )
    assert done.exit_code == 0, done.output
    recovery = results(tmp_path / "o")["recoveries"][0]
    assert [image["label"] for image in recovery["images"]] == [0, 1]
    assert [image["true_label"] for image in recovery["images"]] == [0, 1]
    assert sorted(image["truth"] for image in recovery["images"]) == [0, 1]
    recipe = recovery["recipe"]
    assert (recipe["distance"], recipe["optimizer"], recipe["basis"]) == ("l2", "adam", "dct")
    assert (recipe["tv"], recipe["box"], recipe["steps"]) == (0, 0.5, 60)
    assert recipe["scale"] == recovery["scale"] == 2.5


def test_several_victims_and_joint_labels(made, tmp_path):
    second = ("--gradient", made / "g1.safetensors", "--labels", "joint")
    done = run(*victim(made), *second, *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert [recovery["name"] for recovery in results(tmp_path / "o")["recoveries"]] == ["g0", "g1"]
    assert "psnr" not in results(tmp_path / "o")["recoveries"][0]["images"][0]


def test_same_seed_same_tensors(made, tmp_path):
    for name in ("a", "b"):
        assert run(*victim(made), *QUICK, "--seed", 3, "--output", tmp_path / name).exit_code == 0
    first, second = (load_file(tmp_path / name / "recovered.safetensors")["g0"] for name in ("a", "b"))
    assert torch.equal(first, second)


def test_frozen_parameters_are_left_out(made, tmp_path):
    gradient = tmp_path / "g.safetensors"
    model = f"{NETS}:partly_frozen"
    weights = ("--weights", made / "w.safetensors")
    captured = run(
        *("capture", "--model", model, *weights, "--images", made / "0.png", "--input-shape", "1x8x8"),
        *("--gradient", gradient),
    )
    assert captured.exit_code == 0, captured.output
    assert "0.bias" not in load_file(gradient)
    done = run(
        "recover", "--model", model, *weights, "--gradient", gradient, *QUICK, "--output", tmp_path / "o"
    )
    assert done.exit_code == 0, done.output


def test_other_weights_are_warned_about(made, tmp_path):
    model = ("--model", f"{NETS}:make", "--seed", 77)
    done = run("recover", *model, "--gradient", made / "g0.safetensors", *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert "captured with other weights" in done.stderr


def test_images_writes_pictures(tmp_path):
    done = run("images", "photographs", "--count", 3, "--output", tmp_path / "o")
    assert done.exit_code == 0
    assert names_in(tmp_path / "o") == [f"photographs-00{k}-label{k}.png" for k in range(3)]
    with Image.open(tmp_path / "o" / "photographs-000-label0.png") as picture:
        assert picture.size == (32, 32)
    assert run("images", "photographs", "--output", tmp_path / "o").exit_code == 2
    assert run("images", "faces", "--count", 1000, "--output", tmp_path / "p").exit_code == 2
    assert not (tmp_path / "p").exists()


def test_help_and_version():
    assert sapag_fast.__version__ in run("--version").output
    for command in ("demo", "recover", "capture", "images"):
        assert command in run("--help").output
        assert run(command, "--help").exit_code == 0


def test_demo(tmp_path, small_demo):
    done = run("demo", "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    content = results(tmp_path / "o")
    assert len(content["recoveries"]) == 8
    assert {line["method"] for line in content["summary"]} == {"SAPAG", "DLG"}
    ours = next(line for line in content["summary"] if line["method"] == "SAPAG" and line["cell"] == "all")
    assert ours["victims"] == ours["recovered"] == 4
    assert all(
        (tmp_path / "o" / image["file"]).is_file() for r in content["recoveries"] for image in r["images"]
    )
    assert "DLG" in done.stdout
