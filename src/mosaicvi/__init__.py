"""Mosaic integration, imputation and transfer of multimodal single-cell data.

The way the data go, station by station; each folder imports only from those before it:

    data    files -> minibatches        combine, read, Mosaic, transforms, MinibatchLoader, simulate
    nn      minibatch -> loss           masks, encoder, decoder, likelihoods, MosaicVAE
    fit     loss -> trained weights     the loop, checkpoints, the file format
    infer   weights -> answers          latent, imputed values
    view    answers -> pictures         plots, report

`model.MosaicVI` stands on top and calls them; `cli` is the same for the terminal.
"""

from mosaicvi import datasets, metrics, pl, tl
from mosaicvi._version import __version__
from mosaicvi.config import NetworkConfig
from mosaicvi.data.combine import combine
from mosaicvi.data.inspect import describe
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.read import read, read_mosaic
from mosaicvi.errors import InputError, ModelFileError, MosaicWarning, NonFiniteLossError
from mosaicvi.model import MosaicVI
from mosaicvi.schedule import Schedule

__all__ = [
    "InputError",
    "ModelFileError",
    "Mosaic",
    "MosaicVI",
    "MosaicWarning",
    "NetworkConfig",
    "NonFiniteLossError",
    "Schedule",
    "__version__",
    "combine",
    "datasets",
    "describe",
    "metrics",
    "pl",
    "read",
    "read_mosaic",
    "tl",
]
