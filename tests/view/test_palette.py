from __future__ import annotations

import numpy as np
import pandas as pd

from mosaicvi.view.palette import (
    OKABE_ITO,
    categories,
    category_colors,
    column_colors,
    modality_colors,
    pattern_colors,
    short,
)


def test_categories_sort_numbers_as_numbers_and_drop_unknown() -> None:
    assert categories(pd.Series(["lib10", "lib2", "unknown", None, "lib2"])) == ["lib2", "lib10"]


def test_categories_keep_the_order_of_a_categorical_and_drop_absent_ones() -> None:
    values = pd.Series(pd.Categorical(["b", "a"], categories=["c", "b", "a"]))
    assert categories(values) == ["b", "a"]


def test_first_colours_are_okabe_and_itos_and_all_differ() -> None:
    names = [str(i) for i in range(60)]
    colors = category_colors(names)
    assert tuple(colors.values())[:7] == OKABE_ITO
    assert len(set(colors.values())) == 60


def test_a_modality_has_one_colour_whatever_stands_beside_it() -> None:
    assert modality_colors(["atac", "rna"])["rna"] == modality_colors(["rna", "methylation"])["rna"]
    assert len(set(modality_colors(["rna", "adt", "atac", "hashes", "dsb"]).values())) == 5


def test_patterns_of_one_modality_have_its_colour_and_sets_another() -> None:
    colors = pattern_colors(["adt", "rna", "rna+adt", "rna+atac"])
    assert {n: colors[n] for n in ("rna", "adt")} == modality_colors(["rna", "adt"])
    assert len(set(colors.values())) == 4
    assert modality_colors(["atac"])["atac"] not in colors.values()
    assert column_colors(pd.Series(["adt", "rna", "rna+adt", "rna+atac"]), pattern=True) == colors


def test_neighbouring_colours_differ_under_deuteranopia() -> None:
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in OKABE_ITO]) ** 2.2
    # Viénot, Brettel & Mollon (1999): a deuteranope's view of linear RGB
    seen = rgb @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    gap = np.linalg.norm(np.diff(np.clip(seen, 0, 1) ** (1 / 2.2), axis=0), axis=1)
    assert gap.min() > 0.2


def test_short_keeps_the_start() -> None:
    assert short("abc", 3) == "abc"
    assert short("abcd", 3) == "ab…"
