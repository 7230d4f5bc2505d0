"""What is kept of the cells that a model was trained on, so that new ones can be compared with them.

A cell of which less was measured lies farther out, whatever it is. So it is kept as well how far cells of the
reference lie from the others when some modalities of them, and some features of these, are all that is seen.

Legend: n cells, r of them kept, K latent, P panels, D features of a modality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mosaicvi.config import NetworkConfig
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.registry import Registry
from mosaicvi.data.staining import Staining, staining_of
from mosaicvi.infer.hidden import showing
from mosaicvi.infer.readout.views import Shown
from mosaicvi.store.parts import fitting_the_network, need

KEPT = 2000  # cells whose latent is kept
NEIGHBOURS = 15
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of the features of each modality
MOST_SEEN, FEWEST_SEEN = 1000, 50  # cells of which less is seen
CHOICES = 5  # of features that are seen, each of other cells
MOST_TOGETHER = 2  # modalities whose every combination is tried

Counts = Mapping[str, Mapping[str, int]]  # batch -> modality, or "" for all -> number of cells
Place = Callable[[Mosaic], NDArray[np.float32]]  # all cells of a mosaic -> their latent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usual:
    """How far cells of the reference lie from the others when not all of them is seen.

    Attributes
    ----------
    modalities
        What is seen.
    depth
        Of how many features: the mean over the modalities of the logarithm of their number.
    distance
        Of each cell, ascending, float32 (q,).
    """

    modalities: tuple[str, ...]
    depth: float
    distance: NDArray[np.float32]

    def __post_init__(self) -> None:
        need(self.distance.ndim == 1 and len(self.distance) > 0 and bool(np.isfinite(self.distance).all()))
        need(np.isfinite(self.depth) and not (np.diff(self.distance) < 0).any())

    def rank(self, far: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of these cells that lie nearer, (n,)."""
        return np.asarray(np.searchsorted(self.distance, far) / len(self.distance))


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
    usual
        The same of cells of which less is seen; empty where an older version saved the model.
    staining
        How strongly its batches are stained, by modality; empty where an older version saved the model.
    """

    n_cells: int
    cells: Counts
    panels: Mapping[str, NDArray[np.bool_]]
    latent: NDArray[np.float32]
    distance: NDArray[np.float32]
    usual: tuple[Usual, ...] = ()
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
    def of(cls, mosaic: Mosaic, z: NDArray[np.float32], place: Place) -> ReferenceCells:
        """Those of a trained model's own data.

        Parameters
        ----------
        mosaic
            The data.
        z
            Latent of the chosen cells, (r, K).
        place
            Where cells lie of which less is seen.
        """
        return cls(
            n_cells=mosaic.n_cells,
            cells=counts_of(mosaic),
            panels={m.name: m.panels.copy() for m in mosaic.modalities},
            latent=z,
            distance=np.sort(_from_neighbours(z, z, own=np.arange(len(z)))),
            usual=tuple(_usual(mosaic, cls.choose(mosaic.n_cells), z, place)),
            staining=staining_of(mosaic),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `from_dict` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        cells = {name: dict(of) for name, of in self.cells.items()}
        staining = {name: dataclasses.asdict(of) for name, of in self.staining.items()}
        usual = [dataclasses.asdict(one) for one in self.usual]
        return plain | {"cells": cells, "staining": staining, "usual": usual}

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
            usual=tuple(
                Usual(
                    modalities=tuple(map(str, one["modalities"])),
                    depth=float(one["depth"]),
                    distance=np.asarray(one["distance"], np.float32),
                )
                for one in saved.get("usual", ())
            ),
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

    def distances(
        self, z: NDArray[np.float32], code: NDArray[np.int64], views: Sequence[Shown]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How far cells lie from their neighbours among those kept, and which share of these lies nearer.

        Parameters
        ----------
        z
            Latent, (n, K).
        code, views
            What is seen of each cell, as a position (n,) among the views.

        Returns
        -------
        Distances (n,), the mean over the nearest 15; and of each the share of the reference's own cells that
        lie nearer to theirs when as much is seen of them, (n,), from 0 for the most typical to 1 for a cell
        farther out than all.
        """
        far = _from_neighbours(self.latent, z)
        rank = np.empty(len(far), np.float32)
        for v in np.unique(code):
            here = code == v
            rank[here] = self._rank(far[here], views[v])
        return far, rank

    def _rank(self, far: NDArray[np.float32], view: Shown) -> NDArray[np.float64]:
        """Between those of cells of which a little more and a little less is seen, of the same modalities."""
        depth = _depth({name: float(mask.sum()) for name, mask in view.features.items()})
        alike = _most_alike(self.usual, set(view.features))
        if not alike:
            return np.asarray(np.searchsorted(self.distance, far) / len(self.distance))
        ranks = np.stack([one.rank(far) for one in alike])
        at = np.interp(depth, [one.depth for one in alike], np.arange(len(alike)))
        low, high = int(np.floor(at)), int(np.ceil(at))
        return np.asarray(ranks[low] + (at - low) * (ranks[high] - ranks[low]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Met:
    """The cells that a model has met, in its own training and in that of all that it grew from.

    Attributes
    ----------
    cells
        Of each batch, how many, as `ReferenceCells` has it.
    panels
        What each panel of a modality measured, boolean (P, D), in the network's order.
    """

    cells: Counts
    panels: Mapping[str, NDArray[np.bool_]]

    @property
    def n_cells(self) -> int:
        """How many cells."""
        return sum(of[""] for of in self.cells.values())

    def and_those_of(self, mosaic: Mosaic, before: Registry, which: NDArray[np.bool_]) -> Met:
        """These and some cells of a mosaic, (n,), which a model reads that knew less before."""
        panels = {}
        for m in mosaic.modalities:
            tables = [m.panels[np.unique(m.panel_of_row[m.row_of_cell[which & (m.row_of_cell >= 0)]])]]
            if m.name in self.panels:
                at = pd.Index(m.features.names).get_indexer(pd.Index(before.features[m.name].names))
                old = np.zeros((len(self.panels[m.name]), m.n_features), bool)
                old[:, at] = self.panels[m.name]
                tables.insert(0, old)
            every = np.concatenate(tables)
            _, first = np.unique(every, axis=0, return_index=True)
            panels[m.name] = every[np.sort(first)]
        return Met(cells=_together([self.cells, counts_of(mosaic, which)]), panels=panels)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `from_dict` reads it back."""
        return {"cells": {name: dict(of) for name, of in self.cells.items()}, "panels": dict(self.panels)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], config: NetworkConfig) -> Met:
        """Read what `to_dict` wrote; `ValueError` and its like if it is not of this network."""
        sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
        panels = {str(name): np.asarray(p, bool) for name, p in saved["panels"].items()}
        need(all(p.ndim == 2 and p.shape[1] == sizes[name] for name, p in panels.items()))
        cells = {str(name): {str(k): int(v) for k, v in of.items()} for name, of in saved["cells"].items()}
        need(all("" in of and min(of.values()) >= 0 for of in cells.values()))
        return cls(cells=cells, panels=panels)


def counts_of(mosaic: Mosaic, which: NDArray[np.bool_] | None = None) -> Counts:
    """Of each batch how many of some cells, (n,), there are, and how many with each modality."""
    counts = {}
    for b, name in enumerate(mosaic.batches):
        here = (mosaic.batch == b) if which is None else which & (mosaic.batch == b)
        if here.any():
            with_each = {m.name: int((here & (m.row_of_cell >= 0)).sum()) for m in mosaic.modalities}
            counts[name] = {"": int(here.sum()), **with_each}
    return counts


def _together(parts: Sequence[Counts]) -> Counts:
    """Sums of numbers of cells."""
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        for name, of in part.items():
            found = counts.setdefault(name, {})
            for modality, n in of.items():
                found[modality] = found.get(modality, 0) + n
    return counts


def read_met(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> Met:
    """Read what `Met.to_dict` wrote, as `fitting_the_network`."""
    with fitting_the_network(folder, "the numbers of its cells do not fit"):
        return Met.from_dict(saved, config)


def read_reference(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> ReferenceCells:
    """Read what `ReferenceCells.to_dict` wrote, as `fitting_the_network`."""
    with fitting_the_network(folder, "its kept cells do not fit"):
        return ReferenceCells.from_dict(saved, config)


def _usual(
    mosaic: Mosaic, kept: NDArray[np.int64], z: NDArray[np.float32], place: Place, *, seed: int = 0
) -> list[Usual]:
    """Distances of cells of the reference of which less is seen, for sets of modalities that they have."""
    has = np.stack([m.row_of_cell[kept] >= 0 for m in mosaic.modalities], 1)
    sets = {tuple(np.flatnonzero(line).tolist()) for line in np.unique(has, axis=0)}
    pairs = {two for s in sets for n in range(1, MOST_TOGETHER + 1) for two in combinations(s, n)}
    rng, out = np.random.default_rng(seed), []
    for chosen in sorted(pairs | sets):
        able = np.flatnonzero(has[:, chosen].all(1))
        if chosen and len(able) >= min(FEWEST_SEEN, len(kept)):
            some = np.sort(rng.permutation(able)[:MOST_SEEN])
            out += [_seen_in_part(mosaic, kept, z, place, chosen, some, share, rng) for share in SHARES]
    return out


def _seen_in_part(
    mosaic: Mosaic,
    kept: NDArray[np.int64],
    z: NDArray[np.float32],
    place: Place,
    chosen: Sequence[int],
    some: NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
) -> Usual:
    """How far some of the kept cells lie when a share of the features of some modalities is seen of them."""
    parts, far = np.array_split(rng.permutation(some), CHOICES if share < 1 else 1), []
    counts: dict[str, list[float]] = {mosaic.modalities[m].name: [] for m in chosen}
    for part in parts:
        masks = {}
        for m in chosen:
            data = mosaic.modalities[m]
            masks[data.name] = np.zeros(data.n_features, bool)
            n = max(1, round(share * data.n_features))
            masks[data.name][rng.permutation(data.n_features)[:n]] = True
        less = showing(mosaic, kept[part], masks)
        for name, of in counts.items():
            data = less.modality(name)
            of.extend(data.panels.sum(1)[data.panel_of_row].tolist())
        far.append(_from_neighbours(z, place(less), own=part))
    depth = _depth({name: float(np.mean(of)) for name, of in counts.items()})
    return Usual(modalities=tuple(counts), depth=depth, distance=np.sort(np.concatenate(far)))


def _depth(counts: Mapping[str, float]) -> float:
    """Mean of the logarithms of the numbers of features of some modalities."""
    return float(np.mean([np.log(max(n, 1.0)) for n in counts.values()])) if counts else 0.0


def _most_alike(usual: Sequence[Usual], seen: set[str]) -> list[Usual]:
    """Those of the modalities that are most nearly the ones seen, by depth; none where none is shared."""
    both = [(len(seen & set(one.modalities)), -len(set(one.modalities) - seen)) for one in usual]
    best = max(both, default=(0, 0))
    if not best[0]:
        return []
    first = next(one.modalities for one, how in zip(usual, both, strict=True) if how == best)
    return sorted((one for one in usual if one.modalities == first), key=lambda one: one.depth)


def _from_neighbours(
    kept: NDArray[np.float32], z: NDArray[np.float32], *, own: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Mean distance of each cell to its nearest kept ones, but for itself where that is one, (n,).

    Parameters
    ----------
    kept, z
        Latent of the kept cells and of the others.
    own
        Position of each of the others among those kept.
    """
    k = min(NEIGHBOURS + (own is not None), len(kept))
    far, near = NearestNeighbors(n_neighbors=k).fit(kept).kneighbors(z)
    if own is None:
        return np.asarray(far.mean(1), np.float32)
    is_own = near == own[:, None]
    is_own[~is_own.any(1), -1] = True  # the farthest is one too many then
    return np.asarray(far[~is_own].reshape(len(z), -1).mean(1), np.float32)
