"""The network's parameters: names, defaults, checks, and the way to a file and back."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import random_mudata

from mosaicvi.config import NetworkConfig, Schedule
from mosaicvi.config.defaults import usual_parameters
from mosaicvi.config.schedule import is_function
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register import register
from mosaicvi.data.registry import Setup
from mosaicvi.errors import InputError, MosaicWarning

PUBLISHED = [
    *("dim_input_arr", "dim_block", "dist_block", "dim_block_embed", "dim_block_enc", "dim_block_dec"),
    *("block_names", "uni_block_names", "dimensions", "dim_latent", "beta_unobs", "beta_reverse", "beta_kl"),
    *(
        "beta_modal",
        "skip_conn",
        "p_feat",
        "p_modal",
        "mean_vals",
        "min_vals",
        "max_vals",
        "max_disp",
        "gamma",
    ),
]
DEFAULTS = {
    "beta_unobs": 0.5,
    "beta_reverse": 0.0,
    "beta_kl": 2.0,
    "skip_conn": False,
    "p_feat": 0.2,
    "max_disp": 6,
}


@pytest.fixture(scope="module")
def mosaic() -> Mosaic:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        return register(random_mudata(0), Setup(batch_key="batch"))


def plain(**changes: Any) -> NetworkConfig:
    fields: dict[str, Any] = {
        "dim_input_arr": (5, 7),
        "dim_block": (5, 3, 4),
        "dist_block": ("NB", "Bernoulli", "Bernoulli"),
        "dim_block_embed": (2, 1, 1),
        "dim_block_enc": (8, 4, 4),
        "dim_block_dec": (8, 4, 4),
        "block_names": ("rna", "atac", "atac"),
        "uni_block_names": ("rna", "atac"),
        "dimensions": (16,),
        "dim_latent": 4,
    }
    return NetworkConfig(**(fields | changes))


def test_every_published_name_is_there_with_its_default() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(NetworkConfig)}
    assert [name for name in fields if name in PUBLISHED] == PUBLISHED
    assert {name: fields[name] for name in DEFAULTS} == DEFAULTS
    config = plain()
    assert config.p_modal == (0.5, 0.5)
    assert config.gamma(0) == config.gamma(1000) == 0
    assert config.distributions == ("NB", "Bernoulli")


def test_a_mosaic_fills_in_all_sizes(mosaic: Mosaic) -> None:
    config = NetworkConfig.for_mosaic(mosaic)
    assert config.uni_block_names == ("rna", "adt", "atac")
    assert config.block_names == ("rna", "adt", "atac", "atac")
    assert config.dim_input_arr == (6, 4, 7)
    assert config.dim_block == (6, 4, 3, 4)
    assert config.dist_block == ("NB", "NB", "Poisson", "Poisson")
    assert config.library_aware == (True, True, True)
    assert (config.norm, config.encode_covariates, config.beta_modal) == ("layer", False, (1.0, 1.0, 1.0))


def test_the_published_preset_is_the_published_network(mosaic: Mosaic) -> None:
    config = NetworkConfig.for_mosaic(mosaic, preset="published")
    assert config.library_aware == (False, False, False)
    assert (config.norm, config.encode_covariates, config.decode_mask) == ("batch", True, True)
    assert config.beta_modal == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"preset: unknown 'publish'; use one of default, published"):
        NetworkConfig.for_mosaic(mosaic, preset="publish")


def defaults_for(*sizes: int, preset: str = "default", equal: bool = False) -> dict[str, Any]:
    modalities: Any = [SimpleNamespace(n_features=n, block_sizes=(n,), likelihood="NB") for n in sizes]
    return usual_parameters(modalities, preset, equal=equal)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((2000, 47), (0.15, 1.0)),
        ((1000, 300), (0.3, 1.0)),
        ((8192,), (0.15,)),
        ((1677, 25_734), (512 / 1677, 0.25)),
        ((9000, 400), (0.25, 1.0)),
    ],
)
def test_the_share_of_features_in_a_step(sizes: tuple[int, ...], shares: tuple[float, ...]) -> None:
    assert defaults_for(*sizes)["likelihood_share"] == shares
    assert defaults_for(*sizes, preset="published")["likelihood_share"] == (1.0,) * len(sizes)


@pytest.mark.parametrize(
    ("sizes", "given", "encoder", "decoder"),
    [
        ((2000, 47, 30), {}, (128, 64, 32), (192, 128, 64)),
        ((9000, 47, 30), {}, (128, 64, 32), (256, 128, 64)),
        ((2000, 47), {"equal": True}, (192, 128), (192, 128)),
        ((2000, 47), {"preset": "published"}, (256, 128), (256, 128)),
    ],
)
def test_widths_follow_the_number_of_features(
    sizes: tuple[int, ...], given: dict[str, Any], encoder: tuple[int, ...], decoder: tuple[int, ...]
) -> None:
    found = defaults_for(*sizes, **given)
    assert (found["dim_block_enc"], found["dim_block_dec"]) == (encoder, decoder)


def test_scalars_and_mappings_are_spread(mosaic: Mosaic) -> None:
    config = NetworkConfig.for_mosaic(
        mosaic,
        dim_block_enc=9,
        dim_block_embed={"rna": 3, "adt": 2, "atac": 1},
        beta_modal=2,
        p_modal={"rna": 0.5, "adt": 0.25, "atac": 0.25},
        library_aware={"rna": True, "adt": False, "atac": False},
        dimensions=np.int64(12),
        min_vals=0,
        max_vals=np.array([10.0, 20, 1, 1]),
        gamma={"start": 1, "decay": 0.5},
    )
    assert config.dim_block_enc == (9, 9, 9, 9)
    assert config.dim_block_embed == (3, 2, 1, 1)
    assert config.beta_modal == (2, 2, 2)
    assert config.p_modal == (0.5, 0.25, 0.25)
    assert config.library_aware == (True, False, False)
    assert config.dimensions == (12,)
    assert config.min_vals == (0,)
    assert config.max_vals == (10, 20, 1, 1)
    assert config.gamma(2) == 0.25


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"beta_k": 1}, r"Unknown parameter 'beta_k'; did you mean 'beta_kl'\?"),
        ({"zzz": 1}, r"Unknown parameter 'zzz'; known are dim_input_arr"),
        ({"dim_block": (6, 4, 7)}, r"dim_block: \(6, 4, 7\) does not fit the registered mosaic"),
        ({"dist_block": ["NB"] * 4}, r"dist_block: \('NB', 'NB', 'NB', 'NB'\) does not fit"),
        ({"dim_block_enc": (1, 2)}, r"dim_block_enc: 4 values are needed, one per block; got \(1, 2\)"),
        ({"dim_block_enc": {"rna": 1}}, r"dim_block_enc: no value for modality 'adt'"),
        ({"dim_block_enc": {"gex": 1}}, r"dim_block_enc: no modality 'gex'; the mosaic has rna, adt, atac"),
        ({"dim_block_dec": -1}, r"dim_block_dec: whole numbers >= 0"),
        ({"dim_block_embed": 0}, r"dim_block_embed: whole numbers >= 1"),
        ({"dim_block_embed": "wide"}, r"dim_block_embed: whole numbers >= 1"),
        ({"dim_latent": 2.5}, r"dim_latent: whole numbers >= 1 are needed; got 2.5"),
        ({"dim_latent": 0}, r"dim_latent"),
        ({"dimensions": (64, 0)}, r"dimensions: whole numbers >= 1"),
        ({"beta_unobs": 1.5}, r"beta_unobs: must be in \[0, 1\], not 1.5"),
        ({"beta_unobs": "half"}, r"beta_unobs"),
        ({"beta_reverse": math.nan}, r"beta_reverse"),
        ({"p_feat": True}, r"p_feat"),
        ({"beta_kl": math.inf}, r"beta_kl: must be >= 0, not inf"),
        ({"max_disp": 0}, r"max_disp: must be > 0, not 0"),
        ({"p_modal": (0.5, 0.5, 0.5)}, r"p_modal: probabilities that sum to 1"),
        ({"p_modal": (math.nan, 0.5, 0.5)}, r"p_modal"),
        ({"beta_modal": "automatic"}, r"beta_modal: 'auto' or one weight"),
        ({"beta_modal": (1, 1)}, r"beta_modal: 3 values are needed"),
        ({"beta_modal": (1, math.inf, 1)}, r"beta_modal: weights >= 0"),
        ({"mean_vals": (1, 2)}, r"give 1 value, 4 \(one per block\) or 17 \(one per feature\); got 2"),
        ({"max_vals": math.nan}, r"max_vals: finite numbers are needed"),
        ({"norm": "group"}, r"norm: 'layer' or 'batch', not 'group'"),
        ({"skip_conn": 1}, r"skip_conn: True or False, not 1"),
        ({"skip_conn": True, "dim_block_dec": 3}, r"skip_conn: needs dim_block_enc equal to dim_block_dec"),
        ({"gamma": lambda epoch: 1.0}, r"a number or a Schedule.*not function; a function cannot be saved"),
        ({"gamma": -1}, r"gamma: start and end must be >= 0"),
        ({"gamma": {"begin": 1}}, r"takes 'end', 'decay' and 'first'; got \['begin'\]"),
        ({"gamma": {"start": "a"}}, r"gamma: numbers are needed"),
        ({"gamma": {"start": 1, "decay": 2}}, r"gamma: decay must be in \(0, 1\], not 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_quoted(mosaic: Mosaic, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        NetworkConfig.for_mosaic(mosaic, **parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dist_block": ("NB", "Bernouli", "Bernoulli")}, r"unknown distribution 'Bernouli'; use one of NB"),
        ({"dist_block": ("NB", "NB", "Bernoulli")}, r"blocks of 'atac' differ \(Bernoulli, NB\)"),
        ({"dim_block": (5, 3, 5)}, r"blocks of 'atac' sum to 8, but dim_input_arr says 7"),
        ({"block_names": ("atac", "rna", "atac")}, r"must follow the modalities"),
        ({"uni_block_names": ("rna", "rna")}, r"a name occurs twice"),
        ({"library_aware": (True, True)}, r"library_aware: 'atac' is Bernoulli"),
    ],
)
def test_blocks_must_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain(**changes)


def test_it_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain().dim_latent = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        NetworkConfig((5,))  # type: ignore[misc, call-arg, arg-type]


@given(
    beta=st.one_of(st.just("auto"), st.tuples(st.floats(0, 9), st.floats(0, 9))),
    start=st.floats(0, 10),
    decay=st.floats(0.01, 1),
    low=st.one_of(st.none(), st.tuples(st.floats(-5, 5)), st.tuples(*[st.floats(-5, 5)] * 3)),
)
def test_json_gives_it_back(beta: Any, start: float, decay: float, low: Any) -> None:
    config = plain(beta_modal=beta, gamma=Schedule(start=start, decay=decay), min_vals=low)
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(start=st.floats(0, 10), end=st.floats(0, 10), decay=st.floats(0.01, 1), epoch=st.integers(0, 400))
def test_a_schedule_decays_exponentially(start: float, end: float, decay: float, epoch: int) -> None:
    value = Schedule(start=start, end=end, decay=decay)(epoch)
    assert value == pytest.approx(end + (start - end) * decay**epoch, rel=1e-12, abs=1e-12)
    low, high = sorted((start, end))
    assert low - 1e-9 <= value <= high + 1e-9


def test_a_schedule_may_begin_with_given_values() -> None:
    schedule = Schedule.of({"start": 1.0, "decay": 0.5, "first": [3, 2.5]})
    assert [schedule(epoch) for epoch in range(4)] == [3, 2.5, 0.25, 0.125]
    config = plain(gamma=schedule)
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for wrong in ((-1.0,), (float("nan"),)):
        with pytest.raises(InputError, match="gamma: first must hold numbers >= 0"):
            Schedule(start=0, first=wrong)
    with pytest.raises(InputError, match="gamma: numbers are needed"):
        Schedule.of({"start": 1.0, "first": ["a"]})


def test_a_number_is_a_schedule_that_stays() -> None:
    assert Schedule.of(np.float32(0.5))(0) == Schedule.of(0.5)(300) == 0.5
    assert Schedule.of(Schedule(start=1.0)) == Schedule(start=1.0)


def test_a_function_of_the_epoch_is_tabulated() -> None:
    schedule = Schedule.tabulated(lambda epoch: 10.0 / epoch, done=3, first=2, last=5, repeat=2)
    assert schedule.first == (0, 0, 0, 5, 5, 10 / 3, 10 / 3, 2.5, 2.5, 2, 2)
    assert schedule(11) == 2
    with pytest.raises(InputError, match="gamma: a number is needed, not 'high'"):
        Schedule.tabulated(lambda epoch: "high", done=0, first=1, last=2, repeat=1)  # type: ignore[arg-type,return-value]
    assert [is_function(gamma) for gamma in (lambda epoch: 1.0, schedule, 2.0)] == [True, False, False]
