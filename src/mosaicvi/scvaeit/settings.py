"""The published parameters, as scripts give them, in the words of `MosaicVI`. Legend: D features."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.config import Distribution, NetworkConfig
from mosaicvi.config.arguments import whole
from mosaicvi.errors import InputError

OURS = {
    "library_aware", "norm", "encode_covariates", "decode_mask", "unbiased_mmd", "likelihood_share",
    "mask_by_cell",
}  # fmt: skip
KEYS = tuple(f.name for f in dataclasses.fields(NetworkConfig) if f.name not in OURS)
LAYOUT = ("dim_input_arr", "dim_block", "dist_block", "uni_block_names", "block_names", "gamma")
OF_NETWORK = (
    "dimensions", "dim_latent", "beta_unobs", "beta_reverse", "beta_kl", "beta_modal", "skip_conn", "p_feat",
    "p_modal", "max_disp",
)  # fmt: skip
PER_BLOCK = ("dim_block_embed", "dim_block_enc", "dim_block_dec")
VALUES = ("mean_vals", "min_vals", "max_vals")


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
        empty = [name for name, at in found if not len(at)]
        if empty:
            raise InputError(f"masks: no cell has a value of {empty[0]!r}; leave that modality out.")
        return found

    def fill_in(self, network: NetworkConfig) -> None:
        """Put what the network made of what was not given into the config, where scripts look it up."""
        for name in OF_NETWORK:
            if getattr(self.config, name) is None:
                setattr(self.config, name, getattr(network, name))

    def parameters(self, kept: NDArray[np.bool_]) -> dict[str, Any]:
        """Parameters of `MosaicVI` for the features that are kept (D,), without what the data say."""
        given = vars(self.config)
        found = {name: given[name] for name in KEYS if name not in LAYOUT and given[name] is not None}
        n, blocks = len(self.config.dim_block), np.unique(self.block[kept])
        for name in PER_BLOCK:
            if name in found:
                found[name] = _spread(name, found[name], {n})[blocks].tolist()
        for name in VALUES:
            if name in found:
                value = _spread(name, found[name], {n, len(kept)})
                found[name] = (value if len(value) == len(kept) else value[self.block])[kept].tolist()
        return found


def read_config(config: Any, *, n_features: int) -> Published:
    """Read the `config` of `VAEIT`: a dict or namespace, with arrays, lists or numbers.

    Raises
    ------
    InputError
        For a name that is not published, or sizes that do not add up.
    """
    said = config if isinstance(config, Mapping) else vars(config) if hasattr(config, "__dict__") else None
    if said is None:
        raise InputError(f"config: a dict or a namespace is needed, not {type(config).__name__}.")
    for name in said:
        if name not in KEYS and said[name] is not None:
            near = difflib.get_close_matches(name, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}."
            raise InputError(f"config: unknown parameter {name!r}; {hint}")
    c = SimpleNamespace(**dict.fromkeys(KEYS))
    defaults = {"gamma": 0.0, "dim_block_enc": 0, "dim_block_dec": 0, "dim_input_arr": n_features}
    vars(c).update(defaults | {k: v for k, v in said.items() if k in KEYS and v is not None})
    c.dim_input_arr = _wholes("dim_input_arr", c.dim_input_arr)
    c.dim_block = c.dim_input_arr if c.dim_block is None else _wholes("dim_block", c.dim_block)
    for name in ("dim_input_arr", "dim_block"):
        if getattr(c, name).sum() != n_features:
            raise InputError(f"{name}: sums to {getattr(c, name).sum()}, but data has {n_features} columns.")
    c.dist_block = _spread(
        "dist_block", "Gaussian" if c.dist_block is None else c.dist_block, {len(c.dim_block)}
    )
    modality = np.repeat(np.arange(len(c.dim_input_arr)), c.dim_input_arr)
    block = np.repeat(np.arange(len(c.dim_block)), c.dim_block)
    c.uni_block_names = _names(c.uni_block_names, c.block_names, len(c.dim_input_arr))
    starts = np.minimum(np.cumsum(c.dim_block) - c.dim_block, n_features - 1)
    of_block = np.array(c.uni_block_names)[modality[starts]]
    if c.block_names is None:
        c.block_names = of_block
    c.block_names = _spread("block_names", c.block_names, {len(c.dim_block)}).astype(str)
    mixed = np.array(c.uni_block_names)[modality] != c.block_names[block]
    if mixed.any():
        at = int(np.argmax(mixed))
        one, other = str(c.uni_block_names[modality[at]]), str(c.block_names[block[at]])
        raise InputError(
            f"dim_block: column {at} of data is of {one!r} by dim_input_arr, but of {other!r} by dim_block "
            "and block_names; make the sizes agree."
        )
    likelihoods: dict[str, Distribution] = {}
    for name, dist in zip(c.block_names, c.dist_block, strict=True):
        if likelihoods.setdefault(str(name), str(dist)) != dist:
            raise InputError(f"dist_block: the blocks of {str(name)!r} differ; give each modality one.")
    return Published(config=c, likelihoods=likelihoods, modality=modality, block=block)


def _names(said: Sequence[str] | None, of_blocks: Sequence[str] | None, n: int) -> NDArray[np.str_]:
    """Names of the n modalities: as given, as the blocks have them, or M-0, M-1, ..."""
    names = [f"M-{i}" for i in range(n)]
    if said is not None or of_blocks is not None:
        names = list(dict.fromkeys(np.atleast_1d(np.asarray(of_blocks if said is None else said)).tolist()))
    if len(names) != n:
        raise InputError(f"uni_block_names: {n} different names are needed, one per modality; got {names!r}.")
    return np.array(names, dtype=str)


def _wholes(name: str, value: Any) -> NDArray[np.int64]:
    return np.array([whole(name, one) for one in np.atleast_1d(np.asarray(value)).tolist()], np.int64)


def _spread(name: str, value: Any, sizes: set[int]) -> NDArray[Any]:
    """An array of one of these lengths; one value stands for all."""
    array = np.atleast_1d(np.asarray(value))
    if array.ndim == 1 and len(array) == 1:
        array = np.repeat(array, max(sizes))
    if array.ndim != 1 or len(array) not in sizes:
        counts = " or ".join(map(str, sorted(sizes | {1})))
        raise InputError(f"{name}: {counts} values are needed; got the shape {array.shape}.")
    return array
