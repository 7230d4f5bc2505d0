"""MosaicVI: what a user holds. It registers, trains, answers and saves by calling the stations."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config import Distribution, NetworkConfig, check_names
from mosaicvi.config.arguments import check_network, check_training, number, pairs, whole
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic, Registry, Setup
from mosaicvi.data.register import register
from mosaicvi.data.register.query import align_to_model
from mosaicvi.data.register.state import state_digest
from mosaicvi.data.splits import Split, held_out
from mosaicvi.data.transforms import Transform
from mosaicvi.errors import InputError, MosaicWarning
from mosaicvi.fit.build import build_network
from mosaicvi.fit.loop import FitConfig, FitState
from mosaicvi.fit.session import begin, default_batch_size, default_rate, epochs_if_blind, run
from mosaicvi.infer.impute import ImputationRequest, Scale, imputed, scale_of
from mosaicvi.infer.latent import latent
from mosaicvi.infer.readout import ReadOut, fit_readout, read_readout
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.saved import read_model, write_model

PerModality = Mapping[str, str] | None

# What each object was registered as, for as long as it lives; the object itself is never changed.
_registered: dict[int, Mosaic] = {}
# Which object each mosaic was read from, as long as both live, and what it was then.
_sources: dict[int, tuple[weakref.ref[Any], str]] = {}


class MosaicVI:
    """One model of a mosaic: a common latent space, and imputed values for what was not measured.

    Parameters
    ----------
    data
        A MuData or AnnData that was given to `setup_mudata` or `setup_anndata`, or the `Mosaic`
        which these return.
    preset
        ``"default"``, or ``"published"`` for the exact behaviour of the published implementation.
    seed
        Decides the first weights.
    **parameters
        Any field of `NetworkConfig`, such as ``dim_latent=20`` or ``beta_kl=1``. What is left out is
        filled in from the data.

    Raises
    ------
    InputError
        If the data were not registered, or a parameter is unknown or does not fit.

    Examples
    --------
    >>> mdata = mosaicvi.read("mosaic.h5mu")
    >>> mosaicvi.MosaicVI.setup_mudata(mdata, batch_key="batch")
    >>> model = mosaicvi.MosaicVI(mdata)
    >>> model.train()
    >>> mdata.obsm["X_mosaicvi"] = model.get_latent_representation()
    """

    def __init__(
        self,
        data: MuData | AnnData | Mosaic,
        *,
        preset: Literal["default", "published"] = "default",
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        mosaic = data if isinstance(data, Mosaic) else _registered.get(id(data))
        if mosaic is not None:
            _check_unchanged(mosaic)
        if mosaic is None:
            verb = "setup_mudata" if isinstance(data, MuData) else "setup_anndata"
            raise InputError(f"The data are not registered; call MosaicVI.{verb}(data, ...) first.")
        if preset == "published":
            mosaic = mosaic.as_published()
        seed = whole("seed", seed)
        config = _network_config(mosaic, preset, parameters)
        self._take(mosaic, config, build_network(mosaic, config, seed=seed, guess=preset != "published"))
        self._reads_out = preset != "published"

    def _take(self, mosaic: Mosaic, config: NetworkConfig, net: MosaicVAE) -> None:
        self.mosaic, self.config, self.net = mosaic, config, net
        self._loader: MinibatchLoader | None = None
        self._state: FitState | None = None
        self._saved_rows: list[dict[str, float]] = []
        self._saved_fit: dict[str, Any] | None = None
        self._splits: list[Split] = []
        self._reads_out = True  # or the decoder alone imputes, as the published method does
        self._readout: ReadOut | None = None

    # --- registering ----------------------------------------------------------------------------

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        batch_key: str | None = None,
        layers: PerModality = None,
        likelihoods: Mapping[str, Distribution] | None = None,
        transforms: Mapping[str, Transform] | None = None,
        block_keys: PerModality = None,
        categorical_covariate_keys: Sequence[str] = (),
        continuous_covariate_keys: Sequence[str] = (),
        panel_key: str | None = None,
        modalities: Sequence[str] = (),
    ) -> Mosaic:
        """Register a MuData: say where the values, batches and panels are. It is not changed.

        Its matrices are not copied where that can be helped; do not write into them in place while the
        model is in use.

        Parameters
        ----------
        mdata
            Cells are aligned by ``obs_names``; a cell may be absent from any modality.
        batch_key
            Column of ``obs`` with the batches.
        layers
            Layer with the values, by modality; ``X`` where none is named.
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

        Returns
        -------
        The registered `Mosaic`, which can be printed.

        Raises
        ------
        InputError
            With every problem found, one per line.
        """
        if not isinstance(mdata, MuData):
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
        )
        return _remember(mdata, setup)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        modality: str = "rna",
        batch_key: str | None = None,
        layer: str | None = None,
        likelihood: Distribution | None = None,
        transform: Transform | None = None,
        block_key: str | None = None,
        categorical_covariate_keys: Sequence[str] = (),
        continuous_covariate_keys: Sequence[str] = (),
        panel_key: str | None = None,
    ) -> Mosaic:
        """Register an AnnData as a mosaic of one modality; the arguments are those of `setup_mudata`.

        Parameters
        ----------
        adata
            It is not changed.
        modality
            Name of the modality.
        batch_key, layer, likelihood, transform, block_key
            As in `setup_mudata`, for the one modality.
        categorical_covariate_keys, continuous_covariate_keys, panel_key
            As in `setup_mudata`.

        Raises
        ------
        InputError
            With every problem found, one per line.
        """
        if not isinstance(adata, AnnData):
            raise InputError(
                f"setup_anndata needs an AnnData, not {type(adata).__name__}; use setup_mudata for a MuData."
            )
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
        )
        return _remember(adata, setup)

    # --- training -------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | None = None,
        weight_decay: float = 1e-4,
        batch_size: int | None = None,
        train_size: float = 0.9,
        early_stopping: bool = False,
        patience: int | None = None,
        seed: int = 0,
        accelerator: Literal["auto", "cpu", "gpu"] = "auto",
        devices: int | Literal["auto"] = "auto",
        precision: Literal["float32", "bf16"] = "float32",
        max_grad_norm: float = 1e4,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: float = 300.0,
        resume: bool = False,
        log_dir: str | Path | None = None,
        progress: bool | None = None,
    ) -> MosaicVI:
        """Train, or go on training a model that was trained.

        Parameters
        ----------
        max_epochs
            Epochs; where None, training goes on until the loss on held-out cells has stopped falling, and
            keeps the best weights. A trained model is trained for as many more.
        lr, weight_decay
            Of AdamW; the rate rises over the first steps and falls along a cosine. Where None 0.004 for
            minibatches of 512 cells, and in proportion to the root of their size for others.
        batch_size
            Cells of a minibatch; where None 512, or 1,280 if there are up to 8,192 features, but a sixth of
            the cells at most.
        train_size
            Share of the cells to train on; the rest validate.
        early_stopping
            With `max_epochs`: stop before when the validation loss has not fallen for `patience` epochs, and
            keep the best weights.
        patience
            Epochs without a lower validation loss; where None 20, or without `max_epochs` as many as suit the
            number of steps.
        seed
            Decides the split, the order of cells, the masks and the noise.
        accelerator, devices
            ``"auto"`` takes a GPU if there is one.
        precision
            ``"bf16"`` runs the dense layers in mixed precision.
        max_grad_norm
            Longer gradients are shortened to it.
        checkpoint_dir, checkpoint_every
            Where to write checkpoints, and after how many seconds; the first at the end of an epoch at the
            latest.
        resume
            Go on from the newest checkpoint in `checkpoint_dir`, bit for bit.
        log_dir
            Where to write TensorBoard scalars (needs ``pip install 'mosaicvi[log]'``).
        progress
            A progress bar, plain lines, or with False nothing; None shows the bar on a terminal.

        Returns
        -------
        The model itself.

        Raises
        ------
        InputError
            For a setting that cannot be used.
        NonFiniteLossError
            If the loss is not a number; the weights are those before that step.
        """
        if batch_size is None:
            n_features = sum(m.n_features for m in self.mosaic.modalities)
            batch_size = default_batch_size(self.mosaic.n_cells, n_features)
        settings = check_training(
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "batch_size": batch_size,
                "train_size": train_size,
                "early_stopping": early_stopping,
                "patience": patience,
                "seed": seed,
                "max_grad_norm": max_grad_norm,
            }
        )
        check_training(
            {
                "max_epochs": max_epochs,
                "checkpoint_dir": checkpoint_dir,
                "checkpoint_every": checkpoint_every,
                "resume": resume,
                "log_dir": log_dir,
                "progress": progress,
            }
        )
        _check_unchanged(self.mosaic)
        if settings["lr"] is None:
            settings["lr"] = default_rate(settings["batch_size"])
        epochs = max_epochs
        if epochs is None:
            epochs = epochs_if_blind(self.mosaic.n_cells, settings["batch_size"], settings["train_size"])
        in_all = None if epochs is None else int(epochs) + len(self._rows)
        config = FitConfig(max_epochs=in_all, precision=precision, **settings)
        loader = self._loader_on(accelerator, devices)
        self._state = begin(self.net, self.mosaic, config, earlier=self._state, saved=self._saved_fit)
        self._readout = None
        split = Split.of(self.mosaic, config.train_size, config.seed)
        if split not in self._splits:
            self._splits.append(split)
        run(
            self._state,
            self.mosaic,
            config,
            loader,
            checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
            checkpoint_every=checkpoint_every,
            resume=resume,
            log_dir=None if log_dir is None else Path(log_dir),
            progress=progress,
        )
        return self

    @property
    def _rows(self) -> list[dict[str, float]]:
        return self._saved_rows if self._state is None else self._state.rows

    @property
    def history(self) -> pd.DataFrame:
        """Every term of the loss for training and validation, one row an epoch."""
        return pd.DataFrame(self._rows).rename_axis("epoch")

    @property
    def is_trained(self) -> bool:
        """Whether at least one epoch was finished."""
        return bool(self._rows)

    @property
    def stopped_by(self) -> int | None:
        """Number of the signal that ended the last training early, or None."""
        return None if self._state is None else self._state.stopped_by

    def _loader_on(self, accelerator: str, devices: int | str) -> MinibatchLoader:
        if accelerator not in ("auto", "cpu", "gpu"):
            raise InputError(f"accelerator: 'auto', 'cpu' or 'gpu', not {accelerator!r}.")
        if devices not in ("auto", 1):
            raise InputError(f"devices: 'auto' or 1, not {devices!r}; one process trains on one device.")
        has_gpu = torch.cuda.is_available()
        if accelerator == "gpu" and not has_gpu:
            raise InputError("accelerator: 'gpu' was asked for, but torch sees none; use 'auto' or 'cpu'.")
        device = torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")
        self.net.to(device)
        if self._loader is None or self._loader.device != device:
            self._loader = MinibatchLoader(self.mosaic, device=device)
        return self._loader

    def held_out(self, mosaic: Mosaic | None = None) -> NDArray[np.bool_] | None:
        """Which cells were kept for validation in every training of this model.

        Parameters
        ----------
        mosaic
            The cells; the model's own where None.

        Returns
        -------
        A boolean per cell; None where it cannot be told: nothing was trained, these are other cells, or an
        older version saved the model.
        """
        return held_out(self._splits, self.mosaic if mosaic is None else mosaic)

    # --- answers --------------------------------------------------------------------------------

    def _data(self, data: MuData | AnnData | Mosaic | None) -> tuple[Mosaic, MinibatchLoader]:
        """The model's own data, or others read in the same way; a warning if the model knows nothing yet."""
        if not self.is_trained:
            warnings.warn(
                "The model is not trained, so its answers are those of random weights; call train() first.",
                MosaicWarning,
                stacklevel=3,
            )
        device = next(self.net.parameters()).device
        if data is None or data is self.mosaic:
            if self._loader is None or self._loader.device != device:
                self._loader = MinibatchLoader(self.mosaic, device=device)
            return self.mosaic, self._loader
        if isinstance(data, Mosaic):
            if data.registry is not self.registry:
                raise InputError("The Mosaic was registered for another model; give the MuData or AnnData.")
            return data, MinibatchLoader(data, device=device)
        mosaic = register(data, self.registry.setup, registry=self.registry)
        return mosaic, MinibatchLoader(mosaic, device=device)

    @property
    def registry(self) -> Registry:
        """What the model remembers of its data."""
        return self.mosaic.registry

    def get_latent_representation(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        indices: Sequence[int] | NDArray[Any] | None = None,
        give_mean: bool = True,
        return_dist: bool = False,
        modalities: Collection[str] | None = None,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent of each cell; that of a cell depends on nothing but its own values.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        indices
            Positions of cells, or a boolean per cell; all where None.
        give_mean
            The mean of the posterior; with False one draw from it.
        return_dist
            Return mean and variance.
        modalities
            What the encoder may see, such as ``["rna"]``; all that was measured where None.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides the draw.

        Returns
        -------
        Array (cells, ``dim_latent``), or two with `return_dist`.
        """
        mosaic, loader = self._data(mdata)
        cells = _positions(indices, mosaic)
        mean, var = latent(
            self.net, loader, cells, modalities=self._seen(modalities), batch_size=_batch_size(batch_size)
        )
        if return_dist:
            return mean, var
        if give_mean:
            return mean
        noise = np.random.default_rng(seed).standard_normal((mosaic.n_cells, mean.shape[1]), np.float32)
        return np.asarray(mean + np.sqrt(var) * noise[cells], np.float32)

    def get_imputed_values(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        modality: str,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        n_samples: int | None = None,
        scale: Literal["counts", "log1p_cp10k", "value", "probability"] | None = None,
        library: float | None = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Expected values of a modality, for any cell, whether it measured the modality or not.

        Parameters
        ----------
        mdata
            Other data with the same features; the model's own where None.
        modality
            Which modality.
        features
            Names of features; all where None. Fewer take less time and memory.
        indices
            Positions of cells, or a boolean per cell; all where None.
        n_samples
            Draws of z to average over; the mean of z is decoded where None.
        scale
            What the values are expected values of: ``"counts"`` or ``"log1p_cp10k"`` for counts, else
            ``"value"`` or ``"probability"``; the first that the modality has where None. The logarithm of
            an expected count is not the expected logarithm, by which cells are usually compared.
        library
            For counts: the library that each cell is given. Where None the median of the training data, or
            for counts that are seen as centred log ratios the depth that these imply.
        modalities
            What the encoder may see; all that was measured where None.
        batch_size
            Cells at a time; it does not change the answers.
        seed
            Decides the draws.

        Returns
        -------
        DataFrame (cells, features), float32; ``attrs["scale"]`` says what the values mean.

        Notes
        -----
        Counts other than peaks are read out of the decoder, the latent and the measured values together,
        with weights that cells decide which were held out from training (stacked regressions; Breiman,
        Machine Learning 1996). The published preset takes the decoder's values.
        """
        mosaic, _ = self._data(mdata)
        cells = _positions(indices, mosaic)
        names = self.imputed_features(modality)
        names = names if features is None else names[self._places(modality, features)]
        out = np.empty((len(cells), len(names)), np.float32)
        stream = self.iter_imputed_values(
            mdata if mdata is None else mosaic,
            modality=modality,
            features=features,
            indices=cells,
            n_samples=n_samples,
            scale=scale,
            library=library,
            modalities=modalities,
            batch_size=batch_size,
            seed=seed,
        )
        for at, values in stream:
            out[at] = values
        frame = pd.DataFrame(out, index=mosaic.cells[cells], columns=names, copy=False)
        frame.attrs["scale"] = str(self.imputed_scale(modality, scale=scale, library=library))
        return frame

    def iter_imputed_values(
        self,
        mdata: MuData | AnnData | Mosaic | None = None,
        *,
        modality: str,
        features: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        n_samples: int | None = None,
        scale: Literal["counts", "log1p_cp10k", "value", "probability"] | None = None,
        library: float | None = None,
        modalities: Collection[str] | None = None,
        batch_size: int = 512,
        seed: int = 0,
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """`get_imputed_values` as a stream, in the memory of one minibatch: (rows, values) at a time."""
        mosaic, loader = self._data(mdata)
        m = self._position(modality)
        if library is not None and not number("library", library) > 0:
            raise InputError(f"library: must be > 0, not {library!r}.")
        if n_samples is not None:
            whole("n_samples", n_samples, least=1)
        wanted = ImputationRequest(
            m=m,
            scale=self.imputed_scale(modality, scale=scale, library=library),
            features=None if features is None else self._places(modality, features),
        )
        stream = imputed(
            self.net,
            loader,
            mosaic,
            _positions(indices, mosaic),
            [wanted],
            modalities=self._seen(modalities),
            readout=self.readout(),
            n_samples=n_samples,
            batch_size=_batch_size(batch_size),
            seed=seed,
        )
        return ((part.rows, part.values[0]) for part in stream)

    def imputed_features(self, modality: str) -> pd.Index[str]:
        """Names of a modality's features in the order of imputed values, that of the training data."""
        features = self.mosaic.registry.features[self.config.uni_block_names[self._position(modality)]]
        names: pd.Index[str] = pd.Index(features.names)
        return names[np.argsort(features.order, kind="stable")]

    def imputed_scale(
        self, modality: str, *, scale: str | None = None, library: float | None = None
    ) -> Scale:
        """What imputed values of a modality mean; arguments as `get_imputed_values`."""
        m, readout = self._position(modality), self.readout()
        compared = None if readout is None else readout.scale_of(modality)
        return scale_of(self.net, self.registry, m, kind=scale, library=library, compared=compared)

    def readout(self) -> ReadOut | None:
        """How counts are read out, fitted when it is first needed; None where the decoder alone imputes."""
        if self._readout is None and self._reads_out and self.is_trained:
            _, loader = self._data(None)
            self._readout = fit_readout(self.net, loader, self.mosaic, held_out=self.held_out())
        return self._readout

    def _places(self, modality: str, features: Sequence[str]) -> NDArray[np.int64]:
        """Positions of features among `imputed_features`."""
        chosen = [features] if isinstance(features, str) else list(features)
        at = self.imputed_features(modality).get_indexer(pd.Index(chosen, dtype=object))
        if (at < 0).any():
            absent = chosen[int(np.flatnonzero(at < 0)[0])]
            raise InputError(f"features: {modality} has no {absent!r}; see imputed_features({modality!r}).")
        return np.asarray(at, np.int64)

    def _position(self, modality: str) -> int:
        if modality not in self.config.uni_block_names:
            raise InputError(
                f"No modality {modality!r}; the model has {', '.join(self.config.uni_block_names)}."
            )
        return self.config.uni_block_names.index(modality)

    def _seen(self, modalities: Collection[str] | None) -> Collection[str] | None:
        if modalities is None:
            return None
        names = [modalities] if isinstance(modalities, str) else list(modalities)
        for name in names:
            self._position(name)
        return names

    # --- saving ---------------------------------------------------------------------------------

    def save(self, dir_path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a folder: ``weights.safetensors`` and ``model.json``, nothing pickled.

        Parameters
        ----------
        dir_path
            The folder, which is written whole or not at all.
        overwrite
            Replace a model that is there.
        """
        readout = self.readout()
        write_model(
            Path(dir_path),
            net=self.net,
            registry=self.registry,
            history=self.history,
            splits=self._splits,
            fit=self._saved_fit if self._state is None else self._state.to_dict(),
            readout=readout.to_dict() if readout is not None else {} if self._reads_out else None,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, dir_path: str | Path, mdata: MuData | AnnData) -> MosaicVI:
        """Read a saved model; it answers the same, to the bit.

        Parameters
        ----------
        dir_path
            The folder that `save` wrote. Nothing in it is executed.
        mdata
            The data to answer for, with the model's features.

        Raises
        ------
        ModelFileError
            If the folder is damaged, foreign or too new.
        InputError
            If the data do not fit the model, naming the features.
        """
        saved = read_model(Path(dir_path))
        mosaic = register(mdata, saved.registry.setup, registry=saved.registry)
        model = cls.__new__(cls)
        model._take(mosaic, saved.config, saved.net)
        model._saved_rows = saved.rows
        model._saved_fit = saved.fit
        model._splits = list(saved.splits)
        model._reads_out = saved.readout is not None
        if saved.readout:
            model._readout = read_readout(saved.readout, saved.config, Path(dir_path))
        return model

    @staticmethod
    def prepare_query(data: MuData | AnnData, reference: MosaicVI | str | Path) -> MuData | AnnData:
        """A copy of new data with the features of a model, to ask the model about their cells.

        What the model knows and the data lack is marked as not measured, ``varm["measured"]``; what the model
        does not know is left out. Of layers, the one that the model was trained on is kept.

        Parameters
        ----------
        data
            Cells with any of the model's modalities; an AnnData is the one whose features it has most of.
        reference
            The model, or the folder where it is saved.

        Returns
        -------
        MuData or AnnData for `load`, `get_latent_representation` and `get_imputed_values`.

        Raises
        ------
        InputError
            If a modality has none of the model's features, or its names occur more than once.
        ModelFileError
            If the folder cannot be read.
        MosaicWarning
            A warning, if less than a fifth of a modality's features are there.
        """
        registry = (
            reference.registry if isinstance(reference, MosaicVI) else read_model(Path(reference)).registry
        )
        return align_to_model(data, registry)

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.net.parameters())
        trained = f"trained for {len(self._rows)} epochs" if self.is_trained else "not trained"
        return (
            f"MosaicVI with {n:,} weights, latent width {self.config.dim_latent}, {trained}, "
            f"engine {self.net.engine()}\n{self.mosaic!r}"
        )


def _remember(data: MuData | AnnData, setup: Setup) -> Mosaic:
    mosaic = register(data, setup)
    if id(data) not in _registered:
        weakref.finalize(data, _registered.pop, id(data), None)
    _registered[id(data)] = mosaic
    _sources[id(mosaic)] = weakref.ref(data), state_digest(data, setup)
    weakref.finalize(mosaic, _sources.pop, id(mosaic), None)
    return mosaic


def _check_unchanged(mosaic: Mosaic) -> None:
    """Refuse to go on with what an object was, if it is something else by now."""
    source, before = _sources.get(id(mosaic), (None, ""))
    data = None if source is None else source()
    if data is not None and state_digest(data, mosaic.registry.setup) != before:
        verb = "setup_mudata" if isinstance(data, MuData) else "setup_anndata"
        raise InputError(
            "The data were changed after they had been registered (cells, features, values or covariates); "
            f"call MosaicVI.{verb}(data, ...) again."
        )


def _names(value: Sequence[str], argument: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InputError(f"{argument}: a list of names is needed, such as [{value!r}].")
    return tuple(value)


def _positions(indices: Sequence[int] | NDArray[Any] | None, mosaic: Mosaic) -> NDArray[np.int64]:
    if indices is None:
        return np.arange(mosaic.n_cells)
    chosen = np.atleast_1d(np.asarray(indices))
    if chosen.dtype == bool:
        if len(chosen) != mosaic.n_cells:
            raise InputError(f"indices: {len(chosen):,} booleans for {mosaic.n_cells:,} cells.")
        return np.flatnonzero(chosen)
    if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
        named = mosaic.cells.get_indexer(pd.Index(chosen))
        if (named < 0).any():
            raise InputError(
                f"indices: no cell {str(chosen[named < 0][0])!r}; give positions, booleans or obs_names."
            )
        return np.asarray(named, np.int64)
    chosen = chosen.astype(np.int64)
    if chosen.size and (chosen.min() < -mosaic.n_cells or chosen.max() >= mosaic.n_cells):
        raise InputError(f"indices: positions must be below {mosaic.n_cells:,}.")
    return chosen % max(mosaic.n_cells, 1)


def _batch_size(batch_size: int) -> int:
    return whole("batch_size", batch_size, least=1)


def _network_config(mosaic: Mosaic, preset: str, parameters: Mapping[str, Any]) -> NetworkConfig:
    """Parameters with what the mosaic says; one that is of the wrong kind is named."""
    check_names(parameters)
    parameters = check_network(parameters)
    try:
        return NetworkConfig.for_mosaic(mosaic, preset=preset, **parameters)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError):
        for name, value in parameters.items():
            try:
                NetworkConfig.for_mosaic(mosaic, preset=preset, **{name: value})
            except InputError:
                continue
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(f"{name}: {value!r} is of the wrong kind ({reason}).") from None
        raise
