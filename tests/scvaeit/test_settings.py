"""mosaicvi.scvaeit.settings: every kind of value that scripts give, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mosaicvi import InputError
from mosaicvi.scvaeit.settings import KEYS, read_config


def test_the_published_names_are_all_known() -> None:
    assert set(KEYS) == {
        "dim_input_arr", "dim_block", "uni_block_names", "block_names", "dist_block", "dim_block_embed",
        "dim_block_enc", "dim_block_dec", "dimensions", "dim_latent", "beta_unobs", "beta_reverse", "beta_kl",
        "beta_modal", "skip_conn", "p_feat", "p_modal", "mean_vals", "min_vals", "max_vals", "max_disp",
        "gamma",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [dict, lambda **c: SimpleNamespace(**c)])
def test_sizes_and_names_are_filled_in(kind: Any) -> None:
    found = read_config(kind(dim_block=np.array([3, 2, 4]), dim_input_arr=[3, 6], p_modal=None), n_features=9)
    assert found.layout.modality.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert found.layout.block.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert found.layout.likelihoods == {"M-0": "Gaussian", "M-1": "Gaussian"}
    assert found.config.block_names.tolist() == ["M-0", "M-1", "M-1"]
    assert found.parameters(np.ones(9, bool)) == {"dim_block_enc": [0, 0, 0], "dim_block_dec": [0, 0, 0]}


def test_features_that_nobody_measured_leave_their_values_and_empty_blocks_behind() -> None:
    config = {
        "dim_input_arr": [3, 6], "dim_block": [3, 2, 4], "dim_block_embed": [1, 2, 3], "dim_block_enc": 5.0,
        "max_vals": [7.0, 8.0, 9.0], "min_vals": np.arange(9.0), "mean_vals": 0.5, "beta_kl": np.float32(1.5),
    }  # fmt: skip
    found = read_config(config, n_features=9)
    kept = np.array([1, 0, 1, 0, 0, 1, 1, 1, 1], bool)
    assert found.parameters(kept) == {
        "dim_block_embed": [1, 3], "dim_block_enc": [5.0, 5.0], "dim_block_dec": [0, 0], "beta_kl": 1.5,
        "max_vals": [7, 7, 9, 9, 9, 9], "min_vals": [0, 2, 5, 6, 7, 8], "mean_vals": [0.5] * 6,
    }  # fmt: skip
    assert [(name, at.tolist()) for name, at in found.layout.columns(kept)] == [
        ("M-0", [0, 2]),
        ("M-1", [5, 6, 7, 8]),
    ]
    with pytest.raises(InputError, match="no cell has a value of 'M-0'"):
        found.layout.columns(np.arange(9) > 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_unobserved": 1}, "config: unknown parameter 'beta_unobserved'; did you mean 'beta_unobs'"),
        ({"norm": "layer"}, "config: unknown parameter 'norm'; known are dim_input_arr"),
        ({3: 4}, "config: unknown parameter 3; known are dim_input_arr"),
        ([1, 2], "config: a dict or a namespace is needed, not list"),
    ],
)
def test_what_is_no_config_is_named(config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(config, n_features=9)


def test_a_value_of_the_wrong_length_is_named() -> None:
    found = read_config({"dim_block_embed": [1, 2]}, n_features=9)
    with pytest.raises(InputError, match=r"dim_block_embed: 1 values are needed; got the shape \(2,\)"):
        found.parameters(np.ones(9, bool))


def test_attributes_of_a_class_count_and_those_it_inherits() -> None:
    class Base:
        dim_input_arr = (3, 6)
        dim_latent = 4

    class Config(Base):
        dist_block = ("NB", "NB")

    made = Config()
    made.dim_latent = 5  # type: ignore[misc]
    for config, latent in ((Config, 4), (Config(), 4), (made, 5)):
        found = read_config(config, n_features=9)
        assert found.layout.likelihoods == {"M-0": "NB", "M-1": "NB"}
        assert found.parameters(np.ones(9, bool))["dim_latent"] == latent
