"""The class of scVAEIT, in a module of the name that it has there.

It translates: arrays, masks and parameters become a mosaic and a `MosaicVI`.
Legend: n cells, D features, K latent, L draws.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from mosaicvi.config.arguments import number, whole
from mosaicvi.config.schedule import Schedule, is_function
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.read.masked import annotation, read_masked
from mosaicvi.data.register import register
from mosaicvi.errors import InputError, MosaicWarning, warn, wording
from mosaicvi.fit.statistics import settle
from mosaicvi.model import MosaicVI
from mosaicvi.model.reopening import reopened
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.scvaeit.history import Hist, check_range, histories
from mosaicvi.scvaeit.settings import WORDS, read_config
from mosaicvi.store.format import check_bundle_output
from mosaicvi.view.embedding import embedding
from mosaicvi.view.umap import principal_components, umap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["VAEIT"]


class NothingYet(InputError, AttributeError):
    """What an attribute holds was not computed yet, so that `hasattr` says no."""


class VAEIT:
    """The model of scVAEIT (Du, Cai & Roeder, PNAS 2022) under its own names.

    Parameters
    ----------
    config
        The published parameters: dict or namespace. `gamma` (or a function of the epoch) needs `conditions`.
    data
        Values (n, D), dense or sparse, in the order of modalities and blocks; NaN is missing.
    masks
        -1 missing, 0 seen: (n, D), or a row for each dataset. Nothing is missing where None.
    id_dataset
        Row of `masks` of each cell, counted from 0.
    batches_cate, batches_cont
        Categorical and continuous covariates, (n,) or (n, k) each.
    conditions
        Groups of cells to align, (n,) or (n, k), each column alone; a cell with NaN is in none.

    Raises
    ------
    InputError
        For an unknown parameter, or arrays that do not fit one another.
    """

    next_seed = 0  # of models that are made from now on

    @wording(WORDS)
    def __init__(
        self,
        config: Any,
        data: Any,
        masks: Any = None,
        id_dataset: Any = None,
        batches_cate: Any = None,
        batches_cont: Any = None,
        conditions: Any = None,
    ) -> None:
        self._values = read_masked(data, masks, id_dataset)
        n, n_features = self._values.x.shape
        self._published = read_config(config, n_features=n_features)
        self.config, layout = self._published.config, self._published.layout
        if conditions is None:
            self.config.gamma = 0.0
        self._measured = self._values.measured()
        self._columns = layout.columns(self._measured)
        cate = annotation("batches_cate", batches_cate, n)
        cont = annotation("batches_cont", batches_cont, n, numbers=True)
        groups = annotation("conditions", conditions, n)
        self._obs = cate.join([cont, groups])
        self._mdata = self._values.mudata(self._columns, layout.block, self._obs)
        with warnings.catch_warnings():  # masks say which zeros are none
            warnings.filterwarnings("ignore", ".*zeros_missing", MosaicWarning)
            self._mosaic = MosaicVI.setup_mudata(
                self._mdata,
                likelihoods=layout.likelihoods,
                transforms=dict.fromkeys(layout.likelihoods, "none"),
                block_keys=dict.fromkeys(layout.likelihoods, "block"),
                categorical_covariate_keys=[*cate],
                continuous_covariate_keys=[*cont],
                condition_keys=[*groups],
                panel_key="pattern",
                modalities=[*layout.likelihoods],
            )
        self._adata: AnnData | None = None  # until `update_z`
        self.reset()

    @property
    def vae(self) -> MosaicVAE:
        """The network."""
        return self.model.net

    @property
    def adata(self) -> AnnData:
        """What `update_z` found."""
        if self._adata is None:
            raise NothingYet("adata: there is nothing yet; call update_z() first.")
        return self._adata

    def reset(self) -> None:
        """Fresh weights, and no history."""
        self.hist: Hist = {}
        self._seed = VAEIT.next_seed
        self.model = MosaicVI(
            self._mosaic,
            preset="published",
            seed=self._seed,
            gamma=0.0 if is_function(self.config.gamma) else self.config.gamma,
            **self._published.parameters(self._measured),
        )
        self._given = self.model.config
        self._published.fill_in(self._given)

    @wording(WORDS)
    def train(
        self,
        valid: bool = False,
        stratify: Any = False,
        test_size: float = 0.1,
        random_state: int = 0,
        learning_rate: float = 3e-4,
        num_repeat: int = 1,
        batch_size: int | None = None,
        batch_size_inference: int | None = None,
        L: int = 1,
        num_epoch: int = 200,
        num_step_per_epoch: int | None = None,
        save_every_epoch: int | None = 25,
        init_epoch: int = 1,
        early_stopping_patience: int = 10,
        early_stopping_tolerance: float = 1e-4,
        early_stopping_relative: bool = True,
        verbose: bool = False,
        checkpoint_dir: str | Path | None = None,
        delete_existing: bool = True,
        eval_func: Callable[[MosaicVAE], Any] | None = None,
    ) -> Hist:
        """Train at a constant rate from `init_epoch` to `num_epoch`; the arguments of the original.

        With `valid` some cells are held out, and the best weights are kept once they have got no better for
        `early_stopping_patience` epochs. `checkpoint_dir` holds the newest model, from which training goes on
        unless it begins with epoch 1 (and `delete_existing`); any other `init_epoch` is the next epoch.
        `stratify`, `L`, `batch_size_inference`, `num_step_per_epoch` and the tolerance of early stopping have
        no effect.

        Returns
        -------
        `hist`: of ``"train"`` and, with `valid`, ``"val"`` the lists ``total``, ``obs_0``, ...,
        ``unobs_0``, ..., ``kl`` and ``mmd``, an epoch a number, also of earlier ones if `init_epoch` > 1;
        ``"val"`` has those epochs alone that had held-out cells.
        """
        first, last = whole("init_epoch", init_epoch, least=1), whole("num_epoch", num_epoch, least=1)
        model, folder = self.model, None if checkpoint_dir is None else Path(checkpoint_dir)
        if folder is not None and (folder / "model.json").exists() and not (first == 1 and delete_existing):
            model = reopened(folder, self._mdata, self._given, self._mosaic.registry)
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            check_bundle_output(folder, overwrite=True)
        before, repeat = len(model.history), whole("num_repeat", num_repeat, least=1)
        check_range(first, last, passes=before, repeat=repeat)
        if first == 1 and model is not self.model:
            warn(f"delete_existing=False: training goes on from epoch {before // repeat} of {folder}.")
        n, held_out = self._mosaic.n_cells, number("test_size", test_size)
        if valid and not 0 < held_out < n:
            raise InputError(f"test_size: a share of the cells, or a number below {n:,}, not {test_size!r}.")
        size = (256 if self._values.is_full else 64) if batch_size is None else batch_size
        settings: dict[str, Any] = {
            "lr": number("learning_rate", learning_rate),
            "lr_schedule": "constant",
            "batch_size": min(whole("batch_size", size, least=1), n),
            "train_size": 1.0 if not valid else 1 - (held_out if held_out < 1 else held_out / n),
            "early_stopping": bool(valid),
            "patience": whole("early_stopping_patience", early_stopping_patience, least=1),
            "seed": self._seed + whole("random_state", random_state),
            "progress": bool(verbose),
        }
        every = last
        if save_every_epoch is not None and not valid and (folder is not None or eval_func is not None):
            every = whole("save_every_epoch", save_every_epoch, least=1)
        if is_function(self.config.gamma):
            gamma = Schedule.tabulated(self.config.gamma, done=before, first=first, last=last, repeat=repeat)
            model.config = model.net.config = dataclasses.replace(model.config, gamma=gamma)
        self.model = model
        for end in [*(epoch for epoch in range(first, last) if epoch % every == 0), last]:
            model.train((end - first + 1) * repeat, **settings)
            settle(model.net, model.mosaic, batch_size=settings["batch_size"], seed=self._seed)
            first = end + 1
            if folder is not None:
                self.save_model(folder)
            if eval_func is not None:
                eval_func(model.net)
        rows = model.history.iloc[before if init_epoch == 1 else 0 :]
        self.hist = histories(rows, self._published.layout.likelihoods, repeat)
        return self.hist

    def _query(self, masks: Any, zero_out: bool) -> Mosaic | None:
        """The cells with less of them to see; None for all that was measured."""
        if masks is None or not zero_out:
            return None
        mdata = self._values.only(masks).mudata(self._columns, self._published.layout.block, self._obs)
        return register(mdata, self.model.registry.setup, registry=self.model.registry)

    @wording(WORDS)
    def get_latent_z(
        self, masks: Any = None, zero_out: bool = True, batch_size_inference: int = 512
    ) -> NDArray[np.float64]:
        """Latent means (n, K).

        Parameters
        ----------
        masks
            What is hidden besides what was not measured: entries other than 0; shaped as the constructor's.
        zero_out
            With False, `masks` hide nothing.
        batch_size_inference
            Cells at a time; it does not change the answers.
        """
        size = whole("batch_size_inference", batch_size_inference, least=1)
        z = self.model.get_latent_representation(self._query(masks, zero_out), batch_size=size)
        return np.asarray(z, np.float64)

    @wording(WORDS)
    def get_denoised_data(
        self,
        masks: Any = None,
        zero_out: bool = True,
        batch_size_inference: int = 256,
        return_mean: bool = True,
        L: int = 50,
    ) -> NDArray[np.float64]:
        """Expected values of all entries, averaged over `L` draws of the latent, (n, D).

        With ``return_mean=False`` those of each draw, (n, L, D). Features that nobody measured are NaN.
        """
        query, n_draws = self._query(masks, zero_out), whole("L", L, least=1)
        size = whole("batch_size_inference", batch_size_inference, least=1)
        together, apart = (n_draws, 1) if return_mean else (1, n_draws)
        out = np.full((self._values.x.shape[0], apart, self._values.x.shape[1]), np.nan)
        for name, at in self._columns:
            for i in range(apart):
                for rows, values in self.model.iter_imputed_values(
                    query, modality=name, n_samples=together, batch_size=size, seed=i
                ):
                    out[rows, i, at] = values
        return out[:, 0] if return_mean else out

    def update_z(
        self, masks: Any = None, zero_out: bool = True, batch_size_inference: int = 512, n_neighbors: int = 15
    ) -> None:
        """Latent means in `z`, ``adata.X`` and ``adata.obsm["X_VAE"]``, anew."""
        self.z = self.get_latent_z(masks, zero_out, batch_size_inference)
        self._adata = AnnData(self.z, obsm={"X_VAE": self.z})
        self._n_neighbors = whole("n_neighbors", n_neighbors, least=2)

    def visualize_latent(
        self, method: str = "UMAP", color: str | Sequence[str] | None = None, show: bool = False, **how: Any
    ) -> Axes | list[Axes]:
        """Draw what `update_z` found.

        Parameters
        ----------
        method
            UMAP or PCA. For others, give ``adata`` to scanpy.
        color
            Columns of ``adata.obs``, a picture each.
        show
            Whether to open a window.
        **how
            Of `mosaicvi.pl.embedding`; what scanpy has for the looks alone is left aside, with a warning.
        """
        if method not in ("UMAP", "PCA"):
            raise InputError(f"method: 'UMAP' or 'PCA', not {method!r}; scanpy draws others of model.adata.")
        if "basis" in how:
            raise InputError("visualize_latent: unknown argument 'basis'; use method='UMAP' or 'PCA'.")
        adata, key = self.adata, f"X_{method.lower()}"
        if key not in adata.obsm and method == "UMAP":
            umap(adata, key="X_VAE", n_neighbors=self._n_neighbors)
        elif key not in adata.obsm:
            adata.obsm[key] = principal_components(adata.obsm["X_VAE"])
        return embedding(adata, color=color, basis=key, show=show, **how)

    def save_model(self, path_to_weights: str | Path) -> None:
        """Write the model to a folder, which is made, in place of a model that is there."""
        Path(path_to_weights).parent.mkdir(parents=True, exist_ok=True)
        self.model.save(path_to_weights, overwrite=True)

    @wording(WORDS)
    def load_model(self, path_to_weights: str | Path) -> None:
        """Read what `save_model` or `train` wrote, with its history; the present `config` rules.

        `hist` then has a number for each pass over the data.

        Raises
        ------
        InputError
            For a `config` or data with which its weights have another shape or meaning.
        """
        self.model = reopened(Path(path_to_weights), self._mdata, self._given, self._mosaic.registry)
        self.hist = histories(self.model.history, self._published.layout.likelihoods, 1)
