"""MosaicVI: what a user holds. It registers, trains, answers and saves by calling the stations."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic, Registry, Setup, register
from mosaicvi.errors import InputError, ModelFileError
from mosaicvi.fit.build import build_network
from mosaicvi.fit.loop import FitConfig, FitState, fit, start
from mosaicvi.infer.impute import Scale, imputed, scale_of
from mosaicvi.infer.latent import latent

# What each object was registered as, for as long as it lives; the object itself is not touched.
_REGISTERED: dict[int, Mosaic] = {}

class MosaicVI:
    def __init__(self, data, *, preset="default", seed=0, **parameters):
        self.mosaic = data if isinstance(data, Mosaic) else _REGISTERED[id(data)]
        self.preset=preset
        self.config = NetworkConfig.for_mosaic(self.mosaic, preset=preset, **parameters)
        self.net = build_network(self.mosaic, self.config, seed=seed, guess=preset != "seed")
        self.loader = MinibatchLoader(self.mosaic)
    @classmethod
    def setup_mudata(cls, mdata, **kw):
        m = register(mdata, Setup(**kw)); _REGISTERED[id(mdata)] = m
        weakref.finalize(mdata, _REGISTERED.pop, id(mdata), None)
        return m
    def train(self, max_epochs, **kw):
        listen = kw.pop("listen", lambda r: None)
        self.fit_config = FitConfig(max_epochs=max_epochs, **kw)
        self.state = start(self.net, self.fit_config)
        fit(self.state, self.loader, self.fit_config, listen=listen)
    @property
    def history(self): return self.state.history()
    def get_latent_representation(self, modalities=None):
        return latent(self.net, self.loader, np.arange(self.mosaic.n_cells), modalities=modalities)[0]
    def get_imputed_values(self, *, modality, n_samples=None, library=None):
        m = self.config.uni_block_names.index(modality)
        s = scale_of(self.net, self.mosaic.registry, m, library)
        out = np.empty((self.mosaic.n_cells, self.mosaic.modalities[m].n_features), np.float32)
        for at, v in imputed(self.net, self.loader, self.mosaic, np.arange(self.mosaic.n_cells), m, scale=s, modalities=None, n_samples=n_samples, batch_size=512, seed=0):
            out[at] = v
        return out
