"""Jobs: every target once, in the pass and of the feature it belongs to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import random_mudata
from tests.nn.test_vae import mosaic_of

from mosaicvi import device
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import ModalityRows
from mosaicvi.nn.masks import ModalityMask, View, masked_views, observed_view
from mosaicvi.nn.targets import Job, make_jobs

Target = tuple[int, int, int]  # pass, row of the modality, feature


def targets_of(job: Job, n_features: int) -> list[Target]:
    """Every target of a job; features are those of the whole modality."""
    features = np.arange(n_features) if job.rows.features is None else job.rows.features
    out = []
    for k in range(job.n_rows):
        counts = np.ones(len(features), bool)
        if job.view is not None and int(job.view.index[k]) >= 0:
            counts = job.view.table[job.view.index[k]].numpy()
        out += [(int(job.of_pass[k]), int(job.pick[k]), int(f)) for f in features[counts]]
    return out


def wanted_of(views: list[View]) -> list[Target]:
    return [
        (p, int(i), int(f))
        for p, view in enumerate(views)
        for i, f in zip(*view.table[view.index].numpy().nonzero(), strict=True)
    ]


def draw_views(data: st.DataObject, rows: ModalityRows) -> list[View]:
    """What two passes must predict: what was measured, and what a mask hides of it."""
    n, d = len(rows.cells), rows.panels.shape[1]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    n_patterns = data.draw(st.integers(1, 4))
    patterns = torch.rand(n_patterns, d, generator=generator) < data.draw(st.sampled_from([0.0, 0.2, 0.9]))
    ends = torch.tensor([[False], [True]]).expand(2, d)
    code = torch.randint(0, n_patterns + 2, (n,), generator=generator)
    mask = ModalityMask(table=torch.cat([ends, patterns]), code=code)
    observed = observed_view(rows)
    return [observed, masked_views(observed, mask)[1]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_target_is_in_one_job(data: st.DataObject) -> None:
    mdata = random_mudata(data.draw(st.integers(0, 50)), n_cells=50, panels=data.draw(st.booleans()))
    m, softmax = data.draw(st.integers(0, 2)), data.draw(st.booleans())
    rows = MinibatchLoader(mosaic_of(mdata)).take(np.arange(50)).rows[m]
    views = draw_views(data, rows)
    jobs = make_jobs(rows, views, softmax=softmax)
    found = Counter(t for job in jobs for t in targets_of(job, rows.panels.shape[1]))
    assert found == Counter(wanted_of(views))
    for job in jobs:
        assert len(job.of_pass) == len(job.pick) == job.n_rows > 0
        assert not softmax or job.columns is None


def test_a_shared_mask_of_few_features_is_a_smaller_job() -> None:
    mosaic = mosaic_of(random_mudata(1, n_cells=60, n_genes=30, nan=False, panels=False))
    rows = MinibatchLoader(mosaic).take(np.arange(60)).rows[0]
    n, d = len(rows.cells), 30
    table = torch.zeros(3, d, dtype=torch.bool)
    table[1], table[2, [4, 9]] = True, True
    views = [View(table=table, index=torch.arange(n) % 3)]
    whole, few = make_jobs(rows, views, softmax=False)
    assert whole.columns is None
    assert few.columns is not None
    assert few.columns.tolist() == [4, 9]
    assert few.rows.panels.shape[1] == 2
    assert make_jobs(rows, [], softmax=False) == []
    (together,) = make_jobs(rows, views, softmax=True)
    assert together.n_rows == whole.n_rows + few.n_rows


def test_on_a_device_no_size_depends_on_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "is_apart", lambda tensor: True)
    rows = MinibatchLoader(mosaic_of(random_mudata(3))).take(np.arange(24)).rows[0]
    nothing = View(table=torch.zeros_like(rows.panels[:1]), index=torch.zeros_like(rows.panel))
    (job,) = make_jobs(rows, [observed_view(rows), nothing], softmax=False)
    assert job.n_rows == 2 * len(rows.cells)
