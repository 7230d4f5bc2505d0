"""New cells beside those of a reference: where they lie in its picture, and what of its features they have.

Legend: r reference cells, n new ones, K latent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mosaicvi.data.register.modalities import modalities_of
from mosaicvi.data.registry import Registry

NEIGHBOURS = 15


def placed(
    reference: NDArray[np.float32], places: NDArray[Any], z: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Put cells into a picture of others, float32 (n, 2): between their nearest ones, the nearer the closer.

    Parameters
    ----------
    reference, places
        Latent (r, K) and places (r, 2) of the cells in the picture, which stay where they are.
    z
        Latent of the others, (n, K).
    """
    k = min(NEIGHBOURS, len(reference))
    far, near = NearestNeighbors(n_neighbors=k).fit(reference).kneighbors(z)
    width = np.maximum(far[:, :1] + far.mean(1, keepdims=True), 1e-12) / 2
    weight = np.exp(-np.square(far / width))
    weight /= weight.sum(1, keepdims=True)
    return np.asarray((weight[:, :, None] * places[near]).sum(1), np.float32)


def features_found(data: MuData | AnnData, aligned: MuData | AnnData, registry: Registry) -> pd.DataFrame:
    """By modality of the model: its features, those that the data have, and those of the data left out.

    Parameters
    ----------
    data
        The new cells as they came.
    aligned
        The same with the model's features.
    registry
        Of the model.
    """
    before, after = (modalities_of(d, registry.setup, registry) for d in (data, aligned))
    rows = {}
    for name, features in registry.features.items():
        there = 0
        if name in after:
            there = int(np.asarray(after[name].varm["measured"], bool).any(1).sum())
        had = before[name].n_vars if name in before else 0
        rows[name] = {
            "known": len(features.names),
            "in_the_data": there,
            "left_out": max(0, had - there),
            "cells": after[name].n_obs if name in after else 0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("modality")
