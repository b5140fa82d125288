"""Losses, their labels, and warnings, through the command line."""

import json

import pytest
import torch
from command_calls import NETS, flat, results, run
from safetensors.torch import save_file
from torch.nn import functional as F
from victim_nets import dropping, judge, tagger

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
