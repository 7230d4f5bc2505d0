"""mosaicvi.scvaeit.pictures: what scanpy has for the looks alone is left aside, and said."""

from __future__ import annotations

import pytest

from mosaicvi import MosaicWarning
from mosaicvi.scvaeit.pictures import drawable


def test_looks_are_left_aside_and_all_else_is_handed_on() -> None:
    with pytest.warns(MosaicWarning, match="legend_fontsize, wspace: no effect in visualize_latent"):
        assert drawable({"wspace": 0.3, "size": 4, "legend_fontsize": 10, "vmax": 3}) == {
            "size": 4,
            "vmax": 3,
        }
    assert drawable({"ncols": 2}) == {"ncols": 2}
