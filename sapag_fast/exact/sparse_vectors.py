"""Vectors with many zeros in a subspace.

Sampling rows and taking what vanishes on them (SPEAR, Dimitrov et al. 2024) meets such a vector once in
2^(r - 1) draws, where r is the subspace's dimension and half of a vector is zero. Here each draw is only a
start: from it the sum of log(v_j² + e²) over the vector's entries is made small, by reweighted least squares
while e falls, and most starts arrive at one of the vectors. What has been found is kept away from at first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["SparseVectors", "sparse_vectors"]

_STAGES = ((1.0, 10), (0.5, 10), (0.25, 8), (0.1, 4), (0.03, 4), (0.001, 4))
"""e, in units of the vector's root mean square, and updates there."""
_AWAY_UNTIL = 0.25
_AT_ONCE = 64
_SETTLED = 4
"""Looks that change nothing, after which a whole set stays."""
_FEWEST_ROWS, _ROWS_EACH = 400, 40
"""Rows that a start looks at on its way, at least and for each dimension; in the end all count."""
_MORE_ZEROS = 4
"""Zeros of a vector beyond those that any vector of the subspace can have."""
_INDEPENDENT = 1e-3
_SAME = 1e-5
_PAIRS, _NOTHING, _RECURS = 4, 1e-6, 1e-4
_SIGMAS = 40.0
_SAYS_NOTHING = 0.1
"""Entries that are off by more, of the usual one, are not looked at."""


class SparseVectors:
    """Vectors of a subspace that have many zeros, as they are found.

    Parameters
    ----------
    basis : Tensor
        ``[m, r]``, float64, its columns orthonormal.
    errors : Tensor
        ``[r]``, about how far the entries of each column are off.

    Attributes
    ----------
    rows : Tensor
        ``[m]``, bool: those that say something; in the others the whole subspace is zero.
    """

    def __init__(self, basis: Tensor, errors: Tensor) -> None:
        lengths = basis.norm(dim=1)
        self.rows = lengths > 1e-9 * lengths.max()
        self._lengths, self._errors = lengths[self.rows], errors
        # Every row counts alike, whatever the size of its numbers.
        self._even, self._back = torch.linalg.qr(basis[self.rows] / self._lengths[:, None])
        # Rows come in no order, but those of a network's may: the first of them stand for all.
        mixed = torch.randperm(len(self._even), generator=torch.Generator().manual_seed(0))
        self._even, self._lengths = self._even[mixed], self._lengths[mixed]
        self.found: list[tuple[int, Tensor]] = []  # zeros, direction in the even basis

    @property
    def dimension(self) -> int:
        """Of the subspace, r."""
        return self._even.shape[1]

    def look(self, starts: Tensor, turn: int) -> None:
        """Go from starts ``[S, r]`` to sparse vectors, and keep those that are new.

        In turn from where e is large or smaller, and with what was found kept away from or not.
        """
        away = torch.stack([q for _, q in self.found]) if self.found and turn % 2 else starts[:0]
        for q in self._descended(starts, away, _STAGES[turn % 4 // 2 :]):
            self._keep(q)
        self._take_apart()

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Starts ``[count, r]``: vectors that vanish on r - 1 drawn rows."""
        r = self.dimension
        rows = torch.stack(
            [torch.randperm(len(self._even), generator=generator)[: r - 1] for _ in range(count)]
        )
        return torch.linalg.svd(self._even[rows], full_matrices=True).Vh[:, -1]

    def independent(self) -> Tensor | None:
        """Coefficients ``[r, r]`` of r independent ones in the basis, row by row, most zeros first.

        None where fewer have been found.
        """
        chosen: list[Tensor] = []
        frame: list[Tensor] = []
        for _, q in sorted(self.found, key=lambda one: -one[0]):
            rest = q.clone()
            for _ in range(2):
                for known in frame:
                    rest -= (known @ rest) * known
            if float(rest.norm()) > _INDEPENDENT:
                frame.append(rest / rest.norm())
                chosen.append(q)
            if len(chosen) == self.dimension:
                return self._coefficients(torch.stack(chosen))
        return None

    def _descended(self, q: Tensor, away: Tensor, stages: Sequence[tuple[float, int]]) -> Tensor:
        r = self.dimension
        even = self._even[: max(_FEWEST_ROWS, _ROWS_EACH * r)]
        products = (even[:, :, None] * even[:, None, :]).flatten(1)
        repulsion = away.T @ away
        for e, updates in stages:
            for _ in range(updates):
                squares = (q @ even.T).square()
                weights = (squares + e**2 * squares.mean(1, keepdim=True)).reciprocal()
                normal = (weights @ products).view(-1, r, r)
                if e >= _AWAY_UNTIL:
                    normal = normal + normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * repulsion
                q = torch.cholesky_solve(q[:, :, None], torch.linalg.cholesky(normal))[:, :, 0]
                q = q / q.norm(dim=1, keepdim=True)
        return q

    def _take_apart(self) -> None:
        """Find vectors of which others are combinations: a - c b has more zeros for a ratio c that recurs.

        Two inputs of one label are often found as one combination of both, before either of them.
        """
        most = _PAIRS * self.dimension
        self.found.sort(key=lambda one: -one[0])
        vectors = torch.stack([q for _, q in self.found[:most]]) if self.found else self._even[:0]
        entries = vectors @ self._even.T
        small = entries.abs() < _NOTHING * entries.square().mean(1, keepdim=True).sqrt()
        window = self.dimension + _MORE_ZEROS
        for q, mine in zip(vectors, entries, strict=True):
            ratios = torch.where(small, torch.inf, mine / entries).sort(1).values
            spans = (ratios[:, window:] - ratios[:, :-window]) / ratios[:, window:].abs()
            least, at = spans.nan_to_num(torch.inf, torch.inf).min(1)
            for other in (least < _RECURS).nonzero().flatten().tolist():
                apart = q - ratios[other, int(at[other]) + window // 2] * vectors[other]
                if float(apart.norm()) > _INDEPENDENT:
                    self._keep(apart / apart.norm())

    def _coefficients(self, q: Tensor) -> Tensor:
        """Of directions ``[..., r]`` in the even basis, those in the basis that was given."""
        return torch.linalg.solve_triangular(self._back, q[..., None], upper=True)[..., 0]

    def _keep(self, q: Tensor) -> None:
        """Make one exact by its own zeros, and keep it where these are too many to be chance."""
        r, zeros = self.dimension, torch.zeros(0, dtype=torch.bool)
        for loose in (1e-2, 1e-3, 1e-4, 0.0, 0.0, 0.0):
            entries = (self._even @ q).abs()
            off = _SIGMAS * (self._coefficients(q) * self._errors).norm() / self._lengths
            usual = entries.square().mean().sqrt()
            zeros = (entries < off.clamp(min=loose * usual)) & (off < _SAYS_NOTHING * usual)
            if int(zeros.sum()) < r + _MORE_ZEROS:
                return
            values, vectors = torch.linalg.eigh(self._even[zeros].T @ self._even[zeros])
            if r > 1 and not values[1] > 1e-8:  # its zeros leave another direction free
                return
            q = vectors[:, 0]
        if all(abs(float(known @ q)) < 1 - _SAME for _, known in self.found):
            self.found.append((int(zeros.sum()), q))


def sparse_vectors(
    basis: Tensor, *, errors: Tensor, starts: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Give sets of r independent vectors with many zeros in the span of a basis, better and better ones.

    Some vectors are combinations of two that share their zeros, and have fewer of them: a set is given each
    time that one with more zeros, or the last that it took, is found.

    Parameters
    ----------
    basis : Tensor
        ``[m, r]``, float64, its columns orthonormal.
    errors : Tensor
        ``[r]``, about how far the entries of each column are off.
    starts : int
        The most starts.
    generator : torch.Generator

    Yields
    ------
    Tensor
        ``[r, m]``, of unit length.
    """
    search = SparseVectors(basis, errors)
    if int(search.rows.sum()) < search.dimension + _MORE_ZEROS:
        return
    before, settled = torch.zeros(0), 0
    for turn, begun in enumerate(range(0, starts, _AT_ONCE)):
        search.look(search.drawn(min(_AT_ONCE, starts - begun), generator), turn)
        coefficients = search.independent()
        if coefficients is None:
            continue
        if len(before) and torch.equal(coefficients, before):
            settled += 1
            if settled == _SETTLED:
                return
            continue
        before, settled = coefficients, 0
        vectors = coefficients @ basis.T
        yield vectors / vectors.norm(dim=1, keepdim=True)
