"""Block groups: runs of blocks of one modality with equal widths, which share one product.

Chromosomes are many small blocks; doing them one by one would cost more in calls than in arithmetic.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mosaicvi.config import Distribution, NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockGroup:
    """Blocks first .. first + n - 1 of a modality, features lo .. hi - 1 of it.

    Attributes
    ----------
    sizes
        Features of each block.
    embed_at
        Where their share of the mask's embedding begins.
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
    dist: Distribution

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.sizes)

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
                    dist=config.dist_block[b],
                )
            )
        first, lo, embed_at, previous = first + 1, lo + size, embed_at + kind[0], name
    return groups


def narrowed(groups: Sequence[BlockGroup], features: NDArray[np.int64]) -> tuple[BlockGroup, ...]:
    """The groups of a modality with some of its features only, ascending; a block may be left empty."""
    out = []
    for g in groups:
        ends = np.searchsorted(features, [g.lo, *(hi for _, hi in g.spans)]).tolist()
        sizes = tuple(b - a for a, b in itertools.pairwise(ends))
        out.append(dataclasses.replace(g, lo=ends[0], hi=ends[-1], sizes=sizes))
    return tuple(out)
