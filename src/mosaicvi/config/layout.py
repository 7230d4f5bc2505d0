"""How the features of one matrix make modalities and blocks. Legend: D features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi import likelihoods as families
from mosaicvi.config.arguments import distinct, listed, spread, whole
from mosaicvi.config.sizes import Distribution
from mosaicvi.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes, names and likelihoods of the modalities and blocks of a matrix.

    Attributes
    ----------
    dim_input_arr, uni_block_names
        Features and name of each modality, in order.
    dim_block, block_names, dist_block
        Features, modality and likelihood of each block, in order.
    """

    dim_input_arr: NDArray[np.int64]
    uni_block_names: NDArray[np.str_]
    dim_block: NDArray[np.int64]
    block_names: NDArray[np.str_]
    dist_block: NDArray[np.str_]

    @cached_property
    def modality(self) -> NDArray[np.int64]:
        """Position of each feature's modality, (D,)."""
        return _positions(self.dim_input_arr)

    @cached_property
    def block(self) -> NDArray[np.int64]:
        """Position of each feature's block, (D,)."""
        return _positions(self.dim_block)

    @cached_property
    def likelihoods(self) -> dict[str, Distribution]:
        """Of each modality, in order."""
        return dict(zip(self.block_names.tolist(), self.dist_block.tolist(), strict=True))

    def columns(self, kept: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
        """Name and columns of each modality, of the features that are kept (D,).

        Raises
        ------
        InputError
            None of a modality's are.
        """
        found = [
            (name, np.flatnonzero(kept & (self.modality == m))) for m, name in enumerate(self.likelihoods)
        ]
        for name, at in found:
            if not len(at):
                raise InputError(f"masks: no cell has a value of {name!r}; leave that modality out.")
        return found

    def of_blocks(self, name: str, value: Any, kept: NDArray[np.bool_]) -> list[Any]:
        """What a parameter says of each block that has features which are kept (D,)."""
        found: list[Any] = spread(name, value, len(self.dim_block))[np.unique(self.block[kept])].tolist()
        return found

    def of_features(self, name: str, value: Any, kept: NDArray[np.bool_]) -> list[Any]:
        """What a parameter, given by block or by feature, says of each feature that is kept (D,)."""
        value = spread(name, value, len(self.dim_block), len(kept))
        found: list[Any] = (value if len(value) == len(kept) else value[self.block])[kept].tolist()
        return found


def read_layout(given: Mapping[str, Any], *, n_features: int) -> Layout:
    """Read what was given of the fields of `Layout`; numbers may be doubles, and one value stands for all.

    Without `dim_block` each modality is a block, without `dim_input_arr` all is one; modalities without
    names are numbered, and without a likelihood they are Gaussian.

    Raises
    ------
    InputError
        Sizes do not add up to the features, or they, names and likelihoods do not fit one another.
    """
    sizes = _sizes("dim_input_arr", given.get("dim_input_arr", n_features), n_features, least=1)
    block_sizes = _sizes("dim_block", given.get("dim_block", sizes), n_features)
    names = _names(given, len(sizes))
    modality, block = _positions(sizes), _positions(block_sizes)
    starts = np.minimum(np.cumsum(block_sizes) - block_sizes, n_features - 1)
    block_names = given.get("block_names", names[modality[starts]])
    block_names = spread("block_names", block_names, len(block_sizes)).astype(str)
    dist_block = spread("dist_block", given.get("dist_block", "Gaussian"), len(block_sizes))
    for at in np.flatnonzero(names[modality] != block_names[block])[:1]:
        raise InputError(
            f"dim_block: column {at} of data is of {str(names[modality[at]])!r} by dim_input_arr, but of "
            f"{str(block_names[block[at]])!r} by dim_block and block_names; make the sizes, and the order "
            "of uni_block_names, agree."
        )
    for dist in dist_block.tolist():
        if dist not in families.names():
            raise InputError(f"dist_block: unknown {dist!r}; use one of {', '.join(families.names())}.")
    layout = Layout(
        dim_input_arr=sizes,
        uni_block_names=names,
        dim_block=block_sizes,
        block_names=block_names,
        dist_block=dist_block,
    )
    for name, dist in zip(block_names.tolist(), dist_block.tolist(), strict=True):
        if layout.likelihoods[name] != dist:
            raise InputError(f"dist_block: the blocks of {name!r} differ; give each modality one.")
    return layout


def _positions(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of the part that each feature is of, (D,)."""
    return np.repeat(np.arange(len(sizes)), sizes)


def _sizes(name: str, value: Any, n_features: int, *, least: int = 0) -> NDArray[np.int64]:
    sizes = np.array([whole(name, one, least=least) for one in listed(name, value).tolist()], np.int64)
    if sizes.sum() != n_features:
        raise InputError(f"{name}: sums to {sizes.sum()}, but data has {n_features} columns.")
    return sizes


def _names(given: Mapping[str, Any], n_modalities: int) -> NDArray[np.str_]:
    """Names of the modalities: those given, those of the blocks, or numbers."""
    numbered = [f"M-{i}" for i in range(n_modalities)]
    source = "uni_block_names" if "uni_block_names" in given else "block_names"
    names = distinct(given.get(source, numbered))
    if len(names) != n_modalities and "dim_input_arr" not in given:
        raise InputError(
            f"dim_input_arr: it is not given, and there are {len(names)} modalities, {names!r}; give the "
            "number of features of each."
        )
    if len(names) != n_modalities:
        raise InputError(
            f"{source}: {n_modalities} different names are needed, one per modality; got {names!r}."
        )
    return np.array(names)
