"""Recovery of MNIST digits from the gradients of an untrained sigmoid LeNet, and DLG's loop on the same
victims.

Success is a mean squared error below 1e-2. Three parts:

- ``sapag``: `recover` with its default settings and several restarts;
- ``dlg``: the squared distance, image and label logits together, ``torch.optim.LBFGS`` with its own
tolerances, as published;
- ``agreement``: one restart of the default settings, without line search, with the batched L-BFGS and with
  ``torch.optim.LBFGS`` from the same starts: the two need not take the same path in
  float32, but must succeed equally often and get equally far.

    python -m benchmarks.recovery.recover_mnist --data FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.shared.attack_peers import OFF, dlg_loop
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS, shared_gradients
from sapag_fast.data import read_mnist
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.one_by_one import SingleMatching
from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.recover import recover
from sapag_fast.search.priors import box_prior, total_variation
from sapag_fast.search.recipe import RECIPES, Recipe
from sapag_fast.search.starts import make_start, recovery_generator
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

SHAPE = (1, 28, 28)
PLAIN = replace(RECIPES["smooth"], line_search=None)


def load(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images ``[count, 1, 28, 28]`` in [0, 1] and labels ``[count]`` of the folder's IDX
    files.
    """
    return read_mnist(folder, count=count, classes=10)


def summary(found: Tensor, truth: Tensor, seconds: float) -> dict[str, object]:
    """Success, errors and time; ``found`` and ``truth`` are ``[V, 1, 28, 28]``."""
    errors = (found - truth).square().flatten(1).mean(1)
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    return {
        "success": (errors < SUCCESS).float().mean().item(),
        "median mse": errors.median().item(),
        "mse": [float(f"{error:.3g}") for error in errors.tolist()],
        "seconds": round(seconds, 2),
    }


def run_sapag(
    model: nn.Module,
    target: list[Tensor],
    truth: Tensor,
    labels: Tensor,
    restarts: int,
    seed: int,
    recipe: str | Recipe = "auto",
) -> dict:
    begin = time.perf_counter()
    result = recover(model, target, SHAPE, batched=True, restarts=restarts, seed=seed, recipe=recipe)
    report = summary(result.inputs[:, 0], truth, time.perf_counter() - begin)
    certified = result.distance < 1e-4
    return report | {
        "restarts": restarts,
        "labels right": (result.labels[:, 0] == labels).float().mean().item(),
        "distance below 1e-4": certified.float().mean().item(),
        "evaluations of a restart": result.history.shape[0],
        "mode": result.mode,
        "recipe": result.recipe.name,
    }


def run_dlg(model: nn.Module, target: list[Tensor], truth: Tensor, evaluations: int, seed: int) -> dict:
    begin = time.perf_counter()
    found, spent = [], []
    for victim in range(len(truth)):
        generator = recovery_generator(seed, victim, 0)
        start, logits = torch.randn(1, *SHAPE, generator=generator), torch.randn(1, 10, generator=generator)
        one = [entry[victim] for entry in target]
        result = dlg_loop(model, one, start, logits, evaluations=evaluations, published=True, stop=True)
        found.append(result.inputs)
        spent.append(result.evaluations)
    report = summary(torch.cat(found), truth, time.perf_counter() - begin)
    return report | {"evaluations": spent}


def run_torch_lbfgs(model: nn.Module, target: list[Tensor], truth: Tensor, labels: Tensor, seed: int) -> dict:
    """The default objective under ``torch.optim.LBFGS`` (no line search), from the starts that `recover`
    draws for one restart.
    """
    recipe = PLAIN
    begin = time.perf_counter()
    found, distances = [], []
    for victim in range(len(truth)):
        one = [entry[victim : victim + 1] for entry in target]
        matching = SingleMatching(
            Problem(VictimModel(model), F.cross_entropy, GradientDistance(recipe.distance), one)
        )
        known = labels[victim].view(1, 1)
        start = make_start(recipe.starts[0], (1, *SHAPE), (0.0, 1.0), recovery_generator(seed, victim, 0))
        x = start.float()[None].requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x], lr=recipe.lr, max_iter=recipe.steps, max_eval=2 * recipe.steps, **OFF
        )
        best = [torch.inf, torch.inf, x.detach()]
        evaluations = itertools.count()

        def closure(
            x: Tensor = x,
            matching: SingleMatching = matching,
            known: Tensor = known,
            best: list = best,
            evaluations: Iterator[int] = evaluations,
        ) -> Tensor:
            tv = recipe.tv_of(leading=next(evaluations) < recipe.tv_until * recipe.steps)
            distance, slope, _ = matching.value_and_gradient(x, known)
            box, box_slope = box_prior(x.detach(), 0.0, 1.0)
            variation, variation_slope = total_variation(x.detach())
            x.grad = slope + recipe.box * box_slope + tv * variation_slope
            objective = distance + recipe.box * box + tv * variation
            if objective.item() < best[0]:
                best[:] = [objective.item(), distance.item(), x.detach().clone()]
            return objective

        optimizer.param_groups[0]["history_size"] = recipe.history
        optimizer.step(closure)
        found.append(best[2][0, 0])
        distances.append(best[1])
    report = summary(torch.stack(found), truth, time.perf_counter() - begin)
    return report | {"median distance": statistics.median(distances)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with MNIST's IDX files, gzipped or not"
    )
    parser.add_argument("--victims", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=8)
    parser.add_argument("--inits", nargs="+", default=["uniform", "normal.1"])
    parser.add_argument(
        "--dlg-evaluations", type=int, default=1200, help="closures of DLG's loop for each victim"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "recover_mnist.json")
    options = parser.parse_args()
    images, labels = load(options.data, options.victims)
    report: dict[str, object] = {
        "benchmark": "recover_mnist",
        **machine(),
        "seed": options.seed,
        "victims": len(images),
        "success": f"mse < {SUCCESS}",
    }
    for init in options.inits:
        model = initialise(LeNet(), init, seed=options.seed)
        target = shared_gradients(model, images[:, None], labels[:, None])
        parts = {
            "sapag": run_sapag(model, target, images, labels, options.restarts, options.seed),
            "sapag R=1": run_sapag(model, target, images, labels, 1, options.seed, PLAIN),
            "sapag R=1 torch.optim.LBFGS": run_torch_lbfgs(model, target, images, labels, options.seed),
            "dlg": run_dlg(model, target, images, options.dlg_evaluations, options.seed),
        }
        report[init] = parts
        for name, part in parts.items():
            print(
                f"{init:9} {name:28} success {part['success']:.2f}  median mse "
                f"{part['median mse']:.2e}  {part['seconds']} s"
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
