"""How likely what a cell measured is under the model, and whether cells like it are as likely.

Legend: b cells of a minibatch, n cells, M modalities, d features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.minibatch import transformed
from mosaicvi.data.mosaic import ModalityData
from mosaicvi.infer.latent import encoded
from mosaicvi.likelihoods import Parameters
from mosaicvi.nn.encoder import densified, raw_values
from mosaicvi.nn.masks import observed_view
from mosaicvi.nn.vae import MosaicVAE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ALIKE = 500  # cells of about the same depth with which a cell is compared
ROUNDING = 1e-5  # by which a cell may differ from itself, computed with others beside it


def log_likelihoods(
    net: MosaicVAE, loader: MinibatchLoader, cells: Ints, *, batch_size: int
) -> tuple[Floats, Ints]:
    """Log-likelihood of what cells measured, at the mean of their latent.

    Parameters
    ----------
    net, loader
        The trained network and the data.
    cells
        Positions in the mosaic, (n,).
    batch_size
        Cells at a time; it does not change the answers.

    Returns
    -------
    The sum over a cell's features, (n, M), and how many these are, (n, M); 0 of 0 where it has none.
    """
    n_modalities = len(net.config.uni_block_names)
    total, count = np.zeros((len(cells), n_modalities)), np.zeros((len(cells), n_modalities), np.int64)
    for at, minibatch, q in encoded(net, loader, cells, batch_size=batch_size):
        with torch.no_grad():
            h = net.shared_layers(q.mean, q, minibatch.covariates, 1)
            for m, rows in enumerate(minibatch.rows):
                if not len(rows.cells):
                    continue
                head, some = net.head(m), rows.cells
                view = observed_view(rows)
                measured = view.table[view.index]
                aware = head.library_aware
                x = densified(rows, raw_values(rows) if aware else transformed(rows), measured.shape[1])
                location = head.location(
                    net.decoder.output(head, h[some], [s[some].to(h.dtype) for s in q.blocks]),
                    rows.library[:, None] if aware else None,
                    measured if aware and not view.full else None,
                )
                found = head.family.log_prob(
                    x.masked_fill(~measured, head.family.filler),
                    Parameters(
                        location=location.masked_fill(~measured, 0.0),
                        dispersion=head.alpha(minibatch.covariates[some]),
                        inflation=head.pi(),
                    ),
                )
                place = np.arange(at.start, at.stop)[some.cpu().numpy()]
                total[place, m] = found.masked_fill(~measured, 0.0).double().sum(1).cpu().numpy()
                count[place, m] = measured.sum(1).cpu().numpy()
    return total, count


def ranks(per_feature: Floats, depth: Floats, of_reference: Floats, its_depth: Floats) -> Floats:
    """Which share of reference cells of about the same depth is as unlikely or more so, (n,).

    Parameters
    ----------
    per_feature, depth
        Mean log-likelihood of a cell's features, and its depth, (n,).
    of_reference, its_depth
        The same of the reference's cells, (r,).
    """
    order = np.argsort(its_depth, kind="stable")
    sorted_depth, sorted_value = its_depth[order], of_reference[order]
    k = min(ALIKE, len(order))
    first = np.clip(np.searchsorted(sorted_depth, depth) - k // 2, 0, len(order) - k)
    out = np.empty(len(per_feature))
    equal = ROUNDING * np.maximum(np.abs(per_feature), 1.0)
    for i, start in enumerate(first):
        as_unlikely = sorted_value[start : start + k] <= per_feature[i] + equal[i]
        out[i] = (int(as_unlikely.sum()) + 1) / (k + 1)
    return out


def depths(data: ModalityData, cells: Ints) -> Floats:
    """Depth of cells that have a modality: logarithm of the library; 0 where values are no counts."""
    found: Any = data.library[data.row_of_cell[cells]].astype(np.float64)
    return np.asarray(np.log1p(found) if likelihoods.get(data.likelihood).whole else np.zeros(len(cells)))
