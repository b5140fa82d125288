"""What clients share, on the command line: arrays, updates, state dictionaries, models as they are."""

import json

import numpy as np
import pytest
import torch
from command_calls import NETS, QUICK, flat, names_in, replaced, results, run, victim
from safetensors.torch import load_file, save_file
from victim_nets import make

import sapag_fast as sf

RATE = 0.5
SHAPE = ("--input-shape", "1x8x8")


def _gradient(made, name="g0"):
    return load_file(made / f"{name}.safetensors")


def _weights(made):
    return load_file(made / "w.safetensors")


def _after(made, name="g0"):
    gradient = _gradient(made, name)
    return {key: weight - RATE * gradient[key] for key, weight in _weights(made).items()}


def _arrays(tensors):
    """In the order of the state, which files do not keep."""
    names = sorted(tensors, key=lambda name: (name.split(".")[0], name.endswith("bias")))
    return [tensors[name].numpy() for name in names]


def _inputs(folder):
    return load_file(folder / "recovered.safetensors")


def _recover(made, output, *options, model="make"):
    command = ("recover", "--model", f"{NETS}:{model}", *QUICK, *SHAPE, "--output", output)
    return run(*command, *options)


@pytest.fixture(scope="module")
def plain(made, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "found"
    done = run(*victim(made), *QUICK, *SHAPE, "--output", output)
    assert done.exit_code == 0, done.output
    return _inputs(output)


def _same(ours, theirs):
    return all(torch.equal(one, two) for one, two in zip(ours.values(), theirs.values(), strict=True))


def test_gradients_as_arrays(made, plain, tmp_path):
    named = {f"module.{name}": tensor.numpy() for name, tensor in _gradient(made).items()}
    np.savez(tmp_path / "g0.npz", **named)
    for model in ("make", "parallel"):
        weights = ("--weights", made / "w.safetensors")
        done = _recover(made, tmp_path / model, *weights, "--gradient", tmp_path / "g0.npz", model=model)
        assert done.exit_code == 0, done.output
        assert _same(_inputs(tmp_path / model), plain)


def test_parameters_before_and_after(made, plain, tmp_path):
    np.savez(tmp_path / "w0.npz", *_arrays(_weights(made)))
    for name in ("g0", "g1"):
        torch.save({f"module.{k}": v for k, v in _after(made, name).items()}, tmp_path / f"{name}.pt")
    update = ("--before", tmp_path / "w0.npz", "--lr", RATE)
    both = ("--after", tmp_path / "g0.pt", "--after", tmp_path / "g1.pt")
    done = _recover(made, tmp_path / "found", *update, *both)
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "found")
    assert [entry["name"] for entry in found["recoveries"]] == ["g0", "g1"]
    assert [entry["images"][0]["label"] for entry in found["recoveries"]] == [0, 1]
    assert found["settings"]["lr"] == RATE
    first = next(iter(_inputs(tmp_path / "found").values()))
    assert (first - next(iter(plain.values()))).square().mean() < 1e-2


def test_a_rounded_update_is_warned_of(made, tmp_path):
    weights, gradient = _weights(made), _gradient(made)
    save_file(weights, tmp_path / "w0.safetensors")
    after = {name: weight - 1e-6 * gradient[name] for name, weight in weights.items()}
    save_file(after, tmp_path / "w1.safetensors")
    update = ("--before", tmp_path / "w0.safetensors", "--after", tmp_path / "w1.safetensors", "--lr", 1e-6)
    done = _recover(made, tmp_path / "found", *update, "--steps", 2)
    assert done.exit_code == 0, done.output
    assert "parameters are rounded" in flat(done.stderr)
    assert "low-precision" in json.dumps(results(tmp_path / "found"))


def test_half_precision(made, tmp_path):
    weights = {name: tensor.bfloat16() for name, tensor in _weights(made).items()}
    save_file(weights, tmp_path / "w.safetensors")
    images = ("--images", made / "0.png", *SHAPE, "--gradient", tmp_path / "g.safetensors")
    net = ("--model", f"{NETS}:halved", "--weights", tmp_path / "w.safetensors")
    done = run("capture", *net, *images)
    assert done.exit_code == 0, done.output
    assert load_file(tmp_path / "g.safetensors")["0.weight"].dtype == torch.bfloat16
    done = run(
        "recover", *net, "--gradient", tmp_path / "g.safetensors", *QUICK, "--output", tmp_path / "found"
    )
    assert done.exit_code == 0, done.output
    assert flat(done.stderr).count("weights are torch.bfloat16") == 1
    (tmp_path / "many").mkdir()
    (tmp_path / "g.safetensors").rename(tmp_path / "many" / "g.safetensors")
    audit = ("audit", *net, "--gradients", tmp_path / "many", *QUICK, "--output", tmp_path / "audited")
    done = run(*audit)
    assert done.exit_code == 0, done.output
    assert flat(done.stderr).count("weights are torch.bfloat16") == 1
    assert "low-precision" in (tmp_path / "audited" / "summary.json").read_text()


@pytest.mark.parametrize("option", ["--before", "--after", "--lr"])
@pytest.mark.parametrize("text", [(), ("--text",)])
def test_an_audit_says_what_to_do_with_updates(made, tmp_path, option, text):
    net = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", "--gradients", made, *text)
    done = run("audit", *net, option, "0.5", "--output", tmp_path / "o")
    assert done.exit_code == 2
    assert f"{option}: audits take gradients, a file each; recover takes parameters" in flat(done.stderr)
    assert not (tmp_path / "o").exists()
    assert option not in run("audit", "--help").stdout.split()


def test_what_update_from_makes_is_audited(made, tmp_path):
    """As the refusal says."""
    model = make()
    model.load_state_dict(_weights(made))
    gradient = sf.update_from(model, _weights(made), _after(made), lr=RATE)
    (tmp_path / "shared").mkdir()
    names = [name for name, _ in model.named_parameters()]
    save_file(dict(zip(names, gradient, strict=True)), tmp_path / "shared" / "g0.safetensors")
    net = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", *SHAPE)
    done = run("audit", *net, "--gradients", tmp_path / "shared", *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["finished"] == 1


def test_an_audit_takes_arrays_and_skips_what_is_none(made, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    np.savez(folder / "good.npz", *_arrays(_gradient(made)))
    np.savez(folder / "objects.npz", np.array([{}], dtype=object))
    np.savez_compressed(folder / "packed.npz", np.zeros(3))
    np.savez(folder / "weights.npz", *[1.01 * array for array in _arrays(_weights(made))])
    net = ("--model", f"{NETS}:parallel", "--weights", made / "w.safetensors")
    done = run("audit", *net, "--gradients", folder, *SHAPE, *QUICK, "--output", tmp_path / "audited")
    assert done.exit_code == 3, done.output
    skipped = flat(done.stderr)
    assert "skipped objects: " in skipped
    assert "Python objects are not read" in skipped
    assert "save them anew with numpy.savez" in skipped
    assert "close to the model's weights" in skipped
    assert names_in(tmp_path / "audited" / "results") == ["good.safetensors"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", ["recover", "audit"])
@pytest.mark.parametrize(
    ("model", "words"),
    [("scripted", "a scripted module"), ("Reentrant", "use_reentrant=False")],
)
def test_models_that_are_refused(made, tmp_path, command, model, words):
    (tmp_path / "shared").mkdir()
    prefix = "net." if model == "Reentrant" else ""
    gradient = {f"{prefix}{name}": tensor for name, tensor in _gradient(made).items()}
    save_file(gradient, tmp_path / "shared" / "g.safetensors")
    given = {
        "recover": ("--gradient", tmp_path / "shared" / "g.safetensors"),
        "audit": ("--gradients", tmp_path / "shared"),
    }[command]
    done = run(command, "--model", f"{NETS}:{model}", *given, *SHAPE, *QUICK, "--output", tmp_path / "found")
    assert done.exit_code == 2, done.output
    assert f"{words}" in flat(done.stderr)


REFUSED = {
    "nothing": ({"gradient": None}, "--gradient: expected gradient files, or --before, --after and --lr"),
    "no before": ({"gradient": None, "after": "w1", "lr": 1}, "--before must be given with --after"),
    "no after": ({"gradient": None, "weights": None, "before": "w0", "lr": 1}, "--after must be given with"),
    "no rate": ({"gradient": None, "weights": None, "before": "w0", "after": "w1"}, "--lr must be given"),
    "both": ({"before": "w0", "after": "w1", "lr": 1}, "--gradient, --before: expected gradients or param"),
    "weights": ({"gradient": None, "before": "w0", "after": "w1", "lr": 1}, "--weights: does not go with"),
    "rate of zero": ({"lr": 0}, "'--lr'"),
    "another rate": (
        {
            "gradient": None,
            "weights": None,
            "before": "w0",
            "after": "w1",
            "lr": 1,
            "local_steps": 2,
            "local_lr": 0.5,
        },
        "--lr: expected the first of --local-lr, 0.5, found 1.0",
    ),
    "unchanged": (
        {"gradient": None, "weights": None, "before": "w0", "after": "w0", "lr": 1},
        "after must be other parameters than before, found the same",
    ),
    "another model's": (
        {"gradient": None, "weights": None, "before": "w0", "after": "g", "lr": 1},
        "after must have an entry for each of 6 trainable parameters",
    ),
    "a gradient before": (
        {"gradient": None, "weights": None, "before": "g", "after": "w1", "lr": 1},
        "no weight for",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(made, tmp_path, case):
    changes, words = REFUSED[case]
    save_file(_weights(made), tmp_path / "w0.safetensors")
    save_file(_after(made), tmp_path / "w1.safetensors")
    save_file({"0.weight": _gradient(made)["0.weight"]}, tmp_path / "g.safetensors")
    files = {
        name: tmp_path / f"{value}.safetensors" if value in ("w0", "w1", "g") else value
        for name, value in changes.items()
    }
    done = run(*replaced([*victim(made), *QUICK, *SHAPE, "--output", tmp_path / "found"], **files))
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert not (tmp_path / "found").exists()
