"""The columns of a modality: in which blocks they are, and how a model finds them again by name."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mosaicvi.data.registry import ModalityFeatures
from mosaicvi.errors import InputError, quoted

_PEAK = re.compile(r"^(?P<chrom>[^:_-]+(?:[_.][^:-]+)?)[:_-][\d,]+([:_-]|\.\.)[\d,]+$")
SHARE = 0.9  # of the features, from which on they are taken for peaks


def chromosomes(names: pd.Index[str]) -> list[str] | None:
    """Chromosome of each feature if they are named like ``chr1:100-200``, "other" for a few that are not."""
    found = [_PEAK.match(str(v)) for v in names]
    if sum(f is not None for f in found) <= SHARE * len(found):
        return None
    return [f["chrom"] if f else "other" for f in found]


def read_blocks(name: str, a: AnnData, key: str | None) -> ModalityFeatures:
    """One block per value of the user's `key`, a column of var, else per chromosome, else one for all.

    Blocks follow one another as they first appear, so that features already sorted by block stay
    where they are.

    Raises
    ------
    InputError
        If there is no such column, or a value is missing.
    """
    if key is None:
        label = chromosomes(a.var_names) or [name] * a.n_vars
    elif key not in a.var:
        raise InputError(
            f"{name}: no var column {key!r} for the blocks; it has {quoted(a.var.columns) or 'none'}."
        )
    elif a.var[key].isna().any():
        missing = quoted(a.var_names[a.var[key].isna()])
        raise InputError(f"{name}: var[{key!r}] says no block for {missing}; fill it in.")
    else:
        label = list(a.var[key].astype(str))
    code, blocks = pd.factorize(np.array(label, dtype=object))
    order = np.argsort(code, kind="stable").astype(np.int64)
    return ModalityFeatures(
        names=tuple(str(v) for v in a.var_names[order]),
        order=order,
        blocks=tuple(str(b) for b in blocks),
        sizes=tuple(int(s) for s in np.bincount(code)),
    )


def find_features(name: str, names: pd.Index[str], features: ModalityFeatures) -> NDArray[np.int64]:
    """Where the model's features are among `names`, (D_m,).

    Raises
    ------
    InputError
        If they are not the same, by name.
    """
    known = pd.Index(features.names)
    order = np.asarray(names.get_indexer(known), np.int64)
    missing, extra = known[order < 0], names.difference(known, sort=False)
    if len(missing) or len(extra):
        parts = [f"lacks {quoted(missing)}"] if len(missing) else []
        parts += [f"has {quoted(extra)} besides"] if len(extra) else []
        raise InputError(
            f"Modality {name!r} does not match the model's features: it {' and '.join(parts)}; "
            "give the features that the model was trained on, or take those it lacks as not measured: "
            "MosaicVI.prepare_query(data, model)."
        )
    return order
