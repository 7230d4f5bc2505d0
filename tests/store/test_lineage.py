"""Saved grown models that were changed: each is refused in one line, or answers as before to the bit."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData
from tests.builders import mudata_of

from mosaicvi import ModelFileError, MosaicVI, MosaicWarning
from mosaicvi.store.format import load_bundle, save_bundle

SMALL = {"dim_latent": 3, "dimensions": [6], "dim_block_enc": 4, "dim_block_dec": 4, "dim_block_embed": 2}
TRAIN = {"batch_size": 20, "progress": False}


def cells(batches: str, names: tuple[str, ...]) -> MuData:
    rng = np.random.default_rng(len(batches))
    index = pd.Index([f"{b}{i}" for b in batches for i in range(30)])
    obs = pd.DataFrame({"batch": [name[0] for name in index]}, index=index)
    mods = {
        name: AnnData(
            sp.csr_matrix(rng.poisson(4.0, (len(index), 8)).astype(np.float32) + 1),
            obs=pd.DataFrame(index=index),
            var=pd.DataFrame(index=[f"{name}{i}" for i in range(8)]),
        )
        for name in names
    }
    return mudata_of(mods, obs)


@pytest.fixture(scope="module")
def known() -> MuData:
    return cells("AB", ("rna",))


@pytest.fixture(scope="module")
def folder(known: MuData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that grew twice, by a batch and by a batch with a modality of its own."""
    folder = tmp_path_factory.mktemp("lineage") / "model"
    MosaicVI.setup_mudata(known, batch_key="batch")
    model = MosaicVI(known, **SMALL).train(2, **TRAIN)
    for batch, names in (("C", ("rna",)), ("D", ("rna", "adt"))):
        model = MosaicVI.load_query_data(cells(batch, names), model).train(1, **TRAIN)
    model.save(folder)
    return folder


def answers(folder: Path, known: MuData) -> tuple[np.ndarray, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        model = MosaicVI.load(folder)
        query = MosaicVI.prepare_query(known, model)
        latent = model.get_latent_representation(query)
        return np.asarray(latent), model.get_imputed_values(query, modality="rna").to_numpy()


@pytest.fixture(scope="module")
def expected(folder: Path, known: MuData) -> tuple[np.ndarray, ...]:
    return answers(folder, known)


# --- ways to change it -------------------------------------------------------------------------------


def some_bytes(folder: Path, rng: np.random.Generator) -> None:
    """As a disk or a transfer does: a bit, a piece lost, doubled or overwritten, or the end missing."""
    path = folder / str(rng.choice(["model.json", "weights.safetensors"]))
    content = bytearray(path.read_bytes())
    at, n = int(rng.integers(len(content))), int(rng.integers(1, 200))
    kind = int(rng.integers(5))
    if kind == 0:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del content[at : at + n]
    elif kind == 2:
        content[at:at] = content[at : at + n]
    elif kind == 3:
        content[at : at + n] = rng.bytes(n)
    else:
        del content[at:]
    path.write_bytes(bytes(content))


def a_weight(folder: Path, rng: np.random.Generator) -> None:
    """A weight of the network with all digests of the files made anew."""
    bundle = load_bundle(folder, kind="model")
    tensors = dict(bundle.tensors)
    key = str(rng.choice([k for k in tensors if k.startswith("net.") and tensors[k].numel()]))
    value = tensors[key].clone()
    flat = value.view(-1)
    at = int(rng.integers(len(flat)))
    flat[at] = ~flat[at] if flat.dtype == torch.bool else flat[at] + 1
    save_bundle(folder, tensors | {key: value}, bundle.document, kind="model", overwrite=True)


def its_lineage(folder: Path, rng: np.random.Generator) -> None:
    """What is said of the models that it grew from, with the checksum made anew."""
    bundle = load_bundle(folder, kind="model")
    document = copy.deepcopy(dict(bundle.document))
    generation = document if rng.random() < 0.5 else document["grown"]["base"]
    places = [(generation, "lineage"), (generation, "grown")]
    places += [(one, key) for one in _items(generation["lineage"]) for key in one]
    places += [(generation["grown"], key) for key in ("sees", "base")]
    place, key = places[int(rng.integers(len(places)))]
    odd: list[Any] = [None, 0, -1, 1.5, "", "0" * 64, [], {}, [{}], ["rna", "x"], True]
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = odd[int(rng.integers(len(odd)))]
    save_bundle(folder, bundle.tensors, document, kind="model", overwrite=True)


def _items(saved: Any) -> list[dict[str, Any]]:
    return list(saved["$tuple"] if isinstance(saved, dict) else saved)


CHANGES: tuple[Callable[[Path, np.random.Generator], None], ...] = (some_bytes, a_weight, its_lineage)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_a_changed_model_is_refused_or_answers_as_before(
    seed: int, folder: Path, known: MuData, expected: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    changed = tmp_path / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(folder, changed)
    change = CHANGES[seed % len(CHANGES)]
    change(changed, rng)
    refused: list[str] = []
    try:
        found = answers(changed, known)
    except ModelFileError as error:
        refused, found = str(error).split("\n"), expected
    assert not refused or (len(refused) == 1 and str(changed) in refused[0])
    assert refused or change is not some_bytes or _same_bytes(changed, folder)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def _same_bytes(a: Path, b: Path) -> bool:
    return all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in ("model.json", "weights.safetensors")
    )
