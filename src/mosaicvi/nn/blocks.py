"""Blocks: runs of features with a sub-network of their own, and groups of such with equal widths.

Chromosomes are many small blocks; doing them one by one would cost more in calls than in arithmetic.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mosaicvi.config import NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockGroup:
    """Blocks first .. first + n - 1 of a modality, features lo .. hi - 1 of it.

    Attributes
    ----------
    sizes
        Features of each block.
    embed_at
        Where their share of the mask's embedding begins.
    embed, enc, dec
        Widths of each block: `dim_block_embed`, `dim_block_enc`, `dim_block_dec`.
    """

    modality: int
    first: int
    lo: int
    hi: int
    sizes: tuple[int, ...]
    embed: int
    enc: int
    dec: int
    embed_at: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.sizes)

    @property
    def embed_columns(self) -> slice:
        """Their share of the mask's embedding."""
        return slice(self.embed_at, self.embed_at + self.n_blocks * self.embed)

    def columns_of(self, features: NDArray[np.int64] | None) -> tuple[NDArray[np.int64] | None, list[int]]:
        """Which of the group's columns are among some features, and where each block begins among these.

        Features are those of the modality, ascending, None for all; columns count from the group's first.
        Blocks may be left empty.
        """
        edges = np.cumsum([0, *self.sizes])
        if features is None:
            return None, edges.tolist()
        ends = np.searchsorted(features, edges + self.lo)
        return features[ends[0] : ends[-1]] - self.lo, (ends - ends[0]).tolist()

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Columns of each block in the modality."""
        out, at = [], self.lo
        for size in self.sizes:
            out.append((at, at + size))
            at += size
        return out


def block_groups(config: NetworkConfig) -> list[BlockGroup]:
    """The groups of a network, in the order of its blocks."""
    groups: list[BlockGroup] = []
    first = lo = embed_at = 0
    previous = ""
    for b, size in enumerate(config.dim_block):
        name = config.block_names[b]
        if name != previous:
            first = lo = 0
        kind = (config.dim_block_embed[b], config.dim_block_enc[b], config.dim_block_dec[b])
        last = groups[-1] if groups and name == previous else None
        if last is not None and (last.embed, last.enc, last.dec) == kind:
            groups[-1] = dataclasses.replace(last, hi=lo + size, sizes=(*last.sizes, size))
        else:
            groups.append(
                BlockGroup(
                    modality=config.uni_block_names.index(name),
                    first=first,
                    lo=lo,
                    hi=lo + size,
                    sizes=(size,),
                    embed=kind[0],
                    enc=kind[1],
                    dec=kind[2],
                    embed_at=embed_at,
                )
            )
        first, lo, embed_at, previous = first + 1, lo + size, embed_at + kind[0], name
    return groups
