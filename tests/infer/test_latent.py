"""How many cells are computed together does not depend on the batch size, so that answers do not either."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.infer.readout.test_readout import paired, trained

from mosaicvi import MosaicVI
from mosaicvi.infer import latent


@pytest.fixture(scope="module")
def model() -> MosaicVI:
    mdata, _ = paired()
    mdata.obs["kind"] = np.where(
        np.arange(mdata.n_obs) % 3 == 0, "unknown", np.resize(["a", "b"], mdata.n_obs)
    )
    model = trained(mdata)
    model.kept = mdata  # type: ignore[attr-defined] # labels are read from it
    return model


def answers(model: MosaicVI, cells: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Every answer that is computed cell by cell."""
    some: dict[str, Any] = {"indices": cells, "batch_size": size}
    lower, upper = model.get_imputed_intervals(modality="adt", **some)
    at_library = model.get_imputed_intervals(modality="adt", scale="counts", library=100.0, **some)
    return {
        "latent": model.get_latent_representation(**some),
        "values": model.get_imputed_values(modality="adt", **some).to_numpy(),
        "as another": model.get_imputed_values(modality="rna", transform_batch="mean", **some).to_numpy(),
        "lower": lower.to_numpy(),
        "upper": upper.to_numpy(),
        "counts": at_library.upper.to_numpy(),
        "draws": np.stack(model.posterior_predictive_sample(modality="adt", n_samples=2, **some)),
        "likelihood": model.cell_fit(**some).drop(columns="unlike").to_numpy(float),
        "labels": model.predict_labels("kind", **some)[["probability", "distance"]].to_numpy(),
    }


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), n=st.integers(1, 90), size=st.integers(1, 200))
def test_no_answer_depends_on_the_batch_size(
    model: MosaicVI, monkeypatch: pytest.MonkeyPatch, seed: int, n: int, size: int
) -> None:
    monkeypatch.setattr(latent, "MOST_ROWS", 32)
    cells = np.random.default_rng(seed).permutation(model.mosaic.n_cells)[:n]
    one, other = answers(model, cells, 512), answers(model, cells, size)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@settings(max_examples=30, deadline=None)
@given(widest=st.integers(1, 10**7), size=st.integers(1, 5000))
def test_how_many_are_computed_together(widest: int, size: int) -> None:
    def net(device: str) -> Any:
        one = torch.zeros(1, device=device)
        return SimpleNamespace(
            parameters=lambda: iter([one]), config=SimpleNamespace(dim_input_arr=[3, widest])
        )

    together = latent.rows_together(net("cpu"), size)
    assert together == latent.rows_together(net("cpu"), 1)
    assert together in (16, 32, 64, 128, 256)
    assert together == 16 or together * widest <= latent.MOST_VALUES
    assert latent.rows_together(net("meta"), size) == size
