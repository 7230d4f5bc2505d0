"""config/layout.py: sizes, names and likelihoods of modalities and blocks, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mosaicvi import InputError
from mosaicvi.config.layout import read_layout


def test_all_is_said() -> None:
    found = read_layout(
        {
            "dim_input_arr": [3.0, 6.0],
            "uni_block_names": np.array(["rna", "atac"]),
            "dim_block": [3, 2, 4],
            "block_names": ["rna", "atac", "atac"],
            "dist_block": ["NB", "Bernoulli", "Bernoulli"],
        },
        n_features=9,
    )
    assert found.modality.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert found.block.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert found.likelihoods == {"rna": "NB", "atac": "Bernoulli"}
    kept = np.array([1, 0, 1, 0, 0, 1, 1, 1, 1], bool)
    columns = [(name, at.tolist()) for name, at in found.columns(kept)]
    assert columns == [("rna", [0, 2]), ("atac", [5, 6, 7, 8])]
    with pytest.raises(InputError, match="no cell has a value of 'rna'"):
        found.columns(np.arange(9) > 2)


@pytest.mark.parametrize(
    ("given", "modality", "block", "likelihoods"),
    [
        ({}, [0] * 4, [0] * 4, {"M-0": "Gaussian"}),
        ({"dim_input_arr": [1, 3]}, [0, 1, 1, 1], [0, 1, 1, 1], {"M-0": "Gaussian", "M-1": "Gaussian"}),
        ({"dim_block": [1, 3], "dist_block": "NB"}, [0] * 4, [0, 1, 1, 1], {"M-0": "NB"}),
        ({"block_names": "adt"}, [0] * 4, [0] * 4, {"adt": "Gaussian"}),
    ],
)
def test_what_is_not_said_is_filled_in(
    given: dict[str, Any], modality: list[int], block: list[int], likelihoods: dict[str, str]
) -> None:
    found = read_layout(given, n_features=4)
    assert (found.modality.tolist(), found.block.tolist()) == (modality, block)
    assert found.likelihoods == likelihoods


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim_input_arr": [4, 4]}, "dim_input_arr: sums to 8, but data has 9 columns"),
        ({"dim_block": [4, 4]}, "dim_block: sums to 8, but data has 9 columns"),
        ({"dim_input_arr": [4.5, 4.5]}, "dim_input_arr: a whole number is needed, not 4.5"),
        ({"dist_block": "nb"}, "dist_block: unknown 'nb'; use one of NB"),
        ({"dist_block": ["NB", "NB"]}, r"dist_block: 1 values are needed; got the shape \(2,\)"),
        (
            {"dim_input_arr": [4, 5], "dim_block": [5, 4]},
            "dim_block: column 4 of data is of 'M-1' by dim_input_arr",
        ),
        (
            {"dim_input_arr": [4, 5], "uni_block_names": ["a"]},
            "uni_block_names: 2 different names are needed",
        ),
        ({"dim_input_arr": [0, 9]}, "dim_input_arr: at least 1, not 0"),
        ({"dim_block": [[4], [4, 1]]}, r"dim_block: one list of values is needed, not \[\[4\], \[4, 1\]\]"),
        ({"dim_input_arr": [4, 5], "block_names": "a"}, r"^block_names: 2 different names .*got \['a'\]"),
        ({"dim_block": [4, 5], "dist_block": ["NB", "Poisson"]}, "dist_block: the blocks of 'M-0' differ"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_layout(given, n_features=9)


def test_what_is_missing_is_named() -> None:
    names = {"block_names": ["rna", "adt"], "dim_block": [3, 6]}
    with pytest.raises(InputError, match=r"dim_input_arr: it is not given, and there are 2 modalities"):
        read_layout(names, n_features=9)
    order = names | {"dim_input_arr": [3, 6], "uni_block_names": ["adt", "rna"]}
    with pytest.raises(InputError, match="the order of uni_block_names, agree"):
        read_layout(order, n_features=9)
