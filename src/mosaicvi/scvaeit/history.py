"""Epochs as scVAEIT counts them, and the terms of the loss by its names."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mosaicvi.errors import InputError

Hist = dict[str, dict[str, list[float]]]


def histories(rows: pd.DataFrame, modalities: Iterable[str], repeat: int) -> Hist:
    """Terms of the loss by the original's names, of rows of `MosaicVI.history`: means of `repeat` each.

    Of validation there are those epochs that had held-out cells.
    """
    names = {"total": "loss"}
    for short, term in (("obs", "observed"), ("unobs", "masked")):
        names |= {f"{short}_{i}": f"{term}_{name}" for i, name in enumerate(modalities)}
    names |= {"kl": "kl", "mmd": "mmd"}
    means = rows.groupby(np.arange(len(rows)) // repeat).mean()
    found: Hist = {}
    for part, ours in (("train", "train"), ("val", "validation")):
        if f"{ours}_loss" in means:
            there = means[means[f"{ours}_loss"].notna()]
            found[part] = {short: there[f"{ours}_{name}"].tolist() for short, name in names.items()}
    return found


def check_range(first: int, last: int, *, passes: int, repeat: int) -> None:
    """Refuse a first epoch beyond the last, or neither 1 nor the one after `passes`, `repeat` to each."""
    after = passes // repeat + 1
    if first > last:
        raise InputError(f"init_epoch: {first} is beyond num_epoch={last}; both count from the first.")
    if first in (1, after):
        return
    if not passes:
        raise InputError(f"init_epoch: there is no trained model for {first} to go on from; use 1.")
    each = f" of num_repeat={repeat} passes" if repeat > 1 else ""
    raise InputError(
        f"init_epoch: {first}, but the model was trained for {after - 1} epochs{each}; use {after} to go on, "
        "with num_epoch counted from the first."
    )
