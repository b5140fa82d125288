"""LAMP (Balunović et al., NeurIPS 2022): its `grad_dist`.

``attack.py`` reads its command line when it is imported, and ``--loss`` admits LAMP's own names alone. What
it calls looks ``grad_dist`` up in ``utilities``: a script beside it puts ours there, and then runs it.

    import runpy
    from functools import partial
    import utilities
    from sapag_fast.integrations.lamp import grad_dist

    utilities.grad_dist = partial(grad_dist, kind="sapag")  # whatever --loss says; without kind, what it says
    runpy.run_path("attack.py", run_name="__main__")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances.kind import Kind, kinds
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.kept import kept, tensor_cosines
from sapag_fast.integrations.selected import kept_selected, present

__all__ = ["grad_dist"]


def grad_dist(
    grads1: Iterable[Tensor | None],
    grads2: Iterable[Tensor | None],
    args: Any,
    *,
    kind: str | Kind | None = None,
) -> Tensor:
    """The distance of `grads2`, the candidate's gradients, to `grads1`, the true ones.

    Shape ``()``, differentiable in `grads2`.

    Parameters
    ----------
    grads1, grads2 : iterable of Tensor or None
        Pairs with None on either side are left out.
    args : object
        ``args.loss``: ``cos`` (the mean over gradients; one that is all zeros counts 1), ``dlg``, ``tag``
        (with ``args.tag_factor``), or a kind of `sapag_fast.GradientDistance`.
    kind : str or Kind, optional
        A kind in place of what ``args.loss`` says. It is a sum over layers where ``cos`` is a mean:
        ``--coeff_perplexity`` and ``--coeff_reg`` weigh as much less beside it.

    Notes
    -----
    The bias of a softmax attention's keys has no gradient: what stands there is rounding, a norm of 1e-12 or
    so beside 1. ``cos`` gives it the weight of every other tensor, here as in LAMP: about 1 over the number
    of tensors for each, and a derivative of noise. Our own kinds (``sapag``, ``layer-cosine``, ...) leave out
    layers whose norm is below 1e-6 of the whole gradient's.
    """
    dummies, given = both_lists("grads2", grads2, "grads1", grads1, in_pairs=False)
    chosen = present(dummies, given)
    if not chosen:
        raise ValueError("grads1: expected at least one pair of gradients to compare, found none")
    if kind is not None:
        return kept_selected(kind, dummies, given, chosen)
    mine, true = [dummies[i] for i in chosen], [given[i] for i in chosen]
    if args.loss == "cos":
        return tensor_cosines((1 / len(chosen),) * len(chosen))(mine, true)
    if args.loss == "dlg":
        return kept("l2")(mine, true)
    if args.loss == "tag":
        return kept("tag", l1_weight=check.check_weight("args.tag_factor", args.tag_factor))(mine, true)
    check.check_choice("args.loss", args.loss, ("cos", "dlg", *kinds()))
    return kept_selected(args.loss, dummies, given, chosen)
