"""Distances between gradients: mathematics on the layers' sums, and the kernels' operators."""

from sapag_fast.distances.formulas import degenerate, gaussian
from sapag_fast.distances.kind import Kind, find_kind, kinds, register_distance

__all__ = ["Kind", "degenerate", "find_kind", "gaussian", "kinds", "register_distance"]
