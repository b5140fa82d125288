"""The public face of the attack: `recover`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, device, nn

from sapag_fast import checks as check
from sapag_fast.recovery.certificate import certifier_of
from sapag_fast.recovery.exact_answers import answers_of
from sapag_fast.recovery.hand_out import HandOut
from sapag_fast.recovery.progress import progress_callback
from sapag_fast.recovery.result import Recovery
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.loop import Hooks
from sapag_fast.search.options import SearchOptions, takes_search_options
from sapag_fast.search.prepare import Attack, Targets, prepare
from sapag_fast.victim.cautions import CautionWarning
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.targets import TargetGradient

__all__ = ["recover"]


@takes_search_options
def recover(
    model: nn.Module,
    target: TargetGradient,
    input_shape: Sequence[int],
    *,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    labels: str | Tensor | Sequence[int] = "infer",
    batched: bool = False,
    device: device | str | None = None,
    checkpoint: str | Path | None = None,
    on_finished: Callable[[int, Recovery], object] | None = None,
    progress: bool | Callable[[int, Tensor], object] = False,
    options: SearchOptions | None = None,
    **changes: Any,
) -> Recovery:
    """Search the inputs whose gradient is `target`.

    What arithmetic gives (`recover_exact`) is not searched. All restarts of all other victims are searches,
    as many at once as memory bears. Same arguments, same number at once, same machine: same bits.
    Of calls in several threads one runs at a time: the random numbers are the process's.

    Parameters
    ----------
    model : nn.Module
        The victim network, in the mode in which the gradient was taken. It is left as it is found.
    target : iterable or mapping of Tensor, ndarray or None
        The gradient, an entry for each parameter with ``requires_grad=True`` in the order of the model's, for
        each of the ``state_dict()``, or by name (`update_from` makes one of parameters before and after);
        with `batched` every entry has a leading dimension R, one row a victim.
    input_shape : sequence of int
        Shape of one input, without the batch.
    loss_fn : str, Loss or callable, optional
        ``"cross-entropy"`` (the default), ``"bce"`` (binary cross-entropy with logits), ``"mse"``, one of
        `sapag_fast.losses` with its settings, or ``(output, labels) -> scalar``.
    batch_size : int
        Inputs behind one gradient, B.
    labels : str, Tensor or sequence of int
        ``"infer"`` (from the last linear layer's gradient; ``label_source`` of the result says how sure),
        ``"joint"`` (searched with the inputs, as in DLG), or the labels: classes ``[B]``, ``[R, B]``, or what
        the loss takes. A callable other than PyTorch's cross-entropy needs them, or `OwnInference`.
    device : torch.device or str, optional
        Where to work; None: where the model is.
    checkpoint : str or Path, optional
        A .safetensors file that keeps the state, written every half minute; the same call goes on from it
        with the same bits. Removed at the end.
    on_finished : callable, optional
        Called with (victim, its `Recovery`, R = 1) as soon as a victim's restarts have ended; after a stop
        perhaps once more, with the same bits.
    progress : bool or callable
        A bar, or called with (mean evaluations, ``[R x restarts]`` lowest distances) now and then.
    options, **changes : SearchOptions
        How the search goes, as an object, as single fields (``restarts=4``), or both: fields win.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    Interrupted
        When Ctrl-C ends the search; it carries what was found until then.
    """
    if on_finished is not None:
        check.check_callable("on_finished", on_finished)
    if progress is not None and not isinstance(progress, bool):
        check.check_callable("progress", progress)
    if checkpoint is not None:
        checkpoint = check.check_path("checkpoint", checkpoint)
    batched = check.check_flag("batched", batched)
    attack = prepare(
        model,
        Targets(target, labels, batched),
        input_shape,
        loss_fn=loss_fn,
        batch_size=batch_size,
        options=SearchOptions.given(options, changes, recover),
        device=device,
    )
    for caution in attack.setup.cautions:
        warnings.warn(caution.message, CautionWarning, stacklevel=2)
    return _run(attack, on_finished=on_finished, progress=progress, checkpoint=checkpoint)


def _run(
    attack: Attack,
    *,
    on_finished: Callable[[int, Recovery], object] | None,
    progress: bool | Callable[[int, Tensor], object],
    checkpoint: str | Path | None,
) -> Recovery:
    """Run an attack to its end: certificates, progress, and who is told of ended victims.

    Raises
    ------
    Interrupted
        When Ctrl-C ends the search.
    """
    certifier = certifier_of(attack)
    hand_out = HandOut(attack, certifier, on_finished, answers_of(attack))
    certified_at = certifier.thresholds if attack.setup.options.stop_certified else None
    with progress_callback(progress, attack.setup.recipe.steps) as callback:
        hooks = Hooks(callback, hand_out.take)
        result = attack.run(
            certified_at=certified_at, answered=hand_out.answered, hooks=hooks, checkpoint=checkpoint
        )
    recovery = hand_out.whole(result)
    if result.interrupted:
        raise Interrupted(recovery)
    return recovery
