"""Draws of values of any cells, for whatever has to be carried through an analysis with its uncertainty."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from mosaicvi.config.arguments import whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.covariates import TransformBatch, batches_of
from mosaicvi.infer.draws import DrawRequest, drawn
from mosaicvi.model.asked import minibatch_size, positions_of
from mosaicvi.model.state import ModelState


class Drawing(ModelState):
    """What cells might have measured: draws from the model's predictive distribution."""

    @names_ours
    def posterior_predictive_sample(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        modality: str,
        n_samples: int = 1,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        library: float | ArrayLike | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> NDArray[np.float32]:
        """Draws of a modality's values, for any cell: latent from its posterior, then likelihood.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        modality
            Which modality.
        n_samples
            How many draws; the first are the same however many there are.
        features
            Names of features; all where None.
        indices
            Positions of cells, a boolean per cell, or names; all where None.
        library
            For counts: the total that each cell is given, a number or one per cell asked for; the median of
            the training data where None.
        transform_batch
            As which batch, as in `get_imputed_values`; of several, draws take turns.
        modalities
            What the encoder may see; all that was measured where None.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides the draws. A cell's depend on the seed and its name alone, not on which cells or
            features are asked for with it.

        Returns
        -------
        Array (``n_samples``, cells, features), float32, in the units of the input: whole counts, 0 or 1 for
        accessibility, real values.

        Raises
        ------
        InputError
            For a setting that cannot be used.

        Notes
        -----
        The draws are the network's own: over many of them their mean is that of its decoder, and not what
        `get_imputed_values` reads out of decoder, latent and measured values together.
        """
        mosaic, _ = self._data(mdata)
        cells = positions_of(indices, mosaic)
        d = len(self.imputed_features(modality) if features is None else self._places(modality, features))
        out = np.empty((whole("n_samples", n_samples, least=1), len(cells), d), np.float32)
        stream = self.iter_posterior_predictive_sample(
            mdata if mdata is None else mosaic,
            modality=modality,
            n_samples=n_samples,
            features=features,
            indices=cells,
            library=library,
            transform_batch=transform_batch,
            modalities=modalities,
            batch_size=batch_size,
            seed=seed,
        )
        for rows, values in stream:
            out[:, rows] = values
        return out

    @names_ours
    def iter_posterior_predictive_sample(
        self,
        mdata: MuData | AnnData | Mosaic | None = None,
        *,
        modality: str,
        n_samples: int = 1,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        library: float | ArrayLike | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """`posterior_predictive_sample` as a stream of rows and values (``n_samples``, rows, features)."""
        mosaic, loader = self._data(mdata)
        m, cells = self._position(modality), positions_of(indices, mosaic)
        wanted = DrawRequest(
            m=m,
            n_samples=whole("n_samples", n_samples, least=1),
            batches=batches_of(self.registry, modality, transform_batch),
            library=self._libraries(m, library, len(cells)),
            features=None if features is None else self._places(modality, features),
        )
        return drawn(
            self.net,
            loader,
            mosaic,
            cells,
            wanted,
            modalities=self._seen(modalities),
            batch_size=minibatch_size(batch_size),
            seed=whole("seed", seed),
        )
