"""Write a table from the parameters of small kernels, which a captured CUDA graph keeps."""
# Triton's language is no Python to a type checker.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

WORDS = 24  # that one launch carries


def write_all(table: Tensor, words: Sequence[int]) -> None:
    """Write ``words`` to the int64 ``table`` by kernels that carry them in their parameters."""
    for first in range(0, len(words), WORDS):
        some = words[first : first + WORDS]
        write_words[(1,)](table, first, len(some), *some, *[0] * (WORDS - len(some)))


_NAMES = [f"w{i}" for i in range(WORDS)]


@triton.jit(do_not_specialize=["first", "n", *_NAMES])
def write_words(
    table,
    first,
    n,
    w0: tl.int64,
    w1: tl.int64,
    w2: tl.int64,
    w3: tl.int64,
    w4: tl.int64,
    w5: tl.int64,
    w6: tl.int64,
    w7: tl.int64,
    w8: tl.int64,
    w9: tl.int64,
    w10: tl.int64,
    w11: tl.int64,
    w12: tl.int64,
    w13: tl.int64,
    w14: tl.int64,
    w15: tl.int64,
    w16: tl.int64,
    w17: tl.int64,
    w18: tl.int64,
    w19: tl.int64,
    w20: tl.int64,
    w21: tl.int64,
    w22: tl.int64,
    w23: tl.int64,
):
    """table[first + i] = w_i for i < n."""
    words = (w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11)
    more = (w12, w13, w14, w15, w16, w17, w18, w19, w20, w21, w22, w23)
    for i in tl.static_range(12):
        tl.store(table + first + i, words[i], mask=i < n)
        tl.store(table + first + 12 + i, more[i], mask=12 + i < n)
