"""The history of a training, which knows by what names other packages would ask for its columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from mosaicvi.errors import InputError

COLUMNS = {
    "elbo_train": "'train_loss', the loss that was minimised",
    "elbo_validation": "'validation_loss', the loss on held-out cells",
    "elbo": "'train_loss' or 'validation_loss'",
    "train_loss_epoch": "'train_loss'",
    "train_loss_step": "'train_loss', the mean over the steps of an epoch",
    "reconstruction_loss_train": "'train_log_prob_...' of a modality, which rises",
    "reconstruction_loss_validation": "'validation_log_prob_...' of a modality, which rises",
    "kl_local_train": "'train_kl'",
    "kl_local_validation": "'validation_kl'",
    "kl_global_train": "'train_kl'",
    "total": "'train_loss'",
}


class History(pd.DataFrame):
    """A table of one row an epoch."""

    @property
    def _constructor(self) -> Callable[..., History]:
        return History

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key in COLUMNS and key not in self.columns:
            raise InputError(f"history: no column {key!r}; use {COLUMNS[key]}.")
        return super().__getitem__(key)
