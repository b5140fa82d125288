"""The public functions, with arguments that work and what else each may be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import sapag_fast as sf
from benchmarks.reliability.arguments import pools
from benchmarks.reliability.arguments.pools import Pool, choice, count, fraction, positive, weight
from benchmarks.reliability.small_net import INPUT_SHAPE, make
from sapag_fast import data
from sapag_fast.clients import defences
from sapag_fast.distances.kind import kinds
from sapag_fast.models import make_model
from sapag_fast.text import recover_text, train_tokenizer

NAN = float("nan")


@dataclass(frozen=True)
class Function:
    """Something to call with arguments by name; ``base`` is given a folder that it may put files into."""

    call: Callable[..., Any]
    base: Callable[[Path], dict[str, Any]]
    pools: Mapping[str, Pool]


def _attack() -> tuple[torch.nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = make()
    loss = F.cross_entropy(model(torch.rand(1, *INPUT_SHAPE)), torch.tensor([1]))
    return model, list(torch.autograd.grad(loss, list(model.parameters())))


def _recovery(folder: Path) -> dict[str, Any]:
    model, target = _attack()
    return {"model": model, "target": target, "input_shape": INPUT_SHAPE, "steps": 2}


def _text(folder: Path) -> dict[str, Any]:
    model = make_model("encoder", seed=0, vocabulary=20, max_length=8, width=8, layers=1, hidden=8)
    tokens = torch.randint(2, 20, (1, 4), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    trained = [p for p in model.parameters() if p.requires_grad]
    target = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0])), trained, allow_unused=True)
    return {"model": model, "target": list(target), "length": 4, "steps": 2, "seed": 0}


def _array_file(folder: Path) -> dict[str, Any]:
    np.savez(folder / "a.npz", images=np.zeros((3, 4, 4), np.uint8), labels=np.arange(3))
    return {"path": folder / "a.npz"}


def _sentence_file(folder: Path) -> dict[str, Any]:
    (folder / "a.tsv").write_text("label\tsentence\n0\tone\n1\ttwo\n2\tthree\n")
    return {"path": folder / "a.tsv"}


def _gradients(folder: Path) -> dict[str, Any]:
    return {"gradients": [torch.ones(3, 2), torch.ones(3)]}


def _evaluated(**arguments: Any) -> Any:
    dummy, target = arguments.pop("dummy"), arguments.pop("target")
    return sf.GradientDistance(**arguments).distance_and_gradient(dummy, target)


def _with_recipe(**fields: Any) -> Any:
    return sf.SearchOptions(recipe=sf.Recipe("own", **fields))


def _separated(**arguments: Any) -> Any:
    model, target = _attack()
    found = sf.recover(model, target, INPUT_SHAPE, steps=2, labels=[1])
    return sf.separate_equal_labels(model, target, found, **{"steps": 2, **arguments})


DISTANCE = {
    "kind": choice(*kinds()[:3]),
    "layer_weights": pools.LAYER_ROWS,
    "variance": pools.VARIANCE,
    "bandwidth": positive(0.1, 2).or_none(),
    "merge_bias": Pool([True], ["yes", 2, None, []]),
    "batched": Pool([False], ["yes", 2, None, []]),
    "layers": pools.LAYERS,
    "backend": Pool(["cpu", "reference", None], ["nope", 3, "cuda", []]),
}
PAIR = {"dummy": pools.GRADIENTS, "target": pools.GRADIENTS}
SEARCH = {
    "recipe": choice("auto", "smooth", "relu"),
    "distance": choice("sapag", "l2").or_none(),
    "layers": Pool(["modules", "shapes", "separate"], ["nope", 3, None, [-1, 0, 0, 0], [0.5] * 4, []]),
    "optimizer": choice("lbfgs", "adam", "signed-adam").or_none(),
    "steps": count(1, 3).or_none(),
    "start": choice("grey", "uniform").or_none(),
    "basis": choice("pixel", "dct").or_none(),
    "surrogate": Pool([None, False], ["nope", 3, True, [], 0.5]),
    "box": weight(0, 0.5).or_none(),
    "tv": weight(0, 1e-3).or_none(),
    "stop_distance": weight(0, 1e-3).or_none(),
    "bounds": pools.BOUNDS,
    "restarts": count(1, 2),
    "stop_certified": pools.FLAG,
    "local_steps": Pool([1], [0, -1, 1.5, "2", None, 2]),
    "seed": pools.SEED,
    "max_memory": Pool([2**30, None], [0, -1, 1.5, "1GB", NAN, True]),
    "at_once": count(1, 2).or_none(),
}
RECOVER = SEARCH | {
    "model": Pool([], [None, 3, "x", torch.nn.Flatten(), torch.nn.Linear(3, 3)]),
    "target": Pool(
        [],
        [None, 3, [], "x", torch.ones(3), [torch.ones(3)], [None] * 4, [torch.nan * torch.ones(12, 16)] * 4],
    ),
    "input_shape": pools.SHAPE,
    "batch_size": Pool([1, np.int64(1)], [0, -1, 1.5, "1", None, True, NAN]),
    "labels": Pool(
        ["infer", [1], torch.tensor([1])], ["nope", [9], [-1], 3.5, None, [[[1]]], [0.5], [2**70]]
    ),
    "batched": Pool([False], ["yes", 2, None]),
    "device": pools.DEVICE,
    "loss_fn": Pool([None], [3, "x", []]),
    "on_finished": Pool([None, lambda *_: None], [3, "x"]),
    "progress": Pool([False, lambda *_: None], ["x", 3, [], None]),
    "checkpoint": Pool([None], [3, "/nowhere/x.safetensors", "x.txt", b"x", 1.5]),
}
SLICE = {
    "first": Pool([0, 1], [-1, 1.5, "0", None, True, 99, 2**70]),
    "count": Pool([1, 2, None], [0, -1, 1.5, "1", True, 99, 2**70]),
    "classes": Pool([3, None], [0, -1, 1.5, "3", 2, True]),
}

FUNCTIONS: dict[str, Function] = {
    "distance": Function(
        sf.distance, lambda f: {"dummy": pools._pair(), "target": pools._pair()}, PAIR | DISTANCE
    ),
    "GradientDistance": Function(
        _evaluated, lambda f: {"dummy": pools._pair(), "target": pools._pair()}, PAIR | DISTANCE
    ),
    "distance (tag)": Function(
        lambda **a: sf.distance(pools._pair(), pools._pair(), "tag", **a),
        lambda f: {},
        {
            "l1_weight": weight(0, 1).or_none(),
            "layer_weights": pools.LAYER_ROWS,
            "bandwidth": Pool([None], [1.0]),
            "variance": Pool([None], [[1.0]]),
        },
    ),
    "distance (cosine)": Function(
        lambda **a: sf.distance(pools._pair(), pools._pair(), "cosine", **a),
        lambda f: {},
        {
            "l1_weight": Pool([None], [0.5]),
            "layer_weights": Pool([None], [[1.0]]),
            "bandwidth": Pool([None], [1.0]),
            "variance": Pool([None], [[1.0]]),
        },
    ),
    "gradient_variance": Function(
        sf.gradient_variance,
        lambda f: {"gradients": pools._pair()},
        {name: DISTANCE[name] for name in ("merge_bias", "batched", "layers", "backend")},
    ),
    "register_distance": Function(
        sf.register_distance,
        lambda f: {"name": "fuzzed", "function_of_sums": lambda s: s.square.sum(-1), "replace": True},
        {"name": Pool(["fuzzed"], [3, None, "l2", [], ""]), "function_of_sums": Pool([], [None, 3, "x"])},
    ),
    "SearchOptions": Function(sf.SearchOptions, lambda f: {}, SEARCH),
    "Recipe": Function(
        _with_recipe,
        lambda f: {},
        {
            "distance": choice("sapag", "l2"),
            "bandwidth": positive(0.1).or_none(),
            "widths": Pool([(1.0,), (1.0, 0.1)], [(), (0,), (-1,), (NAN,), (2.0,), 3, "x"]),
            "optimizer": choice("lbfgs", "adam"),
            "lr": positive(0.1),
            "scale": positive(2.0),
            "history": count(3),
            "line_search": choice("armijo").or_none(),
            "milestones": Pool([(), (0.5,)], [(2.0,), (-1,), 3, "x", (NAN,)]),
            "cosine": pools.FLAG,
            "eps": weight(1e-8),
            "steps": count(3),
            "basis": choice("pixel", "dct"),
            "box": weight(1),
            "tv": weight(0),
            "tv_weights": Pool([(1.0,)], [(), (-1,), (NAN,), 3, "x"]),
            "tv_until": fraction(),
            "tv_rest": weight(1),
            "clip": pools.FLAG,
            "surrogate": Pool([None], [3, "x", True]),
            "starts": Pool([("grey",)], [(), ("nope",), 3, "grey"]),
            "stop_distance": weight(0),
        },
    ),
    "Surrogate": Function(
        sf.Surrogate,
        lambda f: {},
        {"beta_first": positive(2), "beta_last": positive(50), "stages": count(3), "until": fraction()},
    ),
    "recover": Function(sf.recover, _recovery, RECOVER),
    "separate_equal_labels": Function(
        _separated,
        lambda f: {},
        {
            "restarts": count(1),
            "steps": count(2),
            "bounds": Pool([(0, 1)], pools.BOUNDS.bad),
            "seed": pools.SEED,
            "max_memory": SEARCH["max_memory"],
            "batched": Pool([False], ["yes", 2]),
        },
    ),
    "profile_attack": Function(
        sf.profile_attack,
        lambda f: {
            "model": make(),
            "input_shape": INPUT_SHAPE,
            "recoveries": 1,
            "evaluations": 1,
            "seconds": 0.01,
        },
        {
            "recoveries": Pool([1, (1, 2)], [0, -1, 1.5, "x", (), (0,), True, None]),
            "evaluations": count(1),
            "seconds": positive(0.01),
            "batch_size": Pool([1], [0, -1, 1.5, None]),
            "input_shape": pools.SHAPE,
            "device": pools.DEVICE,
            "trace": Pool([None], [3, "/nowhere/x.json"]),
            "steps": count(3),
        },
    ),
    "recover_text": Function(
        recover_text,
        _text,
        {
            "length": Pool([4], [0, -1, 1.5, "4", True, 99]),
            "steps": count(1, 2),
            "seed": pools.SEED,
            "target": RECOVER["target"],
            "model": RECOVER["model"],
            "device": pools.DEVICE,
        },
    ),
    "train_tokenizer": Function(
        train_tokenizer,
        lambda f: {"sentences": ["some words", "and more"]},
        {"sentences": Pool([["a b"]], [None, 3, [], [""], "text", [3]]), "vocabulary": count(50)},
    ),
    "gaussian_noise": Function(
        defences.gaussian_noise,
        lambda f: _gradients(f) | {"scale": 0.1, "generator": torch.Generator()},
        {
            "scale": weight(0.1),
            "generator": Pool([], [3, None, "x"]),
            "gradients": Pool([], [None, 3, "x", [3]]),
        },
    ),
    "clip_norm": Function(
        defences.clip_norm,
        lambda f: _gradients(f) | {"max_norm": 1.0},
        {"max_norm": Pool([1.0], [-1, NAN, "x", None])},
    ),
    "prune": Function(
        defences.prune,
        lambda f: _gradients(f) | {"fraction": 0.5},
        {"fraction": Pool([0.5], [-0.1, 1.5, NAN, "x", None])},
    ),
    "quantise": Function(
        defences.quantise, _gradients, {"bits": Pool([2, 8], [1, 17, 2.5, "8", None, True])}
    ),
    "withhold": Function(
        defences.withhold,
        lambda f: _gradients(f) | {"layers": [0]},
        {"layers": Pool([[1], [-1]], [[9], [0.5], 3, "x", None])},
    ),
    "read_arrays": Function(
        data.read_arrays,
        _array_file,
        SLICE
        | {
            "layout": choice("NHW").or_none(),
            "images": Pool([None], ["nope", 3]),
            "split": Pool([None], ["nope", 3]),
            "path": Pool([], [None, 3, "/nowhere", "."]),
        },
    ),
    "read_dataset": Function(
        data.read_dataset,
        _array_file,
        SLICE | {"kind": choice("npz").or_none(), "path": Pool([], [None, 3, "/nowhere", "."])},
    ),
    "read_sentences": Function(
        data.read_sentences,
        _sentence_file,
        SLICE
        | {
            "sentence": Pool(["sentence", 1], ["nope", 9, 1.5]),
            "label": Pool(["label", 0], ["nope", 9, 1.5]),
            "path": Pool([], [None, 3, "/nowhere", "."]),
        },
    ),
}
