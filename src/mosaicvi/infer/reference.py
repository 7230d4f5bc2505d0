"""What is kept of the cells that a model was trained on, so that new ones can be compared with them.

Legend: n cells, r of them kept, K latent, P panels, D features of a modality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.staining import Staining, staining_of
from mosaicvi.store.parts import fitting_the_network

KEPT = 2000  # cells whose latent is kept
NEIGHBOURS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceCells:
    """The cells of a reference in short.

    Attributes
    ----------
    n_cells
        How many there were.
    cells
        Of each batch, how many there were, and how many had each modality: batch → modality → number, with
        an empty name for all.
    panels
        What each panel of a modality measured, boolean (P, D), in the network's order.
    latent
        Of some of them, chosen at random, float32 (r, K).
    distance
        How far each of those lies from its neighbours among them, ascending, float32 (r,).
    staining
        How strongly its batches are stained, by modality; empty where an older version saved the model.
    """

    n_cells: int
    cells: Mapping[str, Mapping[str, int]]
    panels: Mapping[str, NDArray[np.bool_]]
    latent: NDArray[np.float32]
    distance: NDArray[np.float32]
    staining: Mapping[str, Staining] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        r = len(self.latent)
        if self.latent.ndim != 2 or r < 2 or self.distance.shape != (r,):
            raise ValueError("the kept cells do not fit together")
        if not (np.isfinite(self.latent).all() and np.isfinite(self.distance).all()):
            raise ValueError("a kept cell is not finite")
        if (np.diff(self.distance) < 0).any() or any(p.ndim != 2 for p in self.panels.values()):
            raise ValueError("the kept cells do not fit together")

    @staticmethod
    def choose(n_cells: int, *, seed: int = 0) -> NDArray[np.int64]:
        """Positions of the cells whose latent is kept, at random, (r,)."""
        return np.sort(np.random.default_rng(seed).permutation(n_cells)[:KEPT])

    @classmethod
    def of(cls, mosaic: Mosaic, z: NDArray[np.float32]) -> ReferenceCells:
        """Those of a trained model's own data.

        Parameters
        ----------
        mosaic
            The data.
        z
            Latent of the chosen cells, (r, K).
        """
        counts: dict[str, dict[str, int]] = {}
        for b, name in enumerate(mosaic.batches):
            here = mosaic.batch == b
            counts[name] = {"": int(here.sum())}
            counts[name] |= {m.name: int((here & (m.row_of_cell >= 0)).sum()) for m in mosaic.modalities}
        return cls(
            n_cells=mosaic.n_cells,
            cells=counts,
            panels={m.name: m.panels.copy() for m in mosaic.modalities},
            latent=z,
            distance=np.sort(_from_neighbours(z, z, skip=1)),
            staining=staining_of(mosaic),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `from_dict` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        cells = {name: dict(of) for name, of in self.cells.items()}
        staining = {name: dataclasses.asdict(of) for name, of in self.staining.items()}
        return plain | {"cells": cells, "staining": staining}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], config: NetworkConfig) -> ReferenceCells:
        """Read what `to_dict` wrote; `ValueError` and its like if it is not of this network."""
        sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
        found = cls(
            n_cells=int(saved["n_cells"]),
            cells={str(name): {str(k): int(v) for k, v in of.items()} for name, of in saved["cells"].items()},
            panels={str(name): np.asarray(p, bool) for name, p in saved["panels"].items()},
            latent=np.asarray(saved["latent"], np.float32),
            distance=np.asarray(saved["distance"], np.float32),
            staining={
                str(name): Staining.from_dict(of, sizes[name])
                for name, of in saved.get("staining", {}).items()
                if set(of) != {"mean", "variance"}  # by which an older version told it
            },
        )
        if found.latent.shape[1] != config.dim_latent or any(
            p.shape[1] != sizes.get(name) for name, p in found.panels.items()
        ):
            raise ValueError("the kept cells are not of this network")
        return found

    def distances(self, z: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How far cells lie from their neighbours among those kept, and which share of these lies nearer.

        Parameters
        ----------
        z
            Latent, (n, K).

        Returns
        -------
        Distances (n,), the mean over the nearest 15; and of each the share of the reference's own cells that
        lie nearer to theirs, (n,), from 0 for the most typical to 1 for a cell farther out than all.
        """
        far = _from_neighbours(self.latent, z, skip=0)
        return far, (np.searchsorted(self.distance, far) / len(self.distance)).astype(np.float32)


def read_reference(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> ReferenceCells:
    """Read what `ReferenceCells.to_dict` wrote, as `fitting_the_network`."""
    with fitting_the_network(folder, "its kept cells do not fit"):
        return ReferenceCells.from_dict(saved, config)


def _from_neighbours(kept: NDArray[np.float32], z: NDArray[np.float32], *, skip: int) -> NDArray[np.float32]:
    """Mean distance of each cell to its nearest kept ones after the first `skip`, (n,)."""
    k = min(NEIGHBOURS + skip, len(kept))
    far, _ = NearestNeighbors(n_neighbors=k).fit(kept).kneighbors(z)
    return np.asarray(far[:, skip:].mean(1), np.float32)
