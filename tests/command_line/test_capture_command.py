"""capture --defence: what is written, recorded, refused, and what recover and audit make of it."""

import json

import pytest
import torch
from command_calls import NETS, QUICK, flat, names_in, results, run, victim
from safetensors import safe_open
from safetensors.torch import load_file

from sapag_fast.clients.defences import clip_norm, quantise
from sapag_fast.files.tensors import write_tensors


def capture(made, gradient, *rest, images="0.png"):
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors", "--input-shape", "1x8x8")
    return run("capture", *model, "--images", made / images, "--gradient", gradient, *rest)


def metadata_of(path):
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()


def test_defences_are_applied_in_order_and_recorded(made, tmp_path):
    file = tmp_path / "g.safetensors"
    done = capture(made, file, "--defence", "clip:0.1", "--defence", "quantise:4")
    assert done.exit_code == 0, done.output
    plain, shared = load_file(made / "g0.safetensors"), load_file(file)
    assert "defences" not in metadata_of(made / "g0.safetensors")
    assert json.loads(metadata_of(file)["defences"]) == ["clip:0.1", "quantise:4"]
    order = list(plain)
    expected = quantise(clip_norm([plain[name] for name in order], 0.1), 4)
    for name, tensor in zip(order, expected, strict=True):
        assert torch.equal(shared[name], tensor)
        assert not torch.equal(shared[name], plain[name])


def test_noise_follows_the_seed_and_differs_between_victims(made, tmp_path):
    noise = ("--defence", "noise:1")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert capture(made, tmp_path / f"{name}.safetensors", *noise, "--seed", seed).exit_code == 0
    first, again, other = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    many = tmp_path / "many.safetensors"
    both = ("--images", made / "1.png", "--batch-size", 1, "--labels", "0,0", "--seed", 3)
    assert capture(made, many, *noise, *both).exit_code == 0
    rows = load_file(many)
    for name, tensor in first.items():
        assert torch.equal(rows[name][0], tensor)
        assert not torch.equal(rows[name][1], tensor)
    # The two rows differ by more than the images' gradients do: each has noise of its own.
    difference = torch.cat([(row[0] - row[1]).flatten() for row in rows.values()])
    assert abs(difference.std().item() - 2**0.5) < 0.1


def test_a_folder_of_victims_has_the_noise_of_one_file(made, tmp_path):
    options = ("--images", made / "1.png", "--batch-size", 1, "--defence", "relative-noise:0.5")
    for name in ("folder", "file.safetensors"):
        assert capture(made, tmp_path / name, *options).exit_code == 0
    stacked = load_file(tmp_path / "file.safetensors")
    for row in (0, 1):
        own = load_file(tmp_path / "folder" / f"{row}.safetensors")
        assert all(torch.equal(stacked[name][row], own[name]) for name in stacked)
        assert json.loads(metadata_of(tmp_path / "folder" / f"{row}.safetensors")["defences"])


def test_a_withheld_layer_is_missing_recorded_and_recovered_without(made, tmp_path):
    file = tmp_path / "g.safetensors"
    done = capture(made, file, "--defence", "withhold:-2,-1")
    assert done.exit_code == 0, done.output
    plain = load_file(made / "g0.safetensors")
    assert sorted(json.loads(metadata_of(file)["withheld"])) == sorted(set(plain) - set(load_file(file)))
    assert len(load_file(file)) == len(plain) - 2

    attack = [*victim(made), *QUICK]
    attack[attack.index("--gradient") + 1] = file
    refused = run(*attack, "--output", tmp_path / "o")
    assert refused.exit_code == 2
    assert "labels cannot be inferred" in flat(refused.stderr)
    found = run(*attack, "--labels", "0", "--truth", made / "0.png", "--output", tmp_path / "p")
    assert found.exit_code == 0, found.output
    assert results(tmp_path / "p")["recoveries"][0]["images"][0]["label"] == 0


def test_an_audit_skips_a_withheld_layer_and_says_so(made, tmp_path):
    folder = tmp_path / "g"
    folder.mkdir()
    assert capture(made, folder / "whole.safetensors", "--defence", "sign").exit_code == 0
    assert capture(made, folder / "part.safetensors", "--defence", "withhold:0").exit_code == 0
    model = ("--model", f"{NETS}:make", "--weights", made / "w.safetensors")
    done = run("audit", *model, "--gradients", folder, *QUICK, "--output", tmp_path / "o")
    assert done.exit_code == 3, done.output
    assert names_in(tmp_path / "o" / "results") == ["whole.safetensors"]
    assert "withheld a part of the gradient" in (tmp_path / "o" / "summary.json").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("blur:1",), "defence 'blur:1': expected one of noise:SCALE"),
        (("sign", "--defence", "prune:2"), "fraction must be a fraction in 0..1, found 2.0"),
        (("quantise:x",), "defence 'quantise:x'"),
        (("withhold:99",), "layers[0] must be at most 5, found 99"),
        (("withhold:0", "--batch-size", 1), "leave out --batch-size"),
    ],
)
def test_refused_defences_write_nothing(made, tmp_path, options, words):
    done = capture(made, tmp_path / "g.safetensors", "--defence", *options)
    assert done.exit_code == 2, done.output
    assert words in flat(done.stderr)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("content", ["0.bias", "{}", "[3]"])
def test_a_damaged_record_of_what_is_withheld_is_refused(made, tmp_path, content):
    file = tmp_path / "g.safetensors"
    metadata = {**metadata_of(made / "g0.safetensors"), "withheld": content}
    write_tensors(file, load_file(made / "g0.safetensors"), metadata)
    attack = [*victim(made), *QUICK, "--output", tmp_path / "o"]
    attack[attack.index("--gradient") + 1] = file
    done = run(*attack)
    assert done.exit_code == 2
    assert "its withheld are not a JSON list" in flat(done.stderr)


def test_victims_of_an_earlier_capture_are_named(made, tmp_path):
    one, both = ("--batch-size", 1), ("--images", made / "1.png", "--batch-size", 1)
    assert "of before" not in capture(made, tmp_path / "g", *both).output
    (tmp_path / "g" / "old.pt").touch()
    (tmp_path / "g" / "notes.txt").touch()
    done = capture(made, tmp_path / "g", *one, "--overwrite")
    assert done.exit_code == 0, done.output
    words = "holds gradient files of before, too, for an audit's victims: 1.safetensors, old.pt"
    assert flat(done.stderr).endswith(words)
    (tmp_path / "g" / "old.pt").unlink()
    assert "of before" not in capture(made, tmp_path / "g", *both, "--overwrite").output
    assert "of before" not in capture(made, tmp_path / "g.safetensors", *both).output
