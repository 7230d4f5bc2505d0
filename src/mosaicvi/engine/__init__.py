"""Speed: loops compiled by numba, for arrays on the CPU. `nn` and `likelihoods` define what they compute.

The one decision whether they serve is made here. ``MOSAICVI_ENGINE`` may be ``auto`` (wherever they can),
``torch`` (nowhere), or ``compiled`` (an error where they cannot).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

import torch

from mosaicvi.errors import InputError

MODES = ("auto", "compiled", "torch")
LIKELIHOODS = frozenset({"NB", "ZINB", "Poisson", "Bernoulli", "Gaussian"})


def serves(
    *,
    device: str,
    dtype: torch.dtype = torch.float32,
    likelihoods: Iterable[str] = (),
    mixed_precision: bool = False,
) -> bool:
    """Whether the compiled loops do the work.

    Parameters
    ----------
    device
        Kind of device on which the numbers are.
    dtype
        Of the weights.
    likelihoods
        Names of the likelihoods that are needed.
    mixed_precision
        Whether products are computed in a lower precision.

    Raises
    ------
    InputError
        If ``MOSAICVI_ENGINE`` is unknown, or asks for what cannot be.
    """
    mode = os.environ.get("MOSAICVI_ENGINE", "auto")
    if mode not in MODES:
        raise InputError(f"MOSAICVI_ENGINE: unknown {mode!r}; use one of {', '.join(MODES)}.")
    if mode == "torch":
        return False
    unknown = [name for name in likelihoods if name not in LIKELIHOODS]
    obstacles = {
        "numba is not installed": not _has_numba(),
        f"the device is {device}": device != "cpu",
        f"the weights are {dtype}": dtype != torch.float32,
        "the precision is mixed": mixed_precision,
        f"it has no likelihood {unknown[0] if unknown else ''!r}": bool(unknown),
    }
    found = [what for what, stands in obstacles.items() if stands]
    if found and mode == "compiled":
        raise InputError(
            f"MOSAICVI_ENGINE: the compiled engine cannot serve, because {' and '.join(found)}; use 'auto'."
        )
    return not found


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None
