"""What a model remembers of how well it imputes, and for which cells that speaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaicvi import ModelFileError
from mosaicvi.config import NetworkConfig
from mosaicvi.infer.accuracy import FeatureAccuracy
from mosaicvi.infer.kept_accuracy import KeptAccuracy, read_accuracy
from mosaicvi.infer.readout.views import Shown

CONFIG = NetworkConfig(
    dim_input_arr=(10, 4),
    dim_block=(10, 4),
    dist_block=("NB", "NB"),
    block_names=("rna", "adt"),
    uni_block_names=("rna", "adt"),
    dim_block_embed=(2, 2),
    dim_block_enc=(4, 4),
    dim_block_dec=(4, 4),
    dimensions=(8,),
    dim_latent=3,
)


def view(**n: int) -> Shown:
    """The first so many features of each modality."""
    return Shown.make({name: np.arange({"rna": 10, "adt": 4}[name]) < k for name, k in n.items()})


def part(shown: Shown | None, modality: str = "adt") -> FeatureAccuracy:
    return FeatureAccuracy(
        modality=modality,
        view="in words",
        shown=shown,
        partial=False,
        lacking=3 if shown is not None else np.array([1, 2]),
        features=np.array([0, 2]),
        score=np.array([0.5, -0.25]),
        measure="correlation",
        n_cells=np.array([50, 60]),
        held_out=True,
    )


def test_the_view_most_like_a_querys_speaks_for_it_if_it_shows_no_more() -> None:
    views = [view(rna=10), view(rna=6), view(rna=10, adt=2)]
    kept = KeptAccuracy(parts=(*map(part, views), part(view(adt=4), "rna"), part(None, "rna")))
    for asked, expected in (
        (view(rna=10), views[0]),
        (view(rna=9), views[0]),
        (view(rna=7), views[1]),
        (view(rna=10, adt=2), views[2]),
        (view(rna=10, adt=1), views[2]),  # half of the two proteins
    ):
        found = kept.nearest(asked, "adt")
        assert found is not None
        assert found.shown == expected
    assert kept.nearest(view(rna=2), "adt") is None  # too little of either
    assert kept.nearest(view(adt=2), "adt") is None  # no RNA, which all show
    assert kept.nearest(view(rna=10), "rna") is None
    assert kept.of_entries("adt") is None
    assert kept.of_entries("rna") is kept.parts[-1]


def test_what_was_saved_is_read_again() -> None:
    kept = KeptAccuracy(parts=(part(view(rna=10)), part(None, "rna")))
    again = read_accuracy(kept.to_dict(), CONFIG, Path("m"))
    for one, other in zip(kept.parts, again.parts, strict=True):
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modality": "protein"},
        {"measure": "luck"},
        {"features": np.array([0, 4])},
        {"features": np.array([0, 0])},
        {"score": np.array([0.5])},
        {"score": np.array([0.5, np.nan])},
        {"n_cells": np.array([50, -1])},
        {"lacking": np.array([1])},
        {"held_out": "yes"},
        {"shown": {"rna": np.ones(9, bool)}},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    saved = KeptAccuracy(parts=(part(view(rna=10)),)).to_dict()
    saved["parts"][0] |= wrong
    with pytest.raises(ModelFileError, match="its kept accuracy does not fit the network"):
        read_accuracy(saved, CONFIG, Path("m"))
