"""Which cells have a label."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

UNLABELED = "unknown"
"""Value of a column of labels that is no label, unless another is named."""


def has_label(column: pd.Series[Any], unlabeled: str | Collection[str] = UNLABELED) -> pd.Series[bool]:
    """Whether each cell's value is a label: neither missing nor, in whatever case, one of `unlabeled`."""
    none = {name.casefold() for name in ([unlabeled] if isinstance(unlabeled, str) else unlabeled)}
    return column.notna() & ~column.astype(str).str.casefold().isin(none)
