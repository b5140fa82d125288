"""Losses, their labels, and warnings, through the command line."""

import csv
import json

import pytest
import torch
from command_calls import NETS, flat, results, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from victim_nets import dropping, judge, tagger

from sapag_fast import data

BCE = F.binary_cross_entropy_with_logits
MADE = {"tagger": tagger, "judge": judge, "dropping": dropping}
QUICK = ("--steps", 3, "--restarts", 1, "--device", "cpu")


def _written(folder, name, loss, targets, **metadata):
    """A gradient file and its model's weights."""
    torch.manual_seed(0)
    model = MADE[name]()
    inputs = torch.rand(len(targets), 1, 8, 8)
    trained = dict(model.named_parameters())
    gradient = torch.autograd.grad(loss(model(inputs), targets), list(trained.values()))
    save_file(dict(model.state_dict()), folder / "w.safetensors")
    entries = {"input_shape": "1x8x8", "batch_size": str(len(targets))} | metadata
    save_file(dict(zip(trained, gradient, strict=True)), folder / "g.safetensors", entries)
    return ("--model", f"{NETS}:{name}", "--weights", folder / "w.safetensors")


def _recover(folder, model, *options):
    gradient = ("--gradient", folder / "g.safetensors", "--output", folder / "out")
    return run("recover", *model, *gradient, *QUICK, *options)


def _labels(folder):
    return [image["label"] for image in results(folder / "out")["recoveries"][0]["images"]]


@pytest.mark.parametrize("labels", ["infer", "1,0,1", "1.0,0,1"])
def test_many_labels(labels, tmp_path):
    model = _written(tmp_path, "tagger", BCE, torch.tensor([[1.0, 0.0, 1.0]]))
    done = _recover(tmp_path, model, "--loss", "bce", "--labels", labels)
    assert done.exit_code == 0, done.output
    assert _labels(tmp_path) == [[1.0, 0.0, 1.0]]
    assert "1 0 1" in done.output


def test_real_targets_and_given_ones_of_a_batch(tmp_path):
    model = _written(tmp_path, "judge", F.mse_loss, torch.tensor([[-2.5]]))
    assert _recover(tmp_path, model, "--loss", "mse").exit_code == 0
    assert _labels(tmp_path)[0][0] == pytest.approx(-2.5, abs=1e-4)
    model = _written(tmp_path, "tagger", F.mse_loss, torch.rand(2, 3))
    options = ("--overwrite", "--loss", "mse", "--labels", "-1,0.5,2,3,4,5e-1")
    done = _recover(tmp_path, model, *options)
    assert done.exit_code == 0, done.output
    assert _labels(tmp_path) == [[-1.0, 0.5, 2.0], [3.0, 4.0, 0.5]]


def test_searched_jointly(tmp_path):
    model = _written(tmp_path, "tagger", BCE, torch.tensor([[1.0, 0.0, 1.0]]))
    done = _recover(tmp_path, model, "--loss", "bce", "--labels", "joint")
    assert done.exit_code == 0, done.output
    assert set(_labels(tmp_path)[0]) <= {0.0, 1.0}


def test_smoothing_and_weights(tmp_path):
    loss = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.2)
    model = _written(tmp_path, "tagger", loss, torch.tensor([2]))
    done = _recover(tmp_path, model, "--label-smoothing", 0.2, "--class-weights", "1,2,0.5")
    assert done.exit_code == 0, done.output
    assert _labels(tmp_path) == [2]
    assert results(tmp_path / "out")["recoveries"][0]["certificate"]["status"] == "unknown"


REFUSED = {
    "smoothing of bce": (
        ("--loss", "bce", "--label-smoothing", 0.1),
        "--label-smoothing: expected --loss c",
    ),
    "weights of mse": (("--loss", "mse", "--class-weights", "1,2"), "--class-weights: expected --loss cross"),
    "yes of cross-entropy": (("--pos-weight", "2"), "--pos-weight: expected --loss bce"),
    "smoothing of 1": (("--label-smoothing", 1), "--label-smoothing"),
    "no loss": (("--loss", "hinge"), "--loss"),
    "number of weights": (("--class-weights", "1,2"), "weight must be of 2 classes"),
    "words for weights": (("--class-weights", "one"), "--class-weights"),
    "negative weights": (("--class-weights", "1,-2,1"), "weight must be finite and not negative"),
    "targets that fill no batch": (("--loss", "mse", "--labels", "1,2"), "labels must be numbers [1, 3]"),
    "targets for classes": (("--labels", "0.5"), "--labels: expected classes, such as 3,7"),
    "targets beyond 1": (("--loss", "bce", "--labels", "1,2,0"), "labels must be targets in 0..1, found 2"),
    "averaged": (("--averaged-batches", 0), "--averaged-batches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    model = _written(tmp_path, "tagger", F.cross_entropy, torch.tensor([2]))
    options, words = REFUSED[case]
    done = _recover(tmp_path, model, *options)
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert not (tmp_path / "out").exists()


def test_an_audit_of_yes_and_no(tmp_path):
    model = _written(tmp_path, "judge", BCE, torch.tensor([[1.0]]), labels="1")
    for labels in ("infer", "known", "joint"):
        where = ("--gradients", tmp_path / "g.safetensors", "--output", tmp_path / labels)
        done = run("audit", *model, *where, *QUICK, "--loss", "bce", "--labels", labels)
        assert done.exit_code == 0, done.output
    summary = (tmp_path / "infer" / "summary.csv").read_text().splitlines()
    assert ",1.0," in summary[1]
    where = ("--gradients", tmp_path / "g.safetensors", "--output", tmp_path / "infer")
    again = run("audit", *model, *where, *QUICK, "--loss", "mse", "--labels", "infer")
    assert again.exit_code == 2
    assert "settings loss was BinaryCrossEntropy" in flat(again.stderr)


def test_warnings_are_shown_once_and_kept(tmp_path):
    model = _written(tmp_path, "dropping", F.cross_entropy, torch.tensor([2, 3]), averaged_batches="2")
    expected = {"dropout-active": ["3"], "batchnorm-training": ["1"], "averaged-batches": []}
    done = _recover(tmp_path, model, "--labels", "2,3")
    assert done.exit_code == 0, done.output
    kept = results(tmp_path / "out")["recoveries"][0]["warnings"]
    assert {caution["kind"]: caution["modules"] for caution in kept} == expected
    audited = tmp_path / "audited"
    options = ("--gradients", tmp_path / "g.safetensors", "--output", audited, *QUICK)
    audit = run("audit", *model, *options)
    assert audit.exit_code == 0, audit.output
    for command in (done, audit):
        words = flat(command.stderr)
        assert words.count("warning: dropout is active in 3:") == 1
        assert words.count("warning: BatchNorm takes the batch's own mean and variance in 1:") == 1
        assert words.count("warning: the gradient is an average over 2 mini-batches") == 1
        assert "CautionWarning" not in words
    kept = json.loads((audited / "summary.json").read_text())["warnings"]
    assert {caution["kind"]: caution["modules"] for caution in kept} == expected
    assert "dropout is active in 3" in (audited / "summary.html").read_text()
    given = _recover(tmp_path, model, "--labels", "2,3", "--averaged-batches", 1, "--overwrite")
    assert "mini-batches" not in flat(given.stderr)


def test_a_profile_shows_them(tmp_path):
    model = _written(tmp_path, "dropping", F.cross_entropy, torch.tensor([2, 3]))
    few = ("--recoveries", 1, "--evaluations", 1, "--seconds", 0.1, "--device", "cpu")
    done = run("profile", *model, "--input-shape", "1x8x8", *few, "--output", tmp_path / "profile")
    assert done.exit_code == 0, done.output
    assert flat(done.stdout).count("Warning: dropout is active in 3:") == 1
    kept = json.loads((tmp_path / "profile" / "profile.json").read_text())["warnings"]
    assert [caution["kind"] for caution in kept] == ["dropout-active", "batchnorm-training"]
    done = run("profile", *model, "--input-shape", "1x8x8", *few, "--loss", "mse")
    assert done.exit_code == 0, done.output


@pytest.fixture
def pictures(tmp_path):
    """Two digits of 8 by 8 as files."""
    assert run("images", "digits", "--count", 2, "--size", 8, "--output", tmp_path / "p").exit_code == 0
    return tmp_path / "p"


def _capture(pictures, net, gradient, *options):
    files = ("--images", pictures, "--save-weights", pictures.parent / "w.safetensors", "--overwrite")
    model = ("--model", f"{NETS}:{net}", "--input-shape", "1x8x8")
    return run("capture", *model, *files, "--gradient", gradient, "--device", "cpu", *options)


CAPTURED = {
    "many labels": ("tagger", ("--loss", "bce"), "1,0,1,0,0,1", BCE, [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    "real targets": ("judge", ("--loss", "mse"), "-2.5,0.25", F.mse_loss, [[-2.5], [0.25]]),
    "smoothed classes": (
        "tagger",
        ("--label-smoothing", 0.2, "--class-weights", "1,2,0.5"),
        "2,1",
        torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.2),
        [2, 1],
    ),
    "a yes that weighs": (
        "judge",
        ("--loss", "bce", "--pos-weight", 3),
        "1,0",
        torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
        [[1.0], [0.0]],
    ),
}


@pytest.mark.parametrize("case", CAPTURED)
def test_a_captured_gradient_is_that_of_the_loss(case, pictures, tmp_path):
    net, settings, labels, loss, targets = CAPTURED[case]
    done = _capture(pictures, net, tmp_path / "g", "--batch-size", 1, *settings, "--labels", labels)
    assert done.exit_code == 0, done.output
    model = MADE[net]()
    model.load_state_dict(load_file(tmp_path / "w.safetensors"))
    trained = dict(model.named_parameters())
    attack = ("--model", f"{NETS}:{net}", "--weights", tmp_path / "w.safetensors", *QUICK, *settings)
    files = zip(sorted((tmp_path / "g").iterdir()), sorted(pictures.iterdir()), targets, strict=True)
    for path, picture, target in files:
        output = model(data.read_images([picture], (1, 8, 8)))
        gradient = torch.autograd.grad(loss(output, torch.tensor([target])), list(trained.values()))
        shared = load_file(path)
        assert all(torch.allclose(shared[n], g) for n, g in zip(trained, gradient, strict=True))
        with safe_open(path, "pt") as opened:
            assert opened.metadata()["loss"] != "cross_entropy"
        found = run("recover", *attack, "--gradient", path, "--output", tmp_path / "o" / path.stem)
        assert found.exit_code == 0, found.output
        (image,) = results(tmp_path / "o" / path.stem)["recoveries"][0]["images"]
        assert image["label"] == pytest.approx(target, abs=1e-3)


UNCAPTURED = {
    "no targets": (("--loss", "bce"), "labels: expected the targets of BinaryCrossEntropy"),
    "targets that fill no image": (
        ("--loss", "mse", "--labels", "1,2,3"),
        "labels: expected as many targets",
    ),
    "too few for the outputs": (("--loss", "mse", "--labels", "1,2"), "labels must be numbers [2, 3]"),
    "targets beyond 1": (("--loss", "bce", "--labels", "1,2,0,1,1,1"), "labels must be targets in 0..1"),
    "classes of another kind": (("--labels", "0.5,1"), "--labels: expected classes, such as 3,7"),
    "a negative class": (("--labels", "0,-1"), "--labels: expected classes, such as 3,7"),
    "a setting of another loss": (("--loss", "mse", "--label-smoothing", 0.1), "--label-smoothing: expected"),
    "labels that files do not hold": (
        ("--loss", "bce", "--labels", "1,0,1,0,0,1", "--with-labels"),
        "--with-labels: a gradient file holds one whole number an image",
    ),
}


@pytest.mark.parametrize("case", UNCAPTURED)
def test_a_capture_is_refused(case, pictures, tmp_path):
    options, words = UNCAPTURED[case]
    done = _capture(pictures, "tagger", tmp_path / "g.safetensors", *options)
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert not (tmp_path / "g.safetensors").exists()


def test_captured_yes_and_no_are_known_to_an_audit(pictures, tmp_path):
    options = ("--loss", "bce", "--labels", "1,0", "--with-labels", "--batch-size", 1)
    done = _capture(pictures, "judge", tmp_path / "g.safetensors", *options)
    assert done.exit_code == 0, done.output
    model = ("--model", f"{NETS}:judge", "--weights", tmp_path / "w.safetensors")
    where = ("--gradients", tmp_path / "g.safetensors", "--output", tmp_path / "o")
    done = run("audit", *model, *where, *QUICK, "--loss", "bce", "--labels", "known")
    assert done.exit_code == 0, done.output
    with (tmp_path / "o" / "summary.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["labels"], line["label_source"]) for line in lines] == [("1.0", "given"), ("0.0", "given")]
