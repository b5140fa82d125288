"""Batched L-BFGS, with or without a line search."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.search.optimizers.armijo import Armijo
from sapag_fast.search.optimizers.compiled import choose_backend
from sapag_fast.search.optimizers.lbfgs_compiled import CompiledSteps
from sapag_fast.search.optimizers.lbfgs_torch import TorchSteps
from sapag_fast.search.optimizers.optimizer import Optimizer
from sapag_fast.search.optimizers.rows import Rows
from sapag_fast.search.recipe import LINE_SEARCHES

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """Batched L-BFGS, with or without a line search.

    Without one it has the semantics of ``torch.optim.LBFGS`` with its tolerances off: first step along -g
    with length min(1, 1/‖g‖₁)·lr, later steps -lr·H g, H from the last `history` pairs (s, y) with initial
    scale sᵀy / yᵀy; a pair with sᵀy ≤ 1e-10 is skipped, for its recovery alone, and so is one that is not
    finite. The inverse Hessian is applied in compact form (Byrd, Nocedal, Schnabel 1994,
    theorem 2.2), which is the two-loop recursion with its 2·history dependent dot products gathered into
    passes over the history.

    With ``line_search="armijo"`` `step` also wants the objective at the present variables, and each call
    decides, for every recovery alone, whether its point is taken (the change returned is then a new
    direction's) or not (the change then leads to a shorter step along the old direction, see `Armijo`).
    `accepted` ``[R]`` tells which it was; the objective at accepted points never increases.

    Parameters
    ----------
    recoveries, size : int
        R and N.
    history : int
        Pairs kept for each recovery.
    lr : float
        Step length; with a line search, of the first point tried along each direction.
    line_search : str, optional
        ``armijo``.
    backend : str, optional
        ``compiled`` (one recovery at a time in cache, in C++) or ``torch``; chosen by device when None.

    Raises
    ------
    ValueError
        When `history` is not positive, for an unknown line search, an unknown or unfit backend, or another
        dtype than float32 and float64.
    """

    def __init__(
        self,
        recoveries: int,
        size: int,
        *,
        lr: float = 1.0,
        history: int = 100,
        line_search: str | None = None,
        backend: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if history < 1:
            raise ValueError(f"history must be at least 1, found {history}")
        if line_search is not None and line_search not in LINE_SEARCHES:
            raise ValueError(
                f"line_search: expected one of {', '.join(LINE_SEARCHES)} or None, found {line_search!r}"
            )
        self.backend = choose_backend(backend, device, dtype)
        super().__init__(Rows(recoveries, device), size, dtype)
        steps = CompiledSteps if self.backend == "compiled" else TorchSteps
        self._steps = steps(self._rows, size, history, lr, dtype)
        self._search = Armijo(self._rows) if line_search else None

    @property
    def accepted(self) -> Tensor:
        """``[R]``, bool: whether the last call took the point it was given."""
        rows = self._rows
        if self._search is None:
            return torch.ones(rows.recoveries, dtype=torch.bool, device=rows.device)
        return rows["refused"] == 0

    def resume(self, rows: Tensor) -> None:
        """Go on with another objective, see `Optimizer.resume`.

        Parameters
        ----------
        rows : Tensor
            The recoveries, int64 ``[rows]``.
        """
        # A step of no length makes no pair of gradients of two objectives.
        self._rows.fill("previous_step", rows, 0.0)
        if self._search is not None:
            self._search.resume(rows)

    def step(self, gradient: Tensor, objective: Tensor | None = None) -> Tensor:
        """Compute the change to add to the variables.

        Parameters
        ----------
        gradient : Tensor
            ``[R, N]``, at the present variables.
        objective : Tensor, optional
            ``[R]``, at the present variables; not read without a line search.

        Returns
        -------
        Tensor
            ``[R, N]``.

        Raises
        ------
        ValueError
            When a line search gets no objective, and for a gradient or objective of another shape.
        """
        self._check(gradient)
        if self._search is None:
            return self._steps.take(gradient, None)[0]
        if objective is None:
            raise ValueError("objective: a line search needs it at every step, found None")
        if objective.shape != gradient.shape[:1]:
            raise ValueError(
                f"objective: expected shape {list(gradient.shape[:1])}, found {list(objective.shape)}"
            )
        verdict = self._search.judge(gradient, objective)
        change, slope = self._steps.take(gradient, verdict)
        self._search.follow(verdict, slope)
        return change
