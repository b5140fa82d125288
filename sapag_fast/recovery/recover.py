"""The public face of the attack: `recover`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.recovery.certificate import certifier_for
from sapag_fast.recovery.progress import progress_callback
from sapag_fast.recovery.result import Recovery, winners
from sapag_fast.runtime.denormals import flushed_denormals
from sapag_fast.search.basis import make_basis
from sapag_fast.search.capacity import first_matching, searches_at_once
from sapag_fast.search.loop import run_attack
from sapag_fast.search.recipe import Recipe, settled_recipe
from sapag_fast.search.starts import make_start, recovery_generator
from sapag_fast.search.tasks import AttackResult
from sapag_fast.victim.labels import infer_labels
from sapag_fast.victim.probe import checked_trial, classes_of
from sapag_fast.victim.problem import Problem
from sapag_fast.victim.surrogate import Surrogate

if TYPE_CHECKING:
    from sapag_fast.search.checkpoint import Checkpoint

__all__ = ["Recovery", "recover"]

_NOISE_IMAGES = 64  # for the mean output that the label counts of a batch need


def recover(
    model: nn.Module,
    target: Iterable[Tensor | None],
    input_shape: Sequence[int],
    *,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    labels: str | Tensor | Sequence[int] = "infer",
    restarts: int = 1,
    stop_certified: bool = True,
    recipe: str | Recipe = "auto",
    distance: str | GradientDistance | None = None,
    layers: str | Sequence[int] = "modules",
    optimizer: str | None = None,
    steps: int | None = None,
    start: str | Sequence[str] | Tensor | None = None,
    basis: str | Sequence[str] | None = None,
    surrogate: str | bool | Surrogate | None = None,
    box: float | None = None,
    tv: float | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    local_steps: int = 1,
    local_lr: float | None = None,
    seed: int = 0,
    batched: bool = False,
    device: torch.device | str | None = None,
    max_memory: int | None = None,
    at_once: int | None = None,
    checkpoint: str | Path | None = None,
    on_finished: Callable[[int, Recovery], object] | None = None,
    progress: bool | Callable[[int, Tensor], object] = False,
) -> Recovery:
    """Search the inputs whose gradient is `target`.

    All restarts of all victims are searches of their own, as many at once as memory bears; the next ones
    take the places of those that have ended. The same arguments and the same number at once give the same
    bits on the same machine.

    Parameters
    ----------
    model : nn.Module
        The victim network, in the mode (training or not) in which the gradient was taken. It is left as it is
        found.
    target : iterable of Tensor or None
        The gradient, one entry for each parameter with ``requires_grad=True`` in the order of
        ``model.parameters()``; with `batched` every entry has a leading dimension R, one row a victim.
    input_shape : sequence of int
        Shape of one input, without the batch.
    loss_fn : callable, optional
        ``(output, labels) -> scalar``; cross-entropy if None.
    batch_size : int
        Inputs behind one gradient, B.
    labels : str, Tensor or sequence of int
        ``"infer"`` (cross-entropy only: from the last linear layer's gradient), ``"joint"`` (soft labels
        searched together with the inputs, as in DLG), or the labels: ``[B]``, ``[R, B]``.
    restarts : int
        Searches for each victim: a portfolio of starts, and where the recipe says so of prior weights and
        bases, since neither can be chosen without the truth. The one with the lowest distance without
        penalties wins (see `Recovery`).
    stop_certified : bool
        Once a restart of a victim is certified (see `Recovery.certificate`), it alone goes on to its end:
        the victim's others stop, and those that wait never begin.
    recipe : str or Recipe
        ``"auto"`` looks at the network and the input; ``"smooth"`` for networks without a kink, and
        ``"relu"`` through the surrogate for those with one, look at the input alone; the other names of
        `RECIPES` look at nothing. ``"text"`` is `recover_text`'s. The next arguments override the recipe.
    distance, optimizer, steps, start, basis, surrogate, box, tv
        None: from the recipe. A distance's kind or a `GradientDistance`; ``lbfgs``, ``adam``,
        ``signed-adam``; evaluations of each restart; kinds of start or a tensor ``[R, restarts, B,
        *input_shape]`` (leading dimensions of 1 may be left out); ``pixel``, ``dct``, or several for the
        restarts in turn; ``softplus`` (smooth activations for those with a kink in the candidate's network
        alone, never in `model`), False or a `Surrogate`; weights of the penalties.
    layers : str or sequence of int
        Which gradients form a layer of the distance: ``modules`` (those of one submodule), ``shapes`` (a
        vector joins the tensor before it whose first dimension it shares), ``separate``, or a number for
        each. A `GradientDistance` brings its own.
    bounds : pair of float or None
        Range of the inputs' values; None: no box.
    local_steps, local_lr : int, float
        The client took that many steps of gradient descent with this rate, each on its whole batch, before it
        shared; `target` is then (parameters before - parameters after) / `local_lr`: the sum of the steps'
        gradients. Candidates are unrolled through the same steps, which explicit mode does not cover.
    seed : int
        Of all random numbers.
    device : torch.device or str, optional
        Where to work; None: where the model is.
    max_memory : int, optional
        Bytes that the searches may take; None: what is free. A small step is measured to see how many fit.
    at_once : int, optional
        Searches at once, whatever memory says. Halved if memory runs out all the same.
    checkpoint : str or Path, optional
        A .safetensors file to which the state is written every half minute, and from which the same call goes
        on, with the same bits, after it was stopped. Removed at the end.
    on_finished : callable, optional
        Called with (victim, its `Recovery`, R = 1) as soon as a victim's restarts have ended. After a stop, a
        victim may be handed out a second time, with the same bits.
    progress : bool or callable
        A progress bar, or a callable given (evaluations, averaged over all searches; ``[R x restarts]``
        lowest distances) now and then.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    place, parameters = check.check_model(model, device)
    shape = check.check_shape(input_shape)
    batch_size = check.check_count("batch_size", batch_size)
    restarts = check.check_count("restarts", restarts)
    bounds = check.check_bounds(bounds)
    local_steps, local_lr = check.check_local_steps(local_steps, local_lr)
    for name, count in (("max_memory", max_memory), ("at_once", at_once)):
        if count is not None:
            check.check_count(name, count)
    if on_finished is not None:
        check.check_callable("on_finished", on_finished)
    check.check_seed(seed)
    paired = model_layers(model, layers)
    targets = check.check_target(target, parameters, batched=batched, device=place, move=device is not None)
    dtype = parameters[0].dtype
    loss = F.cross_entropy if loss_fn is None else check.check_callable("loss_fn", loss_fn)
    joint = isinstance(labels, str) and labels == "joint"

    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        # Dropout and the like draw from the global generator: seeded here, given back as it was.
        torch.manual_seed(seed)
        draft = Problem(
            model,
            loss,
            GradientDistance(),
            targets,
            restarts=restarts,
            joint=joint,
            local_steps=local_steps,
            local_lr=local_lr,
            device=device,
        )
        output, recorder = checked_trial(draft, shape, batch_size, dtype, place)
        classes = classes_of(output)
        settings = settled_recipe(
            recipe,
            shape,
            batch_size,
            piecewise_linear=recorder.piecewise_linear,
            distance=distance,
            optimizer=optimizer,
            steps=steps,
            start=start,
            basis=basis,
            surrogate=surrogate,
            box=box,
            tv=tv,
        )
        if isinstance(distance, GradientDistance):
            draft.distance = distance
        else:
            draft.distance = GradientDistance(settings.distance, bandwidth=settings.bandwidth, layers=paired)

        victims = draft.victims
        generators = [recovery_generator(seed, v, k) for v in range(victims) for k in range(restarts)]
        drawn = _starts(start, settings, victims, restarts, (batch_size, *shape), bounds, generators)
        starts = drawn.to(device=place, dtype=dtype)

        if joint:
            if classes is None:
                raise ValueError("labels='joint' needs a model whose output is [B, classes]")
            logits = [torch.randn(batch_size, classes, generator=g, dtype=torch.float64) for g in generators]
            known = torch.stack(logits).to(device=place, dtype=dtype)
        else:
            known = _known_labels(labels, draft, classes, loss_fn is None, shape, batch_size, bounds, batched)
            known = known.repeat_interleave(restarts, 0)
        _check_loss(loss, output, known[0], joint)

        place_of = {"bounds": bounds, "device": place, "dtype": dtype}
        bases = [make_basis(name, shape, **place_of) for name in settings.bases]
        certifier = certifier_for(
            draft,
            settings,
            shape,
            batch_size,
            kinked=recorder.piecewise_linear,
            unusual=[
                why
                for why, so in (
                    ("a loss of one's own", loss_fn is not None),
                    ("labels searched jointly", joint),
                    ("a distance or layers of one's own", layers != "modules" or distance is draft.distance),
                    ("bounds other than 0 and 1", bounds != (0.0, 1.0)),
                    (f"gradients of {dtype}", dtype not in (torch.float32, torch.float64)),
                )
                if so
            ],
        )
        certified_at = certifier.thresholds if stop_certified else None
        # The fused attention kernels cannot be differentiated twice.
        with (
            sdpa_kernel(SDPBackend.MATH),
            flushed_denormals(settings.surrogate is not None and place.type == "cpu"),
            progress_callback(progress, settings.steps) as callback,
        ):
            matching, sharp = first_matching(draft, starts, known, settings)
            rows = at_once
            if rows is None:
                size = starts[0].numel() + (known[0].numel() if joint else 0)
                with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
                    # At once as many as measured, or as many given: the same random numbers afterwards.
                    rows = searches_at_once(
                        matching, starts, known, draft.rows(), sharp, settings, size, max_memory
                    )
            told = {"joint": joint, "matching": matching, "recipe": settings, "certifier": certifier}

            def hand_out(victim: int, result: AttackResult) -> None:
                on_finished(victim, winners(result, restarts, first=victim, **told))

            result = run_attack(
                matching,
                starts,
                known,
                recipe=settings,
                steps=settings.steps,
                basis=bases,
                bounds=bounds,
                joint=joint,
                restarts=restarts,
                certified_at=certified_at,
                rows=rows,
                progress=callback,
                on_victim=None if on_finished is None else hand_out,
                checkpoint=_checkpoint(
                    checkpoint, draft, starts, known, settings, restarts, bounds, certified_at
                ),
            )
    return winners(result, restarts, **told)


def _checkpoint(
    path: str | Path | None,
    problem: Problem,
    starts: Tensor,
    labels: Tensor,
    recipe: Recipe,
    restarts: int,
    bounds: tuple[float, float] | None,
    certified_at: Sequence[float] | None,
) -> Checkpoint | None:
    if path is None:
        return None
    from sapag_fast.files.fingerprint import fingerprint
    from sapag_fast.search.checkpoint import Checkpoint  # here: it alone needs safetensors

    distance = problem.distance.options | {"layer_weights": None, "variance": None}
    words = (
        torch.__version__,
        recipe,
        restarts,
        bounds,
        certified_at,
        (problem.local_steps, problem.local_lr),
        str(starts.device),
        sorted(distance.items()),
    )
    options = (problem.distance.layer_weights, problem.distance.variance)
    network = (*problem.parameters.values(), *problem.constants.values(), *problem.buffers.values())
    return Checkpoint(path, fingerprint(words, (*network, *problem.targets, starts, labels, *options)))


def _starts(
    start: object,
    settings: Recipe,
    victims: int,
    restarts: int,
    shape: tuple[int, ...],
    bounds: tuple[float, float] | None,
    generators: list[torch.Generator],
) -> Tensor:
    """``[V x restarts, B, *input_shape]``, victim by victim: given, or drawn with one generator each."""
    if isinstance(start, Tensor):
        return check.check_start(start.detach(), victims=victims, restarts=restarts, shape=shape)
    kinds = [settings.starts[k % len(settings.starts)] for k in range(restarts)] * victims
    return torch.stack([make_start(k, shape, bounds, g) for k, g in zip(kinds, generators, strict=True)])


def _known_labels(
    labels: object,
    problem: Problem,
    classes: int | None,
    default_loss: bool,
    shape: tuple[int, ...],
    batch_size: int,
    bounds: tuple[float, float] | None,
    batched: bool,
) -> Tensor:
    """Labels ``[V, B, ...]``, inferred or given."""
    like = next(iter(problem.parameters.values()))
    if isinstance(labels, str):
        if labels != "infer":
            raise ValueError(f"labels must be 'infer', 'joint' or a tensor, found {labels!r}")
        low, high = bounds if bounds is not None else (0.0, 1.0)
        noise = torch.rand(_NOISE_IMAGES, *shape, dtype=like.dtype, device=like.device) * (high - low) + low
        return infer_labels(problem, batch_size=batch_size, noise=noise, classes=classes)
    return check.check_labels(
        labels,
        victims=problem.victims,
        batch_size=batch_size,
        batched=batched,
        classes=classes if default_loss else None,
        device=like.device,
    )


def _check_loss(loss: Callable, output: Tensor, labels: Tensor, joint: bool) -> None:
    """The loss must take the model's output and labels, and give one number."""
    try:
        with torch.no_grad():
            value = loss(output, labels.softmax(-1) if joint else labels)
    except Exception as error:
        raise ValueError(
            f"loss_fn rejects the model's output and the labels ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss_fn must return one number for the batch (a tensor of shape []), found {found}"
        )
