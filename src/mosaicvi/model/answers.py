"""Latent and imputed values of any cells."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register.source import Paths
from mosaicvi.errors import InputError, memory_for
from mosaicvi.infer.covariates import TransformBatch, batches_of
from mosaicvi.infer.draws import latent_noise
from mosaicvi.model.asked import minibatch_size, positions_of
from mosaicvi.model.routing import Routing, Stream


class Answers(Routing):
    """What a model says of cells: where they lie, and the values that they would have."""

    @names_ours
    def get_latent_representation(
        self,
        mdata: MuData | AnnData | Mosaic | Paths | None = None,
        *,
        indices: Sequence[int] | NDArray[Any] | None = None,
        give_mean: bool = True,
        return_dist: bool = False,
        n_samples: int | None = None,
        modalities: Collection[str] | None = None,
        aligned: bool = True,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent of each cell, by its own values and its batch.

        Parameters
        ----------
        mdata
            Other data with the same features, their path, or what `registered` made of them; the model's own
            where None.
        indices
            Positions of cells, or a boolean per cell; all where None.
        give_mean
            The mean of the posterior; with False one draw from it.
        return_dist
            Return mean and variance.
        n_samples
            So many draws from the posterior; with ``aligned=False`` those of `posterior_predictive_sample`.
        modalities
            What the encoder may see, such as ``["rna"]``; all that was measured where None.
        aligned
            Move and stretch the cells of each batch, and of each set of modalities, so that cells of a kind
            lie together. With False the latent is what the encoder says, from which values are decoded.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides the draws; a cell's depend on the seed and its name alone.

        Returns
        -------
        Array (cells, ``dim_latent``), two with `return_dist`, or with `n_samples` one
        (``n_samples``, cells, ``dim_latent``).

        Notes
        -----
        Within clusters of the latent, groups of cells get the same mean (Korsunsky et al., Nature Methods
        2019) and covariance (Sun, Feng and Saenko, AAAI 2016). Groups that lie further apart in a cluster
        than its cells do stay apart, so types that a batch lacks are not mixed with others. The published
        preset is not aligned. Nothing but the values and the batch of a cell matters, with one exception: how
        strongly a batch is stained that the model has not seen is told by all its cells in `mdata`.
        """
        mosaic, loader = self._data(mdata)
        cells = positions_of(indices, mosaic)
        seen, batch_size = self._seen(modalities), minibatch_size(batch_size)
        with memory_for("computing the latent", f"set batch_size={max(1, batch_size // 4)}"):
            mean, var = self._latent_of(mosaic, loader, cells, modalities=seen, batch_size=batch_size)
        found = [mean]
        if n_samples is not None or not (give_mean or return_dist):
            n = 1 if n_samples is None else whole("n_samples", n_samples, least=1)
            noise = latent_noise(whole("seed", seed), mosaic.names(cells), n, mean.shape[1])
            found = list(mean + np.sqrt(var) * noise)
        if aligned:
            both = [self.align(mosaic, cells, one, var, modalities=seen) for one in found]
            found, var = [one for one, _ in both], both[0][1]
        if n_samples is not None:
            return np.stack(found)
        return (found[0], var) if return_dist else found[0]

    @names_ours
    def get_imputed_values(
        self,
        mdata: MuData | AnnData | Paths | None = None,
        *,
        modality: str,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        n_samples: int | None = None,
        scale: Literal["counts", "log1p_cp10k", "clr", "value", "probability"] | None = None,
        library: float | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Expected values of a modality, for any cell, whether it measured the modality or not.

        Parameters
        ----------
        mdata
            Other data with the same features, or their path; the model's own where None.
        modality
            Which modality.
        features
            Names of features; all where None. Fewer take less time and memory.
        indices
            Positions of cells, or a boolean per cell; all where None.
        n_samples
            Draws of z to average over; the mean of z is decoded where None.
        scale
            What the values are expected values of: ``"counts"`` or ``"log1p_cp10k"`` for counts, also
            ``"clr"`` for those that are seen as centred log ratios, else ``"value"`` or ``"probability"``;
            the first that the modality has where None. The logarithm of an expected count is not the
            expected logarithm, by which cells are usually compared.
        library
            For counts: the library that each cell is given. Where None the median of the training data; for
            counts that are seen as centred log ratios about that, and less or more where ratios of small
            counts tell the depth of a cell.
        transform_batch
            As which batch: by default every cell keeps its own, so that values differ between batches as the
            measured ones do, and a cell whose batch never measured the modality is given ``"mean"``. The name
            of a batch gives what its cells would have been measured as there; several names the average over
            these batches; ``"mean"`` values halfway between all batches that measured the modality.
        modalities
            What the encoder may see; all that was measured where None.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides the draws.

        Returns
        -------
        DataFrame (cells, features), float32; ``attrs["scale"]`` says what the values mean, ``attrs["batch"]``
        as which batch.

        Notes
        -----
        Counts other than peaks are read out of the decoder, the latent and the measured values together,
        with weights that cells decide which were held out from training (stacked regressions; Breiman,
        Machine Learning 1996). The published preset takes the decoder's values. A level of a batch is the
        decoder's difference between its covariates and their mean, on the scale of comparison, and what cells
        of the batch differ by beyond that; only other batches than a cell's own change with
        `transform_batch`, not its latent or further covariates. A batch has no level of features that it
        never measured: they stay at the mean.
        """
        mosaic, _ = self._data(mdata)
        cells = positions_of(indices, mosaic)
        names = self.imputed_features(modality)
        names = names if features is None else names[self._places(modality, features)]
        fewer = "name fewer features=[...], or take a minibatch at a time from iter_imputed_values"
        with memory_for("imputing", fewer):
            out = np.empty((len(cells), len(names)), np.float32)
        stream = self.iter_imputed_values(
            mdata if mdata is None else mosaic,
            modality=modality,
            features=features,
            indices=cells,
            n_samples=n_samples,
            scale=scale,
            library=library,
            transform_batch=transform_batch,
            modalities=modalities,
            batch_size=batch_size,
            seed=seed,
        )
        for at, values in stream:
            out[at] = values
        frame = pd.DataFrame(out, index=mosaic.names(cells), columns=names, copy=False)
        frame.attrs["scale"] = str(self.imputed_scale(modality, scale=scale, library=library))
        frame.attrs["batch"] = batches_of(self.registry, modality, transform_batch).said_of(mosaic, modality)
        return frame

    @names_ours
    def iter_imputed_values(
        self,
        mdata: MuData | AnnData | Paths | Mosaic | None = None,
        *,
        modality: str,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        n_samples: int | None = None,
        scale: Literal["counts", "log1p_cp10k", "clr", "value", "probability"] | None = None,
        library: float | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """`get_imputed_values` as a stream, in the memory of one minibatch: (rows, values) at a time."""
        mosaic, _ = self._data(mdata)
        self._position(modality)
        if library is not None and not number("library", library) > 0:
            raise InputError(f"library: must be > 0, not {library!r}.")
        if n_samples is not None:
            n_samples = whole("n_samples", n_samples, least=1)
        if features is not None:
            self._places(modality, features)
        self.imputed_scale(modality, scale=scale, library=library)
        batches_of(self.registry, modality, transform_batch)
        stream = self._imputed_stream(
            mosaic,
            positions_of(indices, mosaic),
            modality=modality,
            features=features,
            modalities=self._seen(modalities),
            n_samples=n_samples,
            scale=scale,
            library=library,
            transform_batch=transform_batch,
            batch_size=minibatch_size(batch_size),
            seed=whole("seed", seed),
        )
        return _in_parts(stream, minibatch_size(batch_size))


def _in_parts(stream: Stream, size: int) -> Stream:
    """Rows by at most so many, of however many were computed together."""
    with memory_for("imputing", f"set batch_size={max(1, size // 4)}"):
        for rows, values in stream:
            for start in range(rows.start, rows.stop, size):
                part = slice(start, min(start + size, rows.stop))
                yield part, values[part.start - rows.start : part.stop - rows.start]
