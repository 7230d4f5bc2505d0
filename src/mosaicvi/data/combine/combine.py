"""Datasets of different features, modalities and cells as one MuData that says what was measured."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mudata import MuData

from mosaicvi.config.names import names_ours
from mosaicvi.data.combine.assemble import Assembled, Join
from mosaicvi.data.combine.together import Dataset, put_together
from mosaicvi.data.read.files import Duplicates
from mosaicvi.data.read.table import Orientation


@names_ours
def combine(
    datasets: Mapping[str, Dataset],
    *,
    join: Join = "outer",
    dataset_key: str = "dataset",
    name_key: str = "original_name",
    panel_key: str | Mapping[str, str] | None = None,
    modality: str | Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    layers: Mapping[str, str] | None = None,
    match: Mapping[str, str | Sequence[str]] | None = None,
    orientation: Orientation | Mapping[str, Orientation] | None = None,
    duplicates: Duplicates = "error",
    columns: str | Mapping[str, str] | None = None,
    names_from: str | Mapping[str, str] | None = None,
    genome: str | None = None,
    pair: bool | Mapping[str, Collection[str]] | None = None,
    from_obsm: Mapping[str, str] | None = None,
    min_counts: Mapping[str, float] | None = None,
    rounded: Collection[str] = (),
    log2: Collection[str] = (),
    zeros_missing: Collection[str] = (),
    progress: bool | None = None,
) -> MuData:
    """Combine datasets into one mosaic.

    Features are matched by their exact names, and by the rules of ``match`` where asked. What a dataset does
    not measure stays unmeasured: it is no zero. Cells are matched between datasets only with ``pair``. The
    inputs are not changed; paths are read one at a time. Layers, embeddings and graphs are not carried over.

    Parameters
    ----------
    datasets
        Dataset name → AnnData, MuData, dict of modality name to AnnData, or a path (see
        :func:`mosaicvi.data.read.read`).
    join
        ``"outer"``: the features of any dataset; ``"inner"``: of a modality, those of every dataset that has
        it.
    dataset_key, name_key
        Columns of ``obs`` for the name of a cell's dataset, and for the name it had there. A dataset that was
        combined itself keeps what its columns say.
    panel_key
        The column of the inputs' ``obs`` that says which of their own panels (``varm["measured"]``) a cell
        has; for all datasets, or by dataset. By default what ``uns["mosaicvi"]["panel_key"]`` says, or the
        one column that holds nothing but names of panels.
    modality
        The name of the modality of AnnData without ``var["feature_types"]``, by default ``"rna"``; for all
        datasets, or by dataset.
    rename
        New names of modalities, e.g. ``{"prot": "adt"}``.
    layers
        Modality, or ``"<dataset>:<modality>"`` for one dataset → layer that is taken instead of ``X``;
        ``"raw"`` for ``.raw``, ``"X"`` for ``X``. Where none is named, counts beside an ``X`` that certainly
        holds none are taken, with a warning.
    match
        Modality → one or several rules for names that are written differently, see
        :func:`mosaicvi.data.combine.match.match_features`. The values of peaks that become one
        (``"overlap"``) are summed.
    orientation, duplicates, columns, names_from, genome
        For paths, see :func:`mosaicvi.data.read.read`; orientation, columns and names_from for all datasets
        or by name.
    pair
        True: datasets that share names of cells are the same cells, measured several times, and become one
        dataset, ``a+b``; also where the names differ in what stands around them, as ``AAACCTG-1`` and
        ``AAACCTG``, with a warning. A dict says which, and how they are called together: ``{"GSM1": ["rna",
        "adt"]}``. False: they are not. By default they are taken for different cells, with a warning.
        A dict of modality name to AnnData says the same of data in memory.
    from_obsm, min_counts, rounded, log2, zeros_missing
        See :func:`mosaicvi.to_mudata`; each dataset counts as one batch, and a name may be
        ``"<dataset>:<modality>"`` in `from_obsm`.
    progress
        Show a progress bar on stderr; by default only if stderr is a terminal.

    Returns
    -------
    A mosaic. Each modality has the rows of the cells that measured it: CSR float32, or dense with NaN if an
    input had missing entries. ``varm["measured"]``: features × panels, bool. ``obs``: the covariates,
    ``dataset_key``, ``name_key``. ``uns["mosaicvi"]``: ``panel_key``, the column of ``obs`` that names each
    cell's panel (the dataset; or, if a dataset came with panels of its own, the column
    ``<dataset_key>_panel``, which holds ``<dataset>:<panel>``), and with ``match`` the report ``matches``.
    Cells keep their names where no two datasets share one, and are called ``<name>-<dataset>`` otherwise, or
    ``<name>-<number of the dataset>`` where that is not unique.

    Raises
    ------
    InputError
        All problems of all datasets, one a line, each beginning with the dataset's name.
    MosaicWarning
        A warning, if a modality is of whole numbers in some datasets and of fractions in others.
    """
    return put_together(
        datasets,
        join=join,
        dataset_key=dataset_key,
        name_key=name_key,
        panel_key=panel_key,
        modality=modality,
        rename=rename,
        layers=layers,
        match=match,
        orientation=orientation,
        duplicates=duplicates,
        columns=columns,
        names_from=names_from,
        genome=genome,
        pair=pair,
        from_obsm=from_obsm,
        min_counts=min_counts,
        rounded=rounded,
        log2=log2,
        zeros_missing=zeros_missing,
        progress=progress,
        on_disk=False,
    ).mdata


def combine_as(
    datasets: Mapping[str, Dataset], *, layers_if_there: Mapping[str, str], **options: Any
) -> MuData:
    """The same with layers, by modality, for those datasets that have them and of which none was named."""
    options = _defaults() | options
    return put_together(datasets, **options, layers_if_there=layers_if_there, on_disk=False).mdata


def combine_stored(datasets: Mapping[str, str | os.PathLike[str]], **options: Any) -> Assembled:
    """The same of files whose values stay where they are; options as those of `combine`."""
    return put_together(datasets, **(_defaults() | options), on_disk=True)


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(combine).parameters
    return {name: p.default for name, p in parameters.items() if name != "datasets"}
