"""The one decision whether the compiled engine serves, and where it is said."""

from __future__ import annotations

import ast
import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch
from tests.builders import random_mudata

from mosaicvi import MosaicVI, engine
from mosaicvi.errors import InputError, MosaicWarning

FIVE = ("NB", "ZINB", "Poisson", "Bernoulli", "Gaussian")


@pytest.mark.parametrize("mode", [None, "auto", "compiled"])
def test_it_serves_every_family_on_the_cpu(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOSAICVI_ENGINE", raising=False)
    if mode is not None:
        monkeypatch.setenv("MOSAICVI_ENGINE", mode)
    assert engine.serves(device="cpu", likelihoods=FIVE)


@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        ({"device": "cuda"}, "the device is cuda"),
        ({"device": "cpu", "dtype": torch.float64}, r"the weights are torch\.float64"),
        ({"device": "cpu", "mixed_precision": True}, "the precision is mixed"),
        ({"device": "cpu", "likelihoods": ("NB", "Beta")}, "it has no likelihood 'Beta'"),
    ],
)
def test_what_it_cannot_is_left_to_torch_or_refused(
    obstacle: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOSAICVI_ENGINE", raising=False)
    assert not engine.serves(**obstacle)  # type: ignore[arg-type]
    monkeypatch.setenv("MOSAICVI_ENGINE", "compiled")
    with pytest.raises(InputError, match=f"MOSAICVI_ENGINE: .* because {why}; use 'auto'"):
        engine.serves(**obstacle)  # type: ignore[arg-type]


def test_torch_alone_and_an_unknown_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", "torch")
    assert not engine.serves(device="cpu")
    monkeypatch.setenv("MOSAICVI_ENGINE", "fast")
    with pytest.raises(InputError, match="MOSAICVI_ENGINE: unknown 'fast'; use one of auto, compiled, torch"):
        engine.serves(device="cpu")


@pytest.mark.parametrize("mode", ["compiled", "torch"])
def test_it_is_said(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOSAICVI_ENGINE", mode)
    mdata = random_mudata(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MosaicWarning)
        MosaicVI.setup_mudata(mdata, batch_key="batch")
        model = MosaicVI(mdata, dimensions=(8,), dim_latent=3).train(1, batch_size=16)
    assert repr(model).splitlines()[0].endswith(f"engine {mode}")
    assert f"engine: {mode}" in capsys.readouterr().err
    model.save(tmp_path / "model")
    (document,) = (tmp_path / "model").glob("*.json")
    assert f'"engine": "{mode}"' in json.dumps(json.loads(document.read_text()))


def test_the_definition_imports_no_compiled_loops() -> None:
    folder = Path(str(importlib.util.find_spec("mosaicvi.nn").origin)).parent  # type: ignore[union-attr]
    for name in ("masks", "blocks", "layers", "encoder", "decoder", "losses", "vae"):
        for node in ast.parse((folder / f"{name}.py").read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "numba" not in ast.unparse(node)
                assert "mosaicvi.engine." not in ast.unparse(node)
