"""Mosaic integration, imputation and transfer of multimodal single-cell data.

The way the data go, station by station; each folder imports only from those before it:

    config   what a network is           parameters, defaults, schedule
    data     files -> minibatches        read, combine, register, loader, simulate
    inspect  mosaic -> what it holds     numbers, tables, a picture, before any training
    nn       minibatch -> loss           masks, encoder, decoder, likelihoods, MosaicVAE
    store    what is written down        files, checkpoints, the format of a model
    fit      loss -> trained weights     the loop, the session
    infer    weights -> answers          latent, imputed values
    view     answers -> pictures         plots
    report   answers -> one page         findings, charts, HTML

`model.MosaicVI` stands on top and calls them; `cli` is the same for the terminal.

What is public is imported when it is first asked for, so that ``import mosaicvi`` takes no time.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mosaicvi._version import __version__

# GNU OpenMP reads it when torch is loaded. Its threads would keep their cores busy for milliseconds after
# they have nothing left to do, and the workers that wait for these cores would start late.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from mosaicvi import datasets, metrics, pl, tl
    from mosaicvi.config import NetworkConfig, Schedule
    from mosaicvi.data.combine import combine
    from mosaicvi.data.mosaic import Mosaic
    from mosaicvi.data.read import read, read_mudata, to_mudata
    from mosaicvi.errors import InputError, LostRankError, ModelFileError, MosaicWarning, NonFiniteLossError
    from mosaicvi.inspect.describe import describe
    from mosaicvi.model import MosaicVI

__all__ = [
    "InputError",
    "LostRankError",
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
    "read_mudata",
    "tl",
    "to_mudata",
]

_HOMES = {
    "InputError": "errors",
    "LostRankError": "errors",
    "ModelFileError": "errors",
    "Mosaic": "data.mosaic",
    "MosaicVI": "model",
    "MosaicWarning": "errors",
    "NetworkConfig": "config",
    "NonFiniteLossError": "errors",
    "Schedule": "config",
    "combine": "data.combine",
    "describe": "inspect.describe",
    "read": "data.read",
    "read_mudata": "data.read",
    "to_mudata": "data.read",
}
_MODULES = frozenset({"datasets", "metrics", "pl", "tl"})
_OTHERS = {  # what other packages have in its place
    **dict.fromkeys(("MULTIVI", "TOTALVI", "SCVI", "PEAKVI", "MIDAS", "model"), "mosaicvi.MosaicVI"),
    **dict.fromkeys(("SCANVI", "scANVI"), "mosaicvi.MosaicVI and its predict_labels"),
    "VAEIT": "from mosaicvi.scvaeit import VAEIT",
    "scvaeit": "import mosaicvi.scvaeit",
    "setup_anndata": "mosaicvi.MosaicVI.setup_anndata",
    "setup_mudata": "mosaicvi.MosaicVI.setup_mudata",
    **dict.fromkeys(
        ("concat", "organize_multimodal_anndatas", "organize_multiome_anndatas"), "mosaicvi.combine"
    ),
    **dict.fromkeys(("read_10x_h5", "read_10x_mtx", "read_csv", "read_loom", "read_zarr"), "mosaicvi.read"),
    "pp": "scanpy.pp",
    "settings": "the arguments seed= of MosaicVI and train, and progress= of train",
    "read_h5mu": "mosaicvi.read_mudata",
    "read_h5ad": "mosaicvi.read",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"mosaicvi.{name}")
    if name not in _HOMES:
        ours = f"; use {_OTHERS[name]}" if name in _OTHERS else ""
        raise AttributeError(f"module 'mosaicvi' has no attribute {name!r}{ours}")
    value = getattr(import_module(f"mosaicvi.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
