"""A model that grows by new data: what it knew stays, what is new is learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config import Distribution, NetworkConfig
from mosaicvi.config.arguments import pairs
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register.grow import grow
from mosaicvi.data.register.join import joined, lifted
from mosaicvi.data.registry import Registry
from mosaicvi.data.staining import at_level, levels_of_batches
from mosaicvi.errors import InputError, warn
from mosaicvi.fit.build import build_grown
from mosaicvi.model.columns import remember_source
from mosaicvi.model.saving import Saving
from mosaicvi.nn.growth import transplant
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.saved import known_of

NOTHING_NEW = (
    "Nothing in these data is new to the model, so that training would change nothing; ask the model as it "
    "is, or train all of its weights, load_query_data(..., unfrozen=True)."
)


class Growing(Saving):
    """What makes a larger model of a trained one."""

    @classmethod
    @names_ours
    def load_query_data(
        cls,
        query: MuData | AnnData,
        reference: Self | str | Path,
        *,
        unfrozen: bool = False,
        new_features: Collection[str] = (),
        modalities: Collection[str] = (),
        likelihoods: Mapping[str, Distribution] | None = None,
        layers: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> Self:
        """A model that also knows what is new in other data; `train` then learns that from them.

        New are batches and categories of other covariates, modalities, and with `new_features` features of
        known modalities. Cells that have nothing new are answered for as before, to the bit.

        Parameters
        ----------
        query
            Cells with any of the model's modalities; registered as those in training were.
        reference
            The trained model, which stays as it is, or the folder where it is saved.
        unfrozen
            Train all weights; by default only what is new is trained. If the reference was opened with its
            data, as many of its cells as the query has are trained on as well, chosen at random, so that they
            are not forgotten: `mosaic` has them after those of the query.
        new_features
            Known modalities of which further features are learnt; of others they are left out.
        modalities
            New modalities to learn; all but technical ones, such as hashtags, where none is named.
        likelihoods
            Of new modalities, as in `setup_mudata`.
        layers
            Of new modalities, where their values are: a layer, ``"raw"``, or ``"X"``.
        seed
            Decides the first weights of what is new, and which cells of the reference are trained on.

        Returns
        -------
        A model of the query, untrained in what is new.

        Raises
        ------
        InputError
            If the model was not trained, or the data do not fit it.

        Notes
        -----
        As in architectural surgery (Lotfollahi et al., Nature Biotechnology 2022), weights of new covariates
        join those of the trained network; here new features and modalities do as well.
        """
        old = reference if isinstance(reference, cls) else cls.load(Path(str(reference)))
        if not old.is_trained:
            raise InputError("The model is not trained; train it before it grows.")
        for argument, names in (("new_features", new_features), ("modalities", modalities)):
            if isinstance(names, str):
                raise InputError(f"{argument}: a list of names is needed, such as [{names!r}].")
        found = grow(
            query,
            old.registry,
            new_features=new_features,
            modalities=modalities,
            likelihoods=pairs("likelihoods", likelihoods),
            layers=pairs("layers", layers),
        )
        for note in found.notes:
            warn(note)
        mosaic = _at_level(old, found.mosaic)
        met = old.met()
        if met is not None:
            is_known = mosaic.names().isin(old.mosaic.names())
            if old._earlier is not None:
                is_known |= mosaic.names().isin(old._earlier[0].names())
            met = met.and_those_of(mosaic, old.registry, ~is_known)
        config = _grown_config(old.config, mosaic)
        net, free = _grown_network(old, mosaic, config, found.sees, seed)
        model = cls.__new__(cls)
        held = old.held_out()
        if held is None:
            model._take(mosaic, config, net)
        else:  # its data are there: they teach the read-out together
            earlier = lifted(old.mosaic, mosaic.registry)
            if unfrozen:
                rehearsed, others = _parted(earlier, mosaic, seed)
                mosaic = joined(mosaic, earlier.some(rehearsed))
                earlier, held = earlier.some(others), held[others]
            model._take(mosaic, config, net)
            model._earlier = earlier, held
        if mosaic.n_cells == query.n_obs:  # none of the reference's are among them
            remember_source(mosaic, query)
        model._reads_out, model._aligns = old._reads_out, old._aligns
        new = _new(old.registry, mosaic.registry)
        model._lineage = (*old._lineage, {**old.ancestor(), "frozen": not unfrozen, "new": new})
        model._met = met
        if not unfrozen:
            if not any(bool(where.any()) for where in free.values()):
                warn(NOTHING_NEW)
            model._base, model._free, model._sees = old.without_data(), free, found.sees
        return model


def _new(before: Registry, after: Registry) -> dict[str, Any]:
    """What a registry has that another has not, in words and numbers."""
    known = {name: of.names for name, of in before.features.items()}
    n_new = {name: len(set(of.names) - set(known.get(name, ()))) for name, of in after.features.items()}
    return {
        "categories": {
            key: [name for name in names if name not in before.categories.get(key, ())]
            for key, names in after.categories.items()
        },
        "modalities": [name for name in after.features if name not in known],
        "features": {name: n for name, n in n_new.items() if n},
    }


def _parted(earlier: Mosaic, query: Mosaic, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the reference's cells that are trained on with a query, and of the others."""
    apart = np.flatnonzero(~earlier.names().isin(query.names()))
    order = np.random.default_rng(seed).permutation(apart)
    return np.sort(order[: query.n_cells]), np.sort(order[query.n_cells :])


def _at_level(old: Saving, mosaic: Mosaic) -> Mosaic:
    """The query with its new batches brought to the level of those that the model knows."""
    kept, key = old.reference_cells(), mosaic.registry.setup.batch_key
    if kept is None or key is None:
        return mosaic
    registry = mosaic.registry
    new = range(len(old.registry.categories[key]), len(registry.categories[key]))
    found = levels_of_batches(mosaic, old.staining_of(kept, registry), new)
    levels = {
        name: {**registry.levels.get(name, {}), **found.get(name, {})}
        for name in {**registry.levels, **found}
    }
    return at_level(dataclasses.replace(mosaic, registry=dataclasses.replace(registry, levels=levels)), found)


def _grown_network(
    old: Saving, mosaic: Mosaic, config: NetworkConfig, sees: tuple[str, ...], seed: int
) -> tuple[MosaicVAE, dict[str, torch.Tensor]]:
    """A network that answers as the old one for what that knew, and which entries of its weights are new."""
    small, large = known_of(old.config, old.registry), known_of(config, mosaic.registry)
    new = {
        m: np.flatnonzero(~np.isin(of.names, small.features.get(name, ())))
        for m, (name, of) in enumerate(mosaic.registry.features.items())
    }
    new = {m: at for m, at in new.items() if len(at)}
    fresh = build_grown(mosaic, config, new, seed=seed, guess=old._reads_out)
    weights = {key: value.cpu() for key, value in old.net.state_dict().items()}
    free = transplant(fresh, weights, small, large, sees=sees)
    bounds = [fresh.bounds(m) for m in range(len(config.uni_block_names))]
    net = MosaicVAE(config, mosaic.covariates.shape[1], bounds, torch.Generator())
    net.load_state_dict(fresh.state_dict())
    beta = old.net.beta_modal.tolist()
    net.set_beta_modal([*beta, *[1.0] * (len(config.uni_block_names) - len(beta))])
    return net, free


def _grown_config(config: NetworkConfig, mosaic: Mosaic) -> NetworkConfig:
    """The parameters of a network with what is new; what was chosen for the old one is kept."""
    fresh = NetworkConfig.for_mosaic(mosaic)
    n_blocks, n_mods = len(config.dim_block), len(config.uni_block_names)
    per_block = ("dim_block_embed", "dim_block_enc", "dim_block_dec")
    per_modality = ("library_aware", "likelihood_share")
    more: dict[str, Any] = {
        key: (*getattr(config, key)[:n], *getattr(fresh, key)[n:])
        for keys, n in ((per_block, n_blocks), (per_modality, n_mods))
        for key in keys
    }
    if config.skip_conn:
        more["dim_block_dec"] = more["dim_block_enc"]
    sizes = ("dim_input_arr", "dim_block", "dist_block", "block_names", "uni_block_names")
    more |= {key: getattr(fresh, key) for key in sizes}
    beta = config.beta_modal
    more["beta_modal"] = beta if beta == "auto" else (*beta, *(1.0,) * (len(fresh.uni_block_names) - n_mods))
    more["p_modal"] = config.p_modal if len(fresh.uni_block_names) == n_mods else ()
    more |= dict.fromkeys(("mean_vals", "min_vals", "max_vals"))
    return dataclasses.replace(config, **more)
