"""Registering: where the values, batches and panels of a MuData or AnnData are."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anndata import AnnData
from mudata import MuData

from mosaicvi.config import Distribution
from mosaicvi.config.arguments import pairs
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.read import to_mudata
from mosaicvi.data.register import register
from mosaicvi.data.register.source import PathLike, Paths, Source, are_paths, source_of
from mosaicvi.data.register.state import state_digest
from mosaicvi.data.registry import Registry, Setup
from mosaicvi.data.stored.memory import InMemory
from mosaicvi.data.stored.progress import shown_reading
from mosaicvi.data.transforms import Transform
from mosaicvi.errors import FEWER_CELLS, FEWER_FEATURES, InputError, memory_for, wording
from mosaicvi.model.columns import digest_of, object_of, remember_source
from mosaicvi.ranks import place
from mosaicvi.store.learnt import kept_in

PerModality = Mapping[str, str] | None

# Arguments of `setup_mudata` for one modality -> those of `setup_anndata`.
_PER_MODALITY = r"(layer|likelihood|transform|block_key)s"
OF_ONE = {
    rf"\b{_PER_MODALITY}=\{{(?:'[^']*'|\"[^\"]*\"): ([^{{}}]*)\}}": r"\1=\2",
    rf"^{_PER_MODALITY}:": r"\1:",
}

# What each object was registered as, for as long as it lives; the object itself is never changed.
_registered: dict[int, Mosaic] = {}


class Registering:
    """The class methods that register data for a model."""

    @classmethod
    @names_ours
    def setup_mudata(
        cls,
        mdata: MuData | Paths | Source,
        *,
        batch_key: str | None = None,
        layers: PerModality = None,
        likelihoods: Mapping[str, Distribution] | None = None,
        transforms: Mapping[str, Transform] | None = None,
        block_keys: PerModality = None,
        categorical_covariate_keys: Sequence[str] | None = (),
        continuous_covariate_keys: Sequence[str] | None = (),
        panel_key: str | None = None,
        modalities: Sequence[str] | None = (),
        condition_keys: Sequence[str] | None = (),
        in_memory: InMemory = "auto",
        checkpoint_dir: PathLike | None = None,
    ) -> Mosaic:
        """Register a MuData: say where the values, batches and panels are. It is not changed.

        Its matrices are not copied where that can be helped; do not write into them in place while the
        model is in use.

        Parameters
        ----------
        mdata
            Cells are aligned by ``obs_names``; a cell may be absent from any modality. It may be backed by
            its file; or the path of an .h5mu, .h5ad or .zarr, or of anything that `mosaicvi.read` reads; or
            several, as a list or by name, which become one mosaic as by `mosaicvi.combine`.
        batch_key
            Column of ``obs`` with the batches.
        layers
            Layer with the values, by modality; ``"raw"`` is ``.raw``. Where none is named: ``X``, or, with a
            warning, counts of all its features in ``layers["counts"]`` or ``.raw`` where counts are expected
            (rna, adt, atac), ``X`` certainly holds none, and no likelihood or transform was named either.
        likelihoods
            NB, ZINB, Poisson, Bernoulli or Gaussian, by modality. Where none is named: Poisson for
            counts of peaks named by chromosome, Bernoulli if they are 0 or 1, NB for other whole numbers,
            Gaussian for dense fractions.
        transforms
            What the encoder sees, by modality: log1p_cp10k (counts), binarize (Bernoulli), clr or none.
        block_keys
            Column of ``var`` with the block of each feature, by modality. Where none is named, features
            like ``chr1:100-200`` make a block per chromosome, others one block.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns of ``obs`` to correct for.
        panel_key
            Column of ``obs`` that names each cell's panel, a column of ``varm["measured"]`` (features x
            panels, boolean). Where none is named: what `combine` noted, else `batch_key`.
        modalities
            Modalities to use; all where none is named.
        condition_keys
            Columns of ``obs`` with the groups that the alignment term (`gamma`) brings together, each column
            alone; a cell without a value is in none. Where none is named, groups are the batch with what a
            cell measured.
        in_memory
            Of values in a file: whether they are brought into memory. With False they stay where they are,
            and are read here and again in every epoch; ``"auto"`` does so where they need more than half of
            the memory that is free. The printed `Mosaic` says which it is.
        checkpoint_dir
            Of values in a file: the folder in which training will write its checkpoints. What reading them
            says is kept there too, so that they are not read here again when training is resumed.

        Returns
        -------
        The registered `Mosaic`, which can be printed.

        Raises
        ------
        InputError
            With every problem found, one per line.
        """
        if not isinstance(mdata, MuData | Source) and not are_paths(mdata):
            raise InputError(
                f"setup_mudata needs a MuData, not {type(mdata).__name__}; use setup_anndata for an AnnData."
            )
        setup = Setup(
            batch_key=batch_key,
            layers=pairs("layers", layers),
            likelihoods=pairs("likelihoods", likelihoods),
            transforms=pairs("transforms", transforms),
            block_keys=pairs("block_keys", block_keys),
            categorical_covariate_keys=_names(categorical_covariate_keys, "categorical_covariate_keys"),
            continuous_covariate_keys=_names(continuous_covariate_keys, "continuous_covariate_keys"),
            panel_key=panel_key,
            modalities=_names(modalities, "modalities"),
            condition_keys=_names(condition_keys, "condition_keys"),
        )
        return _remember(mdata, setup, in_memory, MuData, checkpoint_dir)

    @classmethod
    @names_ours
    @wording(OF_ONE)
    def setup_anndata(
        cls,
        adata: AnnData | PathLike,
        *,
        modality: str = "rna",
        batch_key: str | None = None,
        layer: str | None = None,
        likelihood: Distribution | None = None,
        transform: Transform | None = None,
        block_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = (),
        continuous_covariate_keys: Sequence[str] | None = (),
        panel_key: str | None = None,
        condition_keys: Sequence[str] | None = (),
        in_memory: InMemory = "auto",
        checkpoint_dir: PathLike | None = None,
    ) -> Mosaic:
        """Register an AnnData as a mosaic of one modality; the arguments are those of `setup_mudata`.

        Parameters
        ----------
        adata
            It is not changed. It may be backed by its file, or be the path of one.
        modality
            Name of the modality.
        batch_key, layer, likelihood, transform, block_key
            As in `setup_mudata`, for the one modality.
        categorical_covariate_keys, continuous_covariate_keys, panel_key, condition_keys
            As in `setup_mudata`.
        in_memory, checkpoint_dir
            As in `setup_mudata`.

        Raises
        ------
        InputError
            With every problem found, one per line.
        """
        if not isinstance(adata, AnnData | str | os.PathLike):
            raise InputError(
                f"setup_anndata needs an AnnData, not {type(adata).__name__}; use setup_mudata for a MuData."
            )
        one = {"layer": layer, "likelihood": likelihood, "transform": transform, "block_key": block_key}
        for argument, value in {"modality": modality, **one}.items():
            if not isinstance(value, str) and (value is not None or argument == "modality"):
                raise InputError(f"{argument}: one name is needed, not {value!r}.")
        setup = Setup(
            batch_key=batch_key,
            layers={modality: layer} if layer else {},
            likelihoods={modality: likelihood} if likelihood else {},
            transforms={modality: transform} if transform else {},
            block_keys={modality: block_key} if block_key else {},
            categorical_covariate_keys=_names(categorical_covariate_keys, "categorical_covariate_keys"),
            continuous_covariate_keys=_names(continuous_covariate_keys, "continuous_covariate_keys"),
            panel_key=panel_key,
            modalities=(modality,),
            condition_keys=_names(condition_keys, "condition_keys"),
        )
        return _remember(adata, setup, in_memory, AnnData, checkpoint_dir)


def registered(data: MuData | AnnData | Mosaic) -> Mosaic:
    """The mosaic that data were registered as, if they still are what they were then."""
    mosaic = data if isinstance(data, Mosaic) else _registered.get(id(data))
    if mosaic is None:
        verb = "setup_mudata" if isinstance(data, MuData) else "setup_anndata"
        raise InputError(f"The data are not registered; call MosaicVI.{verb}(data, ...) first.")
    check_unchanged(mosaic)
    return mosaic


def read_as(
    data: MuData | AnnData | Paths | Source, registry: Registry, in_memory: InMemory = "auto"
) -> Mosaic:
    """A mosaic of what a user gave, read as the data of a model were."""
    with memory_for("reading the data as the model does", FEWER_CELLS), shown_reading():
        source = source_of(data, registry.setup, in_memory)
        mosaic = register(source.data, registry.setup, registry=registry, stored=source.stored)
    remember_source(mosaic, source.data, keep=source.data is not data)
    return mosaic


def _remember(
    data: MuData | AnnData | Paths | Source,
    setup: Setup,
    in_memory: InMemory,
    kind: type[MuData | AnnData],
    checkpoint_dir: PathLike | None,
) -> Mosaic:
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    with (
        memory_for("registering the data", FEWER_FEATURES),
        shown_reading(),
        kept_in(folder, writes=place().is_first),
    ):
        source = source_of(data, setup, in_memory)
        if not isinstance(data, MuData | AnnData):
            if isinstance(data, Sequence | Mapping) and not isinstance(data, str) and len(data) > 1:
                setup = dataclasses.replace(setup, layers={})  # taken when the files were combined
            read = _of_kind(source.data, kind)
            mosaic = register(read, setup, stored=source.stored)
            remember_source(mosaic, read, keep=True)
            return mosaic
        mosaic = register(source.data, setup, stored=source.stored)
    if id(data) not in _registered:
        weakref.finalize(data, _registered.pop, id(data), None)
    _registered[id(data)] = mosaic
    remember_source(mosaic, data, state_digest(data, mosaic.registry.setup))
    return mosaic


def _of_kind(data: MuData | AnnData, kind: type[MuData | AnnData]) -> MuData | AnnData:
    """What a file holds, as it was asked for."""
    if kind is MuData:
        return to_mudata(data)
    if isinstance(data, MuData):
        raise InputError(f"The file holds a MuData of {', '.join(data.mod)}; use setup_mudata.")
    return data


def check_unchanged(mosaic: Mosaic) -> None:
    """Refuse to go on with what an object was, if it is something else by now."""
    data, before = object_of(mosaic), digest_of(mosaic)
    if data is not None and before is not None and state_digest(data, mosaic.registry.setup) != before:
        verb = "setup_mudata" if isinstance(data, MuData) else "setup_anndata"
        raise InputError(
            "The data were changed after they had been registered (cells, features, values or covariates); "
            f"call MosaicVI.{verb}(data, ...) again."
        )


def _names(value: Sequence[str] | None, argument: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        raise InputError(f"{argument}: a list of names is needed, such as [{value!r}].")
    if isinstance(value, Mapping):
        raise InputError(f"{argument}: a list of names is needed, such as {list(value.values())!r}.")
    if not isinstance(value, Iterable):
        raise InputError(f"{argument}: a list of names is needed, not {value!r}.")
    return tuple(value)
