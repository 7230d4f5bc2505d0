"""Compiling loops with numba, and the exponential and logarithm that these loops use.

Legend: d entries of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from mosaicvi.engine.loop_cache import LoopCache

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
F = TypeVar("F", bound=Callable[..., Any])

f32, i32 = np.float32, np.int32


def _jit(f: F, fastmath: set[str]) -> F:
    # `forceinline` puts all that a loop calls into its own machine code. A call would reach the copy that the
    # process happened to load first, from the file of the caller or of the callee. These were optimised apart
    # and sum in different orders, so that weights would depend on which files there were at the start.
    loop: Any = numba.njit(nogil=True, error_model="numpy", forceinline=True, fastmath=fastmath)(f)
    loop._cache = LoopCache(f)
    return cast(F, loop)


def in_order(f: F) -> F:
    """Compile arithmetic that must be done in the order in which it is written."""
    return _jit(f, {"contract", "nsz"})


def any_order(f: F) -> F:
    """Compile loops whose sums may be taken in any order."""
    return _jit(f, {"contract", "nsz", "reassoc"})


def _pointed(typing: Any, address: Any) -> Any:
    """The address as a pointer to float32."""
    signature = types.CPointer(types.float32)(types.intp)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

    return signature, generate


_pointer = cast("Callable[..., Any]", intrinsic(_pointed))


@in_order
def floats_at(address: int, n: int) -> Any:
    """The n numbers at an address as an array, whose memory its owner must keep."""
    return carray(_pointer(address), (n,), np.float32)


@any_order
def copy(x: Floats, to: Floats) -> None:
    """Copy a matrix to a place of its shape.

    `to[:] = x` would check the shapes, and compiling the message about them takes longer than all the rest.
    """
    for i in range(len(x)):
        row, to_row = x[i], to[i]
        for j in range(len(row)):
            to_row[j] = row[j]


@in_order
def between(low: Any, x: Any, high: Any) -> Any:
    """X kept within bounds; NaN stays NaN."""
    x = low if x < low else x
    return high if x > high else x


@in_order
def exp(x: Any) -> Any:
    """Exponential to 1e-7 of itself (Cephes), between e^-87 and e^88; NaN stays NaN."""
    x = between(f32(-87.3), x, f32(88.3))
    k = np.floor(x * f32(1.44269504) + f32(0.5))
    r = x - k * f32(0.693359375)
    r = r - k * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1)
    return p * i32((i32(k) + i32(127)) << i32(23)).view(f32)


@in_order
def _log_of_sum(u: Any, t: Any) -> Any:
    """Logarithm of u to 1e-7 of itself (Cephes). Below 0.41, t is u - 1 without what u has lost of it."""
    i = i32(f32(u).view(i32) - i32(0x3F3504F3))
    e = f32(i32(i >> i32(23)))
    m = i32(i32(i & i32(0x007FFFFF)) + i32(0x3F3504F3)).view(f32)
    f = m - f32(1)
    f = t if t < f32(0.41) else f
    z = f * f
    p = f32(7.0376836292e-2)
    p = p * f + f32(-1.1514610310e-1)
    p = p * f + f32(1.1676998740e-1)
    p = p * f + f32(-1.2420140846e-1)
    p = p * f + f32(1.4249322787e-1)
    p = p * f + f32(-1.6668057665e-1)
    p = p * f + f32(2.0000714765e-1)
    p = p * f + f32(-2.4999993993e-1)
    p = p * f + f32(3.3333331174e-1)
    y = f * z * p + e * f32(-2.12194440e-4) - f32(0.5) * z
    return f + y + e * f32(0.693359375) + (u - u)  # NaN stays NaN


@in_order
def log(u: Any) -> Any:
    """Logarithm of a positive number."""
    return _log_of_sum(u, f32(1))


@in_order
def log1p(t: Any) -> Any:
    """log(1 + t) for t >= 0."""
    return _log_of_sum(f32(1) + t, t)
