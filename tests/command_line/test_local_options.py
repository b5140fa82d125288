"""--local-*: gradient files that hold the updates of clients that trained."""

import json

import pytest
import torch
import victim_nets
from command_calls import NETS, flat, results, run
from local_clients import in_turn, shared_by
from safetensors.torch import load_file, save_file

from sapag_fast.data import read_images

CLIENT = ("--local-epochs", 2, "--local-batch-size", 1, "--local-lr", 0.05)
SGD = ("--local-momentum", 0.9, "--local-weight-decay", 0.001)
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def update(made, tmp_path_factory):
    """The update of a client of two pictures, of labels 3 and 1."""
    model = victim_nets.make()
    model.load_state_dict(load_file(made / "w.safetensors"))
    images = read_images([made / "0.png", made / "1.png"], SHAPE)
    settings = {"momentum": 0.9, "weight_decay": 0.001}
    target = shared_by(model, images, torch.tensor([3, 1]), in_turn(2, 1, 2), 0.05, **settings)
    path = tmp_path_factory.mktemp("client") / "update.safetensors"
    names = (name for name, _ in model.named_parameters())
    save_file(dict(zip(names, target, strict=True)), path, {"input_shape": "1x8x8", "batch_size": "2"})
    return path


def call(command, made, update, output, *rest):
    name = "--gradient" if command == "recover" else "--gradients"
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", name, update)
    return run(command, *model, "--restarts", 1, "--device", "cpu", "--output", output, *rest)


def truth(made):
    return ("--truth", made / "0.png", "--truth", made / "1.png")


def test_recover_searches_through_the_clients_steps(made, update, tmp_path):
    known = (*truth(made), "--labels", "3,1", "--steps", 200, "--local-order", "given")
    done = call("recover", made, update, tmp_path / "o", *CLIENT, *SGD, *known)
    assert done.exit_code == 0, done.output
    (found,) = results(tmp_path / "o")["recoveries"]
    assert min(image["psnr"] for image in found["images"]) > 25
    assert found["warnings"] == []
    assert results(tmp_path / "o")["settings"]["local_momentum"] == 0.9


def test_an_order_that_is_not_known_is_said(made, update, tmp_path):
    done = call("recover", made, update, tmp_path / "o", *CLIENT, *SGD, "--steps", 2)
    assert done.exit_code == 0, done.output
    (found,) = results(tmp_path / "o")["recoveries"]
    assert [caution["kind"] for caution in found["warnings"]] == ["order"]
    assert "warning: in which of the client's 2 mini-batches" in flat(done.stderr)


def test_an_audit_keeps_how_its_clients_trained(made, update, tmp_path):
    first = call("audit", made, update, tmp_path / "o", *CLIENT, *SGD, "--steps", 2)
    assert first.exit_code == 0, first.output
    kept = json.loads((tmp_path / "o" / "audit.json").read_text())["settings"]["local_training"]
    assert (kept["rate"], kept["epochs"], kept["momentum"]) == (0.05, 2, 0.9)
    assert "order" in (tmp_path / "o" / "summary.json").read_text()
    other = call("audit", made, update, tmp_path / "o", *CLIENT, "--steps", 2)
    assert other.exit_code == 2
    assert "settings local_training was" in flat(other.stderr)


@pytest.mark.parametrize("command", ["recover", "audit"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--local-epochs", 2),
            "--local-lr: expected the client's learning rate with --local-epochs, found none",
        ),
        (("--local-lr", 0), "--local-lr must be positive and finite, found 0"),
        (("--local-lr", "fast"), "'fast' is not numbers like 3,7"),
        (
            ("--local-lr", "0.1,0.2,0.3", "--local-steps", 2),
            "local_lr (LocalTraining's rate) must be one number, one for each of 2 steps",
        ),
        ((*CLIENT, "--local-steps", 2), "--local-epochs must be left out where steps are given"),
        ((*CLIENT, "--local-optimizer", "adam"), "--local-optimizer must be 'sgd'"),
        ((*CLIENT, "--local-momentum", 1), "1.0 is not in the range 0<=x<1"),
        ((*CLIENT, "--local-nesterov"), "--local-nesterov must be left out without a momentum"),
        ((*CLIENT, "--local-order", "random"), "'random' is not one of 'unknown', 'given'"),
        ((*CLIENT, "--text"), "does not go with --text"),
    ],
)
def test_what_does_not_fit_is_refused(made, update, tmp_path, command, given, message):
    done = call(command, made, update, tmp_path / "o", "--steps", 2, *given)
    assert done.exit_code == 2, done.output
    assert message in flat(done.stderr)
    assert not (tmp_path / "o" / "results").exists()
