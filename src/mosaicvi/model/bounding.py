"""Intervals in which the values of any cells lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from mosaicvi.config.arguments import number
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import InputError
from mosaicvi.infer.covariates import TransformBatch, batches_of
from mosaicvi.infer.impute import Scale
from mosaicvi.infer.intervals.answers import Bounds, IntervalRequest, intervals
from mosaicvi.infer.intervals.spread import WIDEST
from mosaicvi.model.answers import Answers
from mosaicvi.model.asked import minibatch_size, positions_of


class Intervals(NamedTuple):
    """Both ends of intervals, cells × features."""

    lower: pd.DataFrame
    upper: pd.DataFrame


class Bounding(Answers):
    """Between which ends values of cells lie."""

    @names_ours
    def get_imputed_intervals(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        modality: str,
        level: float = 0.9,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        scale: Literal["counts", "log1p_cp10k", "value", "probability"] | None = None,
        library: float | ArrayLike | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
    ) -> Intervals:
        """Intervals in which values themselves lie, for any cell, whether it measured the modality or not.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        modality
            Which modality.
        level
            Share of the values that should lie inside, up to 0.99.
        features
            Names of features; all where None.
        indices
            Positions of cells, a boolean per cell, or names; all where None.
        scale
            ``"log1p_cp10k"``, the default for counts other than peaks: the cell's value over its own total,
            which nobody knows; or ``"counts"``, for a total that is given. Of other values their own.
        library
            Of counts on the scale ``"counts"``: the total, a number or one per cell asked for; the median of
            the training data where None.
        transform_batch
            As which batch, as in `get_imputed_values`; of several, the ends are averages.
        modalities
            What the encoder may see; all that was measured where None.
        batch_size
            Cells at a time; it does not change the answers.

        Returns
        -------
        Tables (cells, features) ``lower`` and ``upper``, float32. In both, ``attrs`` says the ``level``, the
        ``scale`` and as which ``batch``. Of accessibility, 0 to 1 means that either may be.

        Raises
        ------
        InputError
            For a setting that cannot be used.

        Notes
        -----
        Quantiles of the values for which about the same was imputed, or of the likelihood, at the levels at
        which values that were hidden from the model lie below as often as they should: split-conformal
        prediction (Chernozhukov, Wuthrich and Zhu, PNAS 2021), by modality and by what the encoder sees. It
        holds on average over cells like those that were held out from training, which measured the
        modality. Of cells whose batch never did, nothing is promised. Whole numbers make intervals cover at
        least as often as `level` says; where most values are 0, an interval may be 0 alone.
        """
        mosaic, _ = self._data(mdata)
        cells = positions_of(indices, mosaic)
        names = self.imputed_features(modality)
        names = names if features is None else names[self._places(modality, features)]
        ends = np.empty((2, len(cells), len(names)), np.float32)
        stream = self.iter_imputed_intervals(
            mdata if mdata is None else mosaic,
            modality=modality,
            level=level,
            features=features,
            indices=cells,
            scale=scale,
            library=library,
            transform_batch=transform_batch,
            modalities=modalities,
            batch_size=batch_size,
        )
        for rows, lower, upper in stream:
            ends[:, rows] = lower, upper
        tables = Intervals(*(pd.DataFrame(end, index=mosaic.names(cells), columns=names) for end in ends))
        batches = batches_of(self.registry, modality, transform_batch)
        for table in tables:
            table.attrs["level"] = level
            of = self.interval_scale(modality, scale=scale, library=library)
            table.attrs["scale"] = self._said(modality, of, library)
            table.attrs["batch"] = batches.said_of(mosaic, modality)
        return tables

    @names_ours
    def iter_imputed_intervals(
        self,
        mdata: MuData | AnnData | Mosaic | None = None,
        *,
        modality: str,
        level: float = 0.9,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        scale: Literal["counts", "log1p_cp10k", "value", "probability"] | None = None,
        library: float | ArrayLike | None = None,
        transform_batch: TransformBatch = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
    ) -> Iterator[Bounds]:
        """`get_imputed_intervals` as a stream: rows, lower and upper ends of one minibatch at a time."""
        mosaic, _ = self._data(mdata)
        m, cells = self._position(modality), positions_of(indices, mosaic)
        if not 0 < number("level", level) <= WIDEST:
            raise InputError(f"level: above 0 and up to {WIDEST}, not {level!r}.")
        if self.spreads() is None:
            raise InputError("Intervals need a trained model; call train() first.")
        self.interval_scale(modality, scale=scale, library=library)
        batches_of(self.registry, modality, transform_batch)
        libraries = self._libraries(m, library, len(cells))
        if features is not None:
            self._places(modality, features)
        return self._bounds(
            mosaic,
            cells,
            modality=modality,
            level=float(level),
            features=features,
            scale=scale,
            library=None if library is None else libraries,
            transform_batch=transform_batch,
            modalities=self._seen(modalities),
            batch_size=minibatch_size(batch_size),
        )

    def _bounds(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        *,
        modality: str,
        features: Sequence[str] | None,
        library: NDArray[np.float64] | None,
        transform_batch: TransformBatch,
        modalities: Collection[str] | None,
        batch_size: int,
        **how: Any,
    ) -> Iterator[Bounds]:
        """Intervals of cells, each by the model that also answers for its values."""
        base = self._base
        asked = {"modality": modality, "transform_batch": transform_batch, "batch_size": batch_size, **how}
        is_known = base is not None and modality in base.config.uni_block_names
        if base is None or transform_batch is not None or not is_known or base._spreads_if_sure() is None:
            yield from self._own_bounds(
                mosaic, cells, library=library, features=features, modalities=modalities, **asked
            )
            return

        def of(at: NDArray[np.int64]) -> dict[str, Any]:
            return {"library": None if library is None else library[at], **asked}

        def own(
            data: Mosaic, some: NDArray[np.int64], at: NDArray[np.int64], **which: Any
        ) -> Iterator[Bounds]:
            return self._own_bounds(data, some, **which, **of(at))

        def theirs(
            data: Mosaic, some: NDArray[np.int64], at: NDArray[np.int64], **which: Any
        ) -> Iterator[Bounds]:
            return base._bounds(data, some, **which, **of(at))

        parts = self._parted(
            mosaic, cells, base, modality, features, modalities, batch_size, own, theirs, n_tables=2
        )
        yield from ((rows, lower, upper) for rows, (lower, upper) in parts)

    def _own_bounds(
        self,
        mosaic: Mosaic,
        cells: NDArray[np.int64],
        *,
        modality: str,
        level: float,
        features: Sequence[str] | None,
        scale: str | None,
        library: NDArray[np.float64] | None,
        transform_batch: TransformBatch,
        modalities: Collection[str] | None,
        batch_size: int,
    ) -> Iterator[Bounds]:
        """The same by this model's own network, whatever it grew from."""
        _, loader = self._data(mosaic)
        m, spreads = self._position(modality), self.spreads()
        assert spreads is not None
        wanted = IntervalRequest(
            m=m,
            level=level,
            scale=self.interval_scale(modality, scale=scale, library=library),
            batches=batches_of(self.registry, modality, transform_batch),
            library=self._libraries(m, library, len(cells)),
            features=None if features is None else self._places(modality, features),
        )
        return intervals(
            self.net,
            loader,
            mosaic,
            cells,
            wanted,
            spreads=spreads,
            readout=self.readout(mosaic),
            modalities=modalities,
            batch_size=batch_size,
        )

    @names_ours
    def interval_scale(
        self, modality: str, *, scale: str | None = None, library: float | ArrayLike | None = None
    ) -> Scale:
        """What intervals of a modality are of; arguments as `get_imputed_intervals`."""
        m, readout = self._position(modality), self.readout()
        is_read = readout is not None and readout.scale_of(modality) is not None
        asked = "log1p_cp10k" if scale is None and is_read else scale
        found = dataclasses.replace(self.imputed_scale(modality, scale=asked), library=None)
        if found.kind == "clr":
            raise InputError(
                f"scale: {modality} has no intervals of ratios; use scale='log1p_cp10k' or scale='counts'."
            )
        if found.kind == "log1p_cp10k" and self.config.library_aware[m]:
            if not is_read:
                raise InputError(f"scale: of {modality} there are intervals of counts alone; use 'counts'.")
            if library is not None:
                raise InputError(
                    "library: a value on the scale 'log1p_cp10k' is over the cell's own total; "
                    "leave it out, or use scale='counts'."
                )
        return found

    def _said(self, modality: str, scale: Scale, library: float | ArrayLike | None) -> str:
        """What the values are, in words."""
        if scale.kind == "log1p_cp10k":
            return "log(1 + counts per 10,000 of the cell's own total)"
        if scale.kind == "probability":
            return "accessible (1) or not (0)"
        if scale.kind != "counts":
            return str(scale)
        given = self.registry.median_library[modality] if library is None else library
        return (
            f"counts at a library of {given:g}" if isinstance(given, int | float) else "counts at libraries"
        )
