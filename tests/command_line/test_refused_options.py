"""Options that no command takes: status 2, and a message that names the option; nothing is written."""

import pytest
import torch
from command_calls import NETS, flat, names_in, run
from safetensors.torch import load_file, save_file

MODEL = ("--model", f"{NETS}:make")
AUDIT = ("audit", *MODEL, "--gradients", "g", "--output", "out")
RECOVER = ("recover", *MODEL, "--gradient", "g.safetensors", "--output", "out")
CAPTURE = ("capture", *MODEL, "--images", "i.png", "--input-shape", "1x8x8", "--gradient", "g.safetensors")
PROFILE = ("profile", *MODEL, "--input-shape", "1x8x8")
KERNELS = ("kernels", "--plan", "12x1x5x5,12")
WRAPS = 2**63

REFUSED = {
    "stop distance nan": ((*AUDIT, "--stop-distance", "nan"), "--stop-distance"),
    "stop distance inf": ((*AUDIT, "--stop-distance", "inf"), "--stop-distance"),
    "stop distance below 0": ((*AUDIT, "--stop-distance", -1), "--stop-distance"),
    "scale of zero": ((*RECOVER, "--scale", "0"), "--scale"),
    "scale nan": ((*AUDIT, "--scale", "nan"), "--scale"),
    "scale in words": ((*RECOVER, "--scale", "large"), "--scale"),
    "memory beyond float": ((*AUDIT, "--max-memory", "9" * 400), "--max-memory"),
    "memory beyond int64": ((*AUDIT, "--max-memory", "99999999TB"), "--max-memory"),
    "at once": ((*AUDIT, "--at-once", WRAPS), "--at-once"),
    "labels of an audit": ((*AUDIT, "--labels", "3"), "--labels"),
    "tv nan": ((*RECOVER, "--tv", "nan"), "--tv"),
    "tv beyond float32": ((*RECOVER, "--tv", "1e308"), "tv must be at most 1e+18"),
    "box inf": ((*RECOVER, "--box", "inf"), "--box"),
    "restarts": ((*RECOVER, "--restarts", WRAPS), "--restarts"),
    "steps": ((*RECOVER, "--steps", WRAPS), "--steps"),
    "seed": ((*RECOVER, "--seed", 2**64), "--seed"),
    "seed in words": ((*RECOVER, "--seed", "1e3"), "--seed"),
    "label beyond int64": ((*RECOVER, "--labels", WRAPS), "--labels"),
    "label below 0": ((*RECOVER, "--labels", "3,-1"), "--labels"),
    "digits that only Python reads": ((*RECOVER, "--labels", "1_0"), "--labels"),
    "shape beyond int64": ((*RECOVER, "--input-shape", "1x9999999999x9999999999"), "--input-shape"),
    "shape of a thousand digits": ((*RECOVER, "--input-shape", "9" * 5000), "--input-shape"),
    "recipe": ((*RECOVER, "--recipe", "cake"), "recipe must be one of auto"),
    "recipe of sentences": ((*RECOVER, "--recipe", "text"), "recipe: 'text' is for sentences"),
    "distance": ((*RECOVER, "--distance", "l3"), "distance must be one of sapag"),
    "device": ((*RECOVER, "--device", "nope"), "device must be one of this machine, found 'nope'"),
    "a gradient in the output": ((*RECOVER[:-1], "."), "--output: . would be written over what --gradient"),
    "gradients as output": ((*AUDIT[:-1], "g"), "--output: g would be written over what --gradients"),
    "one file for gradient and weights": (
        (*CAPTURE, "--save-weights", "./g.safetensors"),
        "--gradient, --save-weights: expected two places",
    ),
    "weights over the weights": (
        (*CAPTURE, "--weights", "w.safetensors", "--save-weights", "w.safetensors", "--overwrite"),
        "--save-weights: w.safetensors would be written over what --weights",
    ),
    "weights in the folder of gradients": (
        (*CAPTURE[:-1], "many", "--batch-size", 1, "--save-weights", "many/w.safetensors"),
        "--gradient, --save-weights: expected two places",
    ),
    "mean without std": ((*RECOVER, "--mean", 0.5), "std must be given with mean"),
    "std without mean": ((*AUDIT, "--std", 0.5), "mean must be given with std"),
    "std of 0": ((*RECOVER, "--mean", 0.5, "--std", 0), "std must be positive and finite, found 0.0"),
    "mean in words": ((*RECOVER, "--mean", "grey", "--std", 1), "'grey' is not a number, or one for each"),
    "mean nan": ((*AUDIT, "--mean", "nan", "--std", 1), "'nan' is not a number, or one for each channel"),
    "mean of 0..255": (
        (*RECOVER, "--mean", 123.7, "--std", 58.4),
        "mean must lie in the pictures' bounds 0..1",
    ),
    "mean of capture": ((*CAPTURE, "--mean", 123.7, "--std", 58.4), "mean must lie in the pictures' bounds"),
    "capture without a std": ((*CAPTURE, "--mean", 0.5), "std must be given with mean"),
    "bounds of one end": ((*RECOVER, "--bounds", "1"), "'1' is not a range such as 0:1"),
    "bounds upside down": ((*AUDIT, "--bounds", "1:0"), "bounds must be finite with low < high"),
    "bounds of unlike channels": ((*RECOVER, "--bounds", "0,0:1,1,1"), "as many low values as high ones"),
    "bounds beyond a truth": (
        (*RECOVER, "--bounds=-1:1", "--truth", "t.png"),
        "--bounds: pictures and scores",
    ),
    "seed of capture": ((*CAPTURE, "--seed", 2**70), "--seed"),
    "labels of capture": ((*CAPTURE, "--labels", WRAPS), "--labels"),
    "seconds nan": ((*PROFILE, "--seconds", "nan"), "--seconds"),
    "seconds 0": ((*PROFILE, "--seconds", "0"), "--seconds"),
    "recoveries": ((*PROFILE, "--recoveries", "99999999"), "recoveries: 99999999 needs about"),
    "recoveries beyond int64": ((*PROFILE, "--recoveries", WRAPS), "--recoveries"),
    "evaluations": ((*PROFILE, "--evaluations", WRAPS), "--evaluations"),
    "size of images": (("images", "digits", "--size", 100000, "--output", "out"), "--size"),
    "count of images": (("images", "digits", "--count", 5000, "--output", "out"), "count must be at most"),
    "pixels of images": (
        ("images", "digits", "--count", 1797, "--size", 4096, "--output", "out"),
        "count, size: expected at most",
    ),
    "shapes of a plan": (("kernels", "--plan", "3x,4"), "--plan"),
    "numbers of a plan": ((*KERNELS, "--recoveries", WRAPS - 1), "recoveries, plan: expected at most"),
    "scalars of a plan": ((*KERNELS, "--dtype", "int8"), "dtype must be one of float32"),
    "architecture of a plan": ((*KERNELS, "--arch", 75), "arch must be one of 80, 90, 100, found 75"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = REFUSED[case]
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert "Traceback" not in done.output
    assert names_in(tmp_path) == []


def test_gradient_and_weights_exchanged(made, tmp_path):
    weights, gradient, out = made / "w.safetensors", made / "g0.safetensors", tmp_path / "out"
    done = run("recover", *MODEL, "--weights", gradient, "--gradient", weights, "--output", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert "expected weights, found a captured gradient" in flat(done.stderr)
    done = run("recover", *MODEL, "--gradient", weights, "--input-shape", "1x8x8", "--output", out)
    assert (done.exit_code, out.exists()) == (2, False)
    assert "expected a gradient, found a model's weights" in flat(done.stderr)


def test_weights_of_other_tools_given_as_a_gradient(made, tmp_path):

    tensors, out = load_file(made / "w.safetensors"), tmp_path / "out"
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pt")
    weights = tmp_path / "w.safetensors"
    for gradient in (tmp_path / "w.pt", weights):
        shape = ("--input-shape", "1x8x8", "--output", out)
        done = run("recover", *MODEL, "--weights", weights, "--gradient", gradient, *shape)
        assert (done.exit_code, out.exists()) == (2, False)
        assert "expected a gradient, found a model's weights" in flat(done.stderr)
