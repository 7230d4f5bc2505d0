"""Matrix products inside compiled loops: by the library that torch itself uses, or else by scipy's.

A loop is given the address of the library's `sgemm`: compiled loops are kept from one process to the next,
and addresses are not.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - loads the library whose threads are counted
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic
from threadpoolctl import ThreadpoolController

from mosaicvi.engine.jit import Floats, f32, in_order

_LETTER, _INT, _REAL, _ADDRESS = types.int8, types.int32, types.float32, types.intp
_ARGUMENTS = (
    _LETTER, _LETTER, _INT, _INT, _INT, _REAL, _ADDRESS, _INT, _ADDRESS, _INT, _REAL, _ADDRESS, _INT,
)  # fmt: skip
_NORMAL, _TRANSPOSED = ord("N"), ord("T")


def _typed(
    typing: Any, routine: Any, ta: Any, tb: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, lda: Any, b: Any,
    ldb: Any, beta: Any, c: Any, ldc: Any,
) -> Any:  # fmt: skip
    """Call `sgemm` at an address; as in Fortran all of its arguments are pointers."""
    signature = types.void(_ADDRESS, *_ARGUMENTS)

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        pointers = [
            builder.inttoptr(value, pointer)
            if kind is _ADDRESS
            else builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)  # type: ignore[no-untyped-call]
            for kind, value in zip(_ARGUMENTS, given[1:], strict=True)
        ]
        kind = ir.FunctionType(ir.VoidType(), [pointer] * len(pointers))
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), pointers)
        return context.get_dummy_value()

    return signature, generate


_call = cast("Callable[..., None]", intrinsic(_typed))


@in_order
def product(routine: int, a: Floats, b: Floats, c: Floats, keep: float) -> None:
    """C = a b + keep c, for matrices whose rows are contiguous."""
    _multiply(routine, _NORMAL, _NORMAL, a.shape[1], a, b, c, keep)


@in_order
def product_with_transpose(routine: int, a: Floats, b: Floats, c: Floats, keep: float) -> None:
    """C = a b^T + keep c."""
    _multiply(routine, _TRANSPOSED, _NORMAL, a.shape[1], a, b, c, keep)


@in_order
def product_of_transpose(routine: int, a: Floats, b: Floats, c: Floats, keep: float) -> None:
    """C = a^T b + keep c."""
    _multiply(routine, _NORMAL, _TRANSPOSED, a.shape[0], a, b, c, keep)


@in_order
def _multiply(
    routine: int, of_b: int, of_a: int, depth: int, a: Floats, b: Floats, c: Floats, keep: float
) -> None:
    # the library counts columns first, so that it is asked for the transpose
    _call(
        routine, of_b, of_a, c.shape[1], c.shape[0], depth, f32(1), b.ctypes.data, b.strides[0] // 4,
        a.ctypes.data, a.strides[0] // 4, f32(keep), c.ctypes.data, c.strides[0] // 4,
    )  # fmt: skip


@cache
def routine() -> int:
    """Address of `sgemm`."""
    return _of_torch() or int(get_cython_function_address("scipy.linalg.cython_blas", "sgemm"))


@cache
def _of_torch() -> int:
    """Address of torch's own, 0 if it cannot be called or does something else."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/*torch_cpu.*")):
        try:
            address = ctypes.cast(ctypes.CDLL(str(path)).sgemm_, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
        c = np.zeros((3, 4), np.float32)
        product(address, a, b, c, 0.0)
        if np.allclose(c, a @ b, rtol=1e-5, atol=1e-5):
            return address
    return 0


def alone() -> AbstractContextManager[object]:
    """A context in which a product that a worker asks for is not shared among threads."""
    return nullcontext() if _of_torch() else _Alone()  # torch's are told by torch


class _Alone:
    """One thread for each product of the other libraries, until the last of those who want it has left."""

    lock, inside = threading.Lock(), 0
    limit: AbstractContextManager[object] = nullcontext()

    def __enter__(self) -> None:
        with _Alone.lock:
            if not _Alone.inside:
                _Alone.limit = _libraries().limit(limits=1)
                _Alone.limit.__enter__()
            _Alone.inside += 1

    def __exit__(self, *exception: object) -> None:
        with _Alone.lock:
            _Alone.inside -= 1
            if not _Alone.inside:
                _Alone.limit.__exit__(None, None, None)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
