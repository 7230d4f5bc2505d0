"""Memory that runs out is one line that says in what work, with a remedy that helps there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders import random_mudata

from mosaicvi import InputError, MosaicVI
from mosaicvi.cli import run
from mosaicvi.data.combine import combine
from mosaicvi.errors import OutOfMemoryError, memory_for

OF_NUMPY = MemoryError("Unable to allocate 4.00 TiB for an array with shape (1048576, 1048576)")
OF_TORCH = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes."
)
OF_CUDA = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

pytestmark = pytest.mark.filterwarnings("ignore")


def fails(error: Exception) -> Callable[..., Any]:
    def full(*args: object, **kwargs: object) -> None:
        raise error

    return full


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OF_NUMPY, "unable to allocate 4.00 TiB"),
        (OF_TORCH, "tried to allocate 80 bytes"),
        (OF_CUDA, "2.00 GiB"),
    ],
)
def test_errors_of_libraries_become_one_line(error: Exception, words: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_for("outer", "x"), memory_for("work", "do less"):
        raise error
    assert str(caught.value).startswith("Memory ran out in work (")
    assert words in str(caught.value)
    assert str(caught.value).endswith("; do less.")
    assert caught.value.__cause__ is error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$") as caught, memory_for("work", "do less"):
        raise RuntimeError("shapes")
    assert not isinstance(caught.value, OutOfMemoryError)
    with pytest.raises(InputError), memory_for("work", "do less"):
        raise InputError("wrong")


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    mdata = random_mudata(0)
    model = MosaicVI(MosaicVI.setup_mudata(mdata, batch_key="batch"), dim_latent=2)
    return model.train(max_epochs=1, progress=False)


WORK: dict[str, tuple[str, Callable[[MosaicVI], object], str]] = {
    "register": (
        "mosaicvi.model.registering.register",
        lambda m: MosaicVI.setup_mudata(random_mudata(0)),
        r"registering the data.*fewer features.*sparse",
    ),
    "network": ("mosaicvi.model.build_network", lambda m: MosaicVI(m.mosaic), r"the network.*fewer features"),
    "training": (
        "mosaicvi.fit.session.fit",
        lambda m: m.train(max_epochs=1, batch_size=20),
        r"training .*; ",
    ),
    "latent": (
        "mosaicvi.model.routing.latent",
        lambda m: m.get_latent_representation(batch_size=64),
        r"the latent.*batch_size=16\.$",
    ),
    "imputing": (
        "mosaicvi.infer.impute.decoded",
        lambda m: m.get_imputed_values(modality="rna", batch_size=64),
        r"imputing.*batch_size=16\.$",
    ),
    "other data": (
        "mosaicvi.model.registering.register",
        lambda m: m.get_latent_representation(random_mudata(1)),
        r"reading the data.*fewer cells at a time",
    ),
    "combine": (
        "mosaicvi.data.combine.together.assemble",
        lambda m: combine({"a": random_mudata(0)}, dataset_key="d"),
        r"combining.*join='inner'",
    ),
}


@pytest.mark.parametrize("work", list(WORK))
def test_each_work_names_what_helps(work: str, model: MosaicVI, monkeypatch: pytest.MonkeyPatch) -> None:
    where, call, words = WORK[work]
    module, name = where.rsplit(".", 1)
    monkeypatch.setattr(sys.modules[module], name, fails(OF_NUMPY))
    with pytest.raises(OutOfMemoryError, match=words) as caught:
        call(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "words"), [(2, r"set batch_size=5\."), (2000, "a smaller network")])
def test_smaller_minibatches_are_named_only_where_they_help(
    width: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mdata = random_mudata(0, n_genes=200)
    small = MosaicVI(MosaicVI.setup_mudata(mdata, batch_key="batch"), dim_latent=2, dimensions=[width])
    monkeypatch.setattr("mosaicvi.fit.session.fit", fails(OF_TORCH))
    monkeypatch.setattr("mosaicvi.fit.session.COPIES", 4 if width > 2 else 0)
    with pytest.raises(OutOfMemoryError, match=words):
        small.train(max_epochs=1, batch_size=20, progress=False)


def test_the_command_line_says_it_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random_mudata(0).write_h5mu(tmp_path / "a.h5mu")
    monkeypatch.setattr("mosaicvi.fit.session.COPIES", 0)
    monkeypatch.setattr("mosaicvi.fit.session.fit", fails(OF_NUMPY))
    arguments = ["train", str(tmp_path / "a.h5mu"), "--batch-key", "batch", "-o", str(tmp_path / "m"), "-q"]
    assert run([*arguments, "--max-epochs", "1", "--batch-size", "20"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: Memory ran out in training (unable to allocate 4.00 TiB); set --batch-size 5."
    )
    assert not (tmp_path / "m").exists()
