"""A value of the wrong kind is an `InputError` that names its parameter, never a bare TypeError."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
from mudata import MuData

from mosaicvi import InputError, MosaicVI, NetworkConfig
from mosaicvi.config.arguments import distinct, given_by, spread
from mosaicvi.datasets import simulated_mosaic

SMALL: dict[str, Any] = {"dimensions": 8, "dim_latent": 3, "dim_block_enc": 4, "dim_block_dec": 4}
WRONG = [
    "ten",
    2.5,
    None,
    [],
    {},
    object(),
    {"rna": "x"},
    [["a"]],
    np.array(["b"]),
    float("nan"),
    -1,
    True,
    b"3",
]
FROM_DATA = {"dim_input_arr", "dim_block", "dist_block", "block_names", "uni_block_names"}


@pytest.fixture(scope="module")
def data() -> MuData:
    mdata = simulated_mosaic(60, n_genes=20, n_proteins=5, n_peaks=20).mdata
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    return mdata


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(NetworkConfig)])
def test_network_parameters(data: MuData, name: str) -> None:
    refused = []
    for value in WRONG:
        try:
            MosaicVI(data, **(SMALL | {name: value}))
        except InputError as error:
            refused.append(str(error))
    assert all(name in message for message in refused), refused
    assert len(refused) >= (1 if name in FROM_DATA else 6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim_latent", "ten"),
        ("dim_latent", 2.5),
        ("dim_latent", (4,)),
        ("dimensions", [8.5]),
        ("seed", "x"),
        ("seed", -1),
    ],
)
def test_values_that_torch_would_refuse(data: MuData, name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        MosaicVI(data, **(SMALL | {name: value}))


def train_arguments() -> list[str]:
    return [n for n in inspect.signature(MosaicVI.train).parameters if n != "self"]


@pytest.mark.parametrize("name", train_arguments())
def test_training_arguments(data: MuData, name: str) -> None:
    model = MosaicVI(data, **SMALL)
    fine = {
        "max_epochs": {"None"},
        "batch_size": {"None"},
        "patience": {"None"},
        "early_stopping": {"True"},
        "resume": {"True"},
        "progress": {"None", "True"},
        "checkpoint_dir": {"None", "'ten'"},
        "log_dir": {"None", "'ten'"},
        "devices": {"True"},
        "lr": {"None", "2.5"},
        "weight_decay": {"2.5"},
        "max_grad_norm": {"2.5"},
        "checkpoint_every": {"2.5"},
        "buffer_memory": {"2.5"},
    }.get(name, set())
    for value in WRONG:
        if repr(value) not in fine:
            with pytest.raises(InputError, match=name):
                model.train(**({"max_epochs": 1, "batch_size": 20, "progress": False} | {name: value}))


def test_every_wrong_argument_is_listed(data: MuData) -> None:
    with pytest.raises(InputError) as caught:
        MosaicVI(data, **SMALL).train(lr="fast", batch_size="many", max_grad_norm=[1])  # type: ignore[arg-type]
    assert [p.partition(":")[0] for p in caught.value.problems] == ["lr", "batch_size", "max_grad_norm"]


def test_numbers_of_numpy_are_numbers(data: MuData) -> None:
    model = MosaicVI(data, **(SMALL | {"dim_latent": np.int64(3), "seed": np.int32(1)}))
    model.train(np.int64(1), batch_size=np.int32(20), lr=np.float32(1e-3), progress=False)  # type: ignore[arg-type]
    assert model.is_trained


@pytest.mark.parametrize("name", ["layers", "likelihoods", "transforms", "block_keys"])
def test_what_is_said_by_modality_is_a_mapping(data: MuData, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: a mapping of modality"):
        MosaicVI.setup_mudata(data, batch_key="batch", **{name: "counts"})


def test_arguments_of_the_answers(data: MuData) -> None:
    model = MosaicVI(data, **SMALL)
    for wrong in ({"n_samples": "two"}, {"library": "big"}, {"batch_size": 2.5}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))}: "):
            model.get_imputed_values(modality="rna", **wrong)


def test_whole_numbers_of_r_and_none_are_taken(data: MuData) -> None:
    whole = MosaicVI(data, **(SMALL | {"dim_latent": 3.0, "dimensions": [8.0]}))
    assert (whole.config.dim_latent, whole.config.dimensions) == (3, (8,))
    left_open = MosaicVI(data, **(SMALL | {"beta_modal": None, "p_modal": None}))
    assert left_open.config == MosaicVI(data, **SMALL).config


@pytest.mark.parametrize(("name", "words"), [("dim_block", "block_keys="), ("dist_block", "likelihoods=")])
def test_what_the_data_decide_is_refused_with_where_to_say_it(data: MuData, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MosaicVI(data, **(SMALL | {name: (7,) if name == "dim_block" else ("Poisson",)}))


def test_one_value_stands_for_all_and_other_lengths_are_named() -> None:
    assert spread("dims", 3.0, 2).tolist() == [3, 3]
    assert spread("dims", [4], 2, 5).tolist() == [4] * 5
    assert spread("dims", [4, 5], 2, 5).tolist() == [4, 5]
    with pytest.raises(InputError, match=r"dims: 1 or 2 or 5 values are needed; got the shape \(3,\)"):
        spread("dims", [1, 2, 3], 2, 5)
    with pytest.raises(InputError, match=r"dims: one list of values is needed, not \[\[1\], \[2, 3\]\]"):
        spread("dims", [[1], [2, 3]], 2)


def test_different_names_in_their_order() -> None:
    assert distinct(np.array(["rna", "adt", "adt", "rna"])) == ["rna", "adt"]
    assert distinct("rna") == ["rna"]


def test_what_a_mapping_an_object_or_a_class_says() -> None:
    class Base:
        width = 4

    class Config(Base):
        depth = None

    made = Config()
    made.width = 5
    parsed = argparse.Namespace(width=6, depth=None)
    for config, width in (({"width": 3, "depth": None}, 3), (Config, 4), (made, 5), (parsed, 6)):
        assert given_by("config", config) == {"width": width}
    with pytest.raises(InputError, match="config: a dict or a namespace is needed, not list"):
        given_by("config", [1, 2])
