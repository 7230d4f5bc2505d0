"""The published parameters, as scripts give them, in the words of `MosaicVI`. Legend: D features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi import likelihoods as families
from mosaicvi.config import Distribution, NetworkConfig
from mosaicvi.config.arguments import whole
from mosaicvi.config.network import VALUES
from mosaicvi.errors import InputError, nearest

_FIELDS = [field.name for field in dataclasses.fields(NetworkConfig)]
KEYS = _FIELDS[: _FIELDS.index("library_aware")]  # from which on they are ours
LAYOUT = ("dim_input_arr", "dim_block", "dist_block", "uni_block_names", "block_names", "gamma")
PER_BLOCK = ("dim_block_embed", "dim_block_enc", "dim_block_dec")
DEFAULTS = {"gamma": 0.0, "dim_block_enc": 0, "dim_block_dec": 0, "dist_block": "Gaussian"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A network as scVAEIT describes it.

    Attributes
    ----------
    config
        Everything that was given, and the defaults.
    likelihoods
        Of each modality, in order.
    modality, block
        Of each feature, as a position, (D,).
    """

    config: SimpleNamespace
    likelihoods: dict[str, Distribution]
    modality: NDArray[np.int64]
    block: NDArray[np.int64]

    def columns(self, kept: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
        """Name and columns of each modality, of the features that are kept (D,)."""
        found = [
            (name, np.flatnonzero(kept & (self.modality == m))) for m, name in enumerate(self.likelihoods)
        ]
        for name, at in found:
            if not len(at):
                raise InputError(f"masks: no cell has a value of {name!r}; leave that modality out.")
        return found

    def fill_in(self, network: NetworkConfig) -> None:
        """Put what the network made of what was not given into the config, where scripts look it up."""
        for name, value in vars(self.config).items():
            if value is None and name not in PER_BLOCK:
                setattr(self.config, name, getattr(network, name))

    def parameters(self, kept: NDArray[np.bool_]) -> dict[str, Any]:
        """Parameters of `MosaicVI` for the features that are kept (D,), without what the data say."""
        found = {k: v for k, v in vars(self.config).items() if k not in LAYOUT and v is not None}
        n, blocks = len(self.config.dim_block), np.unique(self.block[kept])
        for name in found.keys() & PER_BLOCK:
            found[name] = _spread(name, found[name], n)[blocks].tolist()
        for name in found.keys() & VALUES:
            value = _spread(name, found[name], n, len(kept))
            found[name] = (value if len(value) == len(kept) else value[self.block])[kept].tolist()
        return found


def read_config(config: Any, *, n_features: int) -> Published:
    """Read the `config` of `VAEIT`: a dict or namespace, with arrays, lists or numbers.

    Raises
    ------
    InputError
        For a name that is not published, or sizes that do not add up.
    """
    given = {name: value for name, value in _said(config).items() if value is not None}
    for name in given:
        if name not in KEYS:
            raise InputError(f"config: unknown parameter {name!r}; {nearest(name, KEYS)}")
    c = SimpleNamespace(**(dict.fromkeys(KEYS) | DEFAULTS | given))
    c.dim_input_arr = _sizes("dim_input_arr", given.get("dim_input_arr", n_features), n_features)
    c.dim_block = _sizes("dim_block", given.get("dim_block", c.dim_input_arr), n_features)
    n_modalities, n_blocks = len(c.dim_input_arr), len(c.dim_block)
    modality = np.repeat(np.arange(n_modalities), c.dim_input_arr)
    block = np.repeat(np.arange(n_blocks), c.dim_block)
    numbered = [f"M-{i}" for i in range(n_modalities)]
    names = _different(given.get("uni_block_names", given.get("block_names", numbered)))
    if len(names) != n_modalities and "dim_input_arr" not in given:
        raise InputError(
            f"dim_input_arr: it is not given, and there are {len(names)} modalities, {names!r}; give the "
            "number of features of each."
        )
    if len(names) != n_modalities:
        raise InputError(
            f"uni_block_names: {n_modalities} different names are needed, one per modality; got {names!r}."
        )
    c.uni_block_names = np.array(names)
    starts = np.minimum(np.cumsum(c.dim_block) - c.dim_block, n_features - 1)
    c.block_names = given.get("block_names", c.uni_block_names[modality[starts]])
    c.block_names = _spread("block_names", c.block_names, n_blocks).astype(str)
    c.dist_block = _spread("dist_block", c.dist_block, n_blocks)
    for at in np.flatnonzero(c.uni_block_names[modality] != c.block_names[block])[:1]:
        raise InputError(
            f"dim_block: column {at} of data is of {names[modality[at]]!r} by dim_input_arr, but of "
            f"{str(c.block_names[block[at]])!r} by dim_block and block_names; make the sizes, and the order "
            "of uni_block_names, agree."
        )
    likelihoods: dict[str, Distribution] = {}
    for name, dist in zip(c.block_names.tolist(), c.dist_block.tolist(), strict=True):
        if dist not in families.names():
            raise InputError(f"dist_block: unknown {dist!r}; use one of {', '.join(families.names())}.")
        if likelihoods.setdefault(name, dist) != dist:
            raise InputError(f"dist_block: the blocks of {name!r} differ; give each modality one.")
    return Published(config=c, likelihoods=likelihoods, modality=modality, block=block)


def _said(config: Any) -> dict[str, Any]:
    """Names and values of a dict, or attributes of an object or a class, also those that it inherits."""
    if isinstance(config, Mapping):
        return dict(config)
    if not hasattr(config, "__dict__"):
        raise InputError(f"config: a dict or a namespace is needed, not {type(config).__name__}.")
    return {name: getattr(config, name) for name in dir(config) if not name.startswith("__")}


def _different(names: Any) -> list[str]:
    return list(dict.fromkeys(np.atleast_1d(np.asarray(names)).astype(str).tolist()))


def _sizes(name: str, value: Any, n_features: int) -> NDArray[np.int64]:
    sizes = np.array([whole(name, one) for one in np.atleast_1d(np.asarray(value)).tolist()], np.int64)
    if sizes.sum() != n_features:
        raise InputError(f"{name}: sums to {sizes.sum()}, but data has {n_features} columns.")
    return sizes


def _spread(name: str, value: Any, *sizes: int) -> NDArray[Any]:
    """An array of one of these lengths; one value stands for all."""
    array = np.atleast_1d(np.asarray(value))
    if array.shape == (1,):
        array = np.repeat(array, max(sizes))
    if array.shape not in {(size,) for size in sizes}:
        counts = " or ".join(str(n) for n in sorted({1, *sizes}))
        raise InputError(f"{name}: {counts} values are needed; got the shape {array.shape}.")
    return array
