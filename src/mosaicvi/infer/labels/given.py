"""Which cells have a label."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

UNLABELED = "unknown"
"""Value of a column of labels that is no label, unless another is named."""


def has_label(column: pd.Series[Any], unlabeled: str | Collection[str] = UNLABELED) -> pd.Series[bool]:
    """Whether the value of each cell is a label: neither missing nor one of `unlabeled`."""
    none = {unlabeled} if isinstance(unlabeled, str) else set(unlabeled)
    return column.notna() & ~column.astype(str).isin(none)
