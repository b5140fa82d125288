"""breaching's own optimisation attack with its own objectives and with the fused ones.

Speed: one iteration of its attack loop (`OptimizationBasedAttacker._run_trial`), everything included:
gradients, objective, total variation, Adam, projection. Contenders take turns on one thread, timed by the
process's own clock, with the configuration of Inverting Gradients:

- ``own``: breaching as installed;
- ``distance alone``: its gradients, our distance (``install(distance_only=True)``);
- ``fused``: the gradient toward the candidate formed together with the distance (``install()``);
- ``sapag``: the same, with our distance in place of its;
- ``free distance``: its gradients, and a distance that costs nothing at all: what no distance can surpass;
- ``free objective``: neither gradients nor distance: what breaching spends on everything else.

Recovery: MNIST digits (or, without --data, the bundled ones) behind a sigmoid LeNet, every objective from the
same start, by breaching's L-BFGS for the same number of steps; success is a mean squared error below 1e-2.

    python -m benchmarks.integrations.breaching_speed --data MNIST
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.integrations.breaching_import import import_breaching
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns
from benchmarks.shared.victims import SUCCESS
from sapag_fast.data import digits, read_dataset
from sapag_fast.integrations import breaching as fused
from sapag_fast.models import LeNet, ResNet, initialise

IMAGE = (3, 32, 32)  # breaching's total variation takes three channels
NETWORKS = {
    "LeNet": (lambda: initialise(LeNet(channels=3, image_size=32), "normal.1"), 10),
    "ResNet-18": (lambda: ResNet(widths=(64, 128, 256, 512), blocks=2, shortcut="projection").eval(), 2),
}
"""Constructor, and iterations that are timed together."""
OBJECTIVES = ("cosine-similarity", "euclidean")
RECOVERY = ("sapag", "euclidean", "cosine-similarity", "angular", "l1", "tag-euclidean")


def attacker(breaching: Any, model: nn.Module, configuration: str, objective: str, **optim: Any) -> Any:
    """breaching's attacker for this objective."""
    from breaching.attacks import prepare_attack

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = breaching.get_attack_config(configuration)
    cfg.attack_type = "optimization"
    cfg.objective.type = objective
    for name, setting in optim.items():
        cfg.optim[name] = setting
    return prepare_attack(model, nn.CrossEntropyLoss(), cfg)


def exchange(model: nn.Module, image: Tensor, label: Tensor) -> tuple[list[dict], list[dict]]:
    """What breaching's server sent and its user shared, for one image ``[1, ...]``."""
    gradient = torch.autograd.grad(F.cross_entropy(model(image), label), tuple(model.parameters()))
    shape = list(image.shape[1:])
    metadata = SimpleNamespace(shape=shape, mean=[0.0] * shape[0], std=[1.0] * shape[0], modality="vision")
    state = {"parameters": [p.detach() for p in model.parameters()], "buffers": list(model.buffers())}
    known = {"num_data_points": 1, "labels": label, "local_hyperparams": None}
    return [state | {"metadata": metadata}], [
        {"gradients": list(gradient), "buffers": list(model.buffers()), "metadata": known}
    ]


class _Constant(torch.autograd.Function):
    """Zero, with the target itself for its derivative."""

    @staticmethod
    def forward(ctx: Any, target: Sequence[Tensor], *dummy: Tensor) -> Tensor:
        ctx.slopes = target
        return dummy[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return (None, *ctx.slopes)


def free_objectives() -> dict[str, type]:
    """Objectives that cost nothing, as breaching's lookup takes them."""
    from breaching.attacks.auxiliaries.objectives import GradientLoss

    class FreeDistance(GradientLoss):
        def __init__(self, **options: Any) -> None:
            super().__init__()

        def gradient_based_loss(self, rec: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
            return _Constant.apply(data, *rec)

    class FreeObjective(FreeDistance):
        def forward(self, model: nn.Module, data: Any, candidate: Tensor, labels: Tensor) -> tuple:
            return candidate.sum() * 0.0, candidate.new_zeros(())

    return {"free distance": FreeDistance, "free objective": FreeObjective}


def loop(breaching: Any, network: str, objective: str) -> Callable[[], object]:
    """A few iterations of breaching's attack loop, set up with the lookup as it is now."""
    make, iterations = NETWORKS[network]
    torch.manual_seed(0)
    model = make()
    sent, shared = exchange(model, torch.rand(1, *IMAGE), torch.tensor([3]))
    attack = attacker(breaching, model, "invertinggradients", objective, max_iterations=iterations)
    models, labels, stats = attack.prepare_attack(sent, shared)
    return lambda: attack._run_trial(models, shared, labels, stats, 0)


def speed(breaching: Any, network: str, objective: str, rounds: int) -> dict:
    """Milliseconds an iteration and ratios to breaching's own, over rounds."""
    from breaching.attacks.auxiliaries.objectives import objective_lookup

    runs = {"own": loop(breaching, network, objective)}
    own = fused.install(distance_only=True)
    try:
        runs["distance alone"] = loop(breaching, network, objective)
        fused.install()
        runs["fused"] = loop(breaching, network, objective)
        runs["sapag"] = loop(breaching, network, "sapag")
        objective_lookup.update(free := free_objectives())
        runs |= {name: loop(breaching, network, name) for name in free}
    finally:
        objective_lookup.clear()
        objective_lookup.update(own)
    seconds = time_in_turns(runs, rounds=rounds, clock=time.process_time)
    iterations = NETWORKS[network][1]
    return {
        "milliseconds": {k: quantiles([s / iterations * 1e3 for s in v]) for k, v in seconds.items()},
        "times faster": {k: ratio(seconds["own"], v) for k, v in seconds.items() if k != "own"},
    }


def recovery(
    breaching: Any, images: Tensor, labels: Tensor, initialisation: str, steps: int, objectives: Sequence[str]
) -> dict:
    """Mean squared error of every victim by objective, from the same starts; the names that breaching has
    are its own objectives, not ours."""
    from breaching.attacks.auxiliaries.objectives import objective_lookup

    model = initialise(LeNet(channels=images.shape[1], image_size=images.shape[2]), initialisation)
    own = fused.install()
    objective_lookup.update(own)
    found: dict[str, dict] = {}
    try:
        for objective in objectives:
            errors = []
            for victim, (image, label) in enumerate(zip(images, labels, strict=True)):
                sent, shared = exchange(model, image[None], label[None])
                attack = attacker(breaching, model, "deepleakage", objective, max_iterations=steps)
                noise = torch.randn(1, *image.shape, generator=torch.Generator().manual_seed(victim))
                result, _ = attack.reconstruct(sent, shared, {}, initial_data=0.5 + 0.01 * noise)
                errors.append((result["data"][0].clamp(0, 1) - image).square().mean().item())
            solved = sum(error < SUCCESS for error in errors)
            found[objective] = {"recovered": solved, "median mse": median(errors), "mse": errors}
            print(
                f"  {initialisation:10} {objective:20} {solved}/{len(errors)}  {median(errors):.1e}",
                flush=True,
            )
    finally:
        objective_lookup.clear()
        objective_lookup.update(own)
    return found


def record(path: Path, part: dict[str, Any]) -> None:
    """Put one part into the report, whose other parts stay as they are."""
    report = json.loads(path.read_text()) if path.exists() else {}
    for found in part.values():
        found |= machine()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": "breaching_speed", **report, **part}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="MNIST in IDX format; the bundled digits without")
    parser.add_argument("--first", type=int, default=0, help="first image")
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--initialisations", nargs="*", default=["default"])
    parser.add_argument("--objectives", nargs="*", default=list(RECOVERY))
    parser.add_argument("--steps", type=int, default=15, help="of L-BFGS, up to 20 evaluations each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-recovery", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "breaching_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # torch.jit's and hydra's, by breaching
    breaching = import_breaching()
    if not options.no_speed:
        speeds: dict[str, Any] = {"rounds": options.rounds}
        for network in NETWORKS:
            for objective in OBJECTIVES:
                found = speed(breaching, network, objective, options.rounds)
                speeds[f"{network}, {objective}"] = found
                print(f"{network}, {objective}: {found['milliseconds']['own']['q50']:.2f} ms an iteration")
                for name, times in found["times faster"].items():
                    print(f"  {name:15} {found['milliseconds'][name]['q50']:9.2f} ms  {times['q50']:.2f} x")
        record(options.output, {"speed": speeds})
    if not options.no_recovery:
        if options.data is None:
            images, labels = digits(size=28)
            images, labels = (
                images[options.first :][: options.victims],
                labels[options.first :][: options.victims],
            )
        else:
            images, labels = read_dataset(options.data, first=options.first, count=options.victims)
        told = {"victims": len(labels), "first": options.first, "steps": options.steps, "success": SUCCESS}
        for init in options.initialisations:
            told[init] = recovery(breaching, images, labels, init, options.steps, options.objectives)
        record(options.output, {"recovery": told})


if __name__ == "__main__":
    main()
