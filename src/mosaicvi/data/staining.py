"""How strongly batches are stained, and new ones brought to the level of those that a model was trained on.

Antibodies differ by laboratory: the cells of one study may have ten times the counts of a protein that cells
of their type have elsewhere. A model has learnt the levels of its own batches. Those of a new one are told by
its cells together: by how much the mean logarithm of each feature differs from that of the reference's
batches. The mean of cells of one type differs from that of a mixture as well, but they vary less. So a share
of the difference is taken for staining: the ratio of their spread to that of the reference's batches.

Legend: G groups of cells, of one batch and panel each; D features, U unseen batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.blocks import Block
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.data.registry import Level, Levels
from mosaicvi.data.stored.values import StoredValues
from mosaicvi.data.values import scales

Floats = NDArray[np.floating[Any]]
FEWEST_CELLS = 50  # of a group, from which its level can be told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staining:
    """Levels of a modality in groups of cells.

    Attributes
    ----------
    mean
        Mean of log(1 + count), (G, D), NaN where the group did not measure the feature.
    variance
        Of that, less each cell's mean over what it measured, (G, D), likewise.
    """

    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, data: ModalityData, group: NDArray[np.int64], n_groups: int) -> Staining:
        """Levels of groups of rows.

        Parameters
        ----------
        data
            The modality, of which the panels say all that was measured.
        group
            Of each row, (n_m,); -1 for none.
        n_groups
            How many there are, of one panel each.
        """
        n = np.zeros((n_groups, 1))
        total, centred, square = np.zeros((3, n_groups, data.n_features))
        panel = np.zeros((n_groups, data.n_features), bool)
        for rows, block, _ in data.blocks():
            log = np.log1p(block if isinstance(block, np.ndarray) else block.toarray()).astype(np.float64)
            measured = data.panels[data.panel_of_row[rows]]
            rest = log - (log.sum(1) / np.maximum(measured.sum(1), 1))[:, None]
            code = group[rows]
            for g in np.unique(code[code >= 0]):
                some = code == g
                panel[g] = measured[some][0]
                n[g] += some.sum()
                total[g] += log[some].sum(0)
                centred[g] += rest[some].sum(0)
                square[g] += np.square(rest[some]).sum(0)
        n = np.maximum(n, 1)
        variance = np.maximum(square / n - (centred / n) ** 2, 0.0)
        return cls(mean=np.where(panel, total / n, np.nan), variance=np.where(panel, variance, np.nan))

    def placed(self, at: NDArray[np.int64], n_features: int) -> Staining:
        """The same where there are more features, of which these stand at the positions `at`."""
        parts = []
        for table in (self.mean, self.variance):
            more = np.full((len(table), n_features), np.nan)
            more[:, at] = table
            parts.append(more)
        return Staining(mean=parts[0], variance=parts[1])

    def differences(self, other: Staining) -> tuple[Floats, Floats]:
        """By how much more other groups are stained, and which share of that may be taken for staining.

        Features that both measured are compared with the mean of these, so that depth does not count.

        Returns
        -------
        Differences of the mean logarithms, (G of the other, D), 0 where they are not known; shares, (G,).
        """
        gaps, shares = np.zeros(other.mean.shape), np.zeros(len(other.mean))
        for g, (mean, variance) in enumerate(zip(other.mean, other.variance, strict=True)):
            both = ~np.isnan(self.mean) & ~np.isnan(mean)
            alike = both.sum(1) >= 2
            if not alike.any():
                continue
            both = both[alike]
            gap = np.where(both, mean - self.mean[alike], np.nan)
            gap -= np.nanmean(gap, 1, keepdims=True)
            there = both.any(0)
            found = np.nanmean(gap[:, there], 0)
            gaps[g, there] = found - found.mean()
            widest = np.nanmean(self.variance[:, there])
            shares[g] = np.sqrt(min(1.0, float(variance[there].mean() / max(widest, 1e-12))))
        return gaps, shares

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], n_features: int) -> Staining:
        """Read what `dataclasses.asdict` wrote; `ValueError` if it is not of so many features."""
        found = cls(**{key: np.asarray(saved[key], np.float64) for key in ("mean", "variance")})
        if found.mean.ndim != 2 or found.mean.shape != found.variance.shape:
            raise ValueError("levels of batches do not fit together")
        if found.mean.shape[1] != n_features or np.isinf([found.mean, found.variance]).any():
            raise ValueError("levels of batches are not of these features")
        return found


def staining_of(mosaic: Mosaic) -> dict[str, Staining]:
    """Levels of a reference's batches, of each modality whose counts are seen as centred log ratios."""
    found = {}
    for data in mosaic.modalities:
        if _is_stained(data) and data.n_cells:
            group, pairs = _groups(mosaic, data, np.ones(mosaic.n_cells, bool))
            found[data.name] = Staining.of(data, group, len(pairs))
    return found


def as_reference(mosaic: Mosaic, reference: Mapping[str, Staining]) -> Mosaic:
    """Cells of batches that a model has not seen, brought to the level of those that it has.

    Counts are divided by how much more strongly they are stained. Batches of fewer than fifty cells with a
    modality stay as they are.

    Parameters
    ----------
    mosaic
        Cells as the model reads them.
    reference
        Levels of the cells that the model was trained on.
    """
    key = mosaic.registry.setup.batch_key
    if key is None or key not in mosaic.unseen:
        return mosaic
    new = range(len(mosaic.registry.categories[key]), len(mosaic.batches))
    return at_level(mosaic, levels_of_batches(mosaic, reference, new))


def levels_of_batches(mosaic: Mosaic, reference: Mapping[str, Staining], batches: Sequence[int]) -> Levels:
    """By how much more strongly some batches are stained than a reference, as a registry remembers it."""
    found: dict[str, dict[str, Level]] = {}
    for data in mosaic.modalities:
        if data.name in reference and _is_stained(data):
            group, pairs = _groups(mosaic, data, np.isin(mosaic.batch, list(batches)))
            gaps, shares = reference[data.name].differences(Staining.of(data, group, len(pairs)))
            found[data.name] = {}
            for (batch, _), gap, share in zip(pairs, gaps, shares, strict=True):  # a later panel adds to it
                name = mosaic.batches[batch]
                known = found[data.name].get(name, Level(gaps={}, share=1.0))
                of_features = {data.features.names[f]: float(gap[f]) for f in np.flatnonzero(gap)}
                found[data.name][name] = Level(
                    gaps={**known.gaps, **of_features}, share=min(known.share, float(share))
                )
    return found


def at_level(mosaic: Mosaic, levels: Levels) -> Mosaic:
    """The cells with the counts of some batches divided by how much more strongly these are stained."""
    modalities, left = [], {}
    for data in mosaic.modalities:
        of_batches = levels.get(data.name, {})
        batches = [b for b, name in enumerate(mosaic.batches) if name in of_batches]
        if not batches:
            modalities.append(data)
            continue
        gaps, place = np.zeros((len(batches), data.n_features)), np.full(len(mosaic.batches), -1)
        column = {name: f for f, name in enumerate(data.features.names)}
        shares = np.array([of_batches[mosaic.batches[b]].share for b in batches])
        for i, b in enumerate(batches):
            place[b] = i
            for feature, gap in of_batches[mosaic.batches[b]].gaps.items():
                gaps[i, column[feature]] = gap
        group = np.full(data.n_cells, -1)
        has = data.row_of_cell >= 0
        group[data.row_of_cell[has]] = place[mosaic.batch[has]]
        modalities.append(_weakened(data, group, gaps * shares[:, None]))
        left[data.name] = _left(mosaic, data, batches, gaps * (1 - shares[:, None]))
    return dataclasses.replace(mosaic, modalities=tuple(modalities), level_left={**mosaic.level_left, **left})


def _left(mosaic: Mosaic, data: ModalityData, batches: Sequence[int], rest: Floats) -> NDArray[np.float64]:
    """What is left of the gaps of some batches, (B, D)."""
    out = mosaic.level_left.get(data.name)
    out = np.full((len(mosaic.batches), data.n_features), np.nan) if out is None else out.copy()
    out[list(batches)] = rest
    return out


def _is_stained(data: ModalityData) -> bool:
    return data.transform == "clr" and data.entry_measured is None


def _groups(
    mosaic: Mosaic, data: ModalityData, which: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Group of each row of some cells by batch and panel, -1 where they are too few, and what each is."""
    cells = np.flatnonzero((data.row_of_cell >= 0) & which)
    rows = data.row_of_cell[cells]
    both = np.stack([mosaic.batch[cells], data.panel_of_row[rows]], 1)
    pairs, code, n = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    large = np.flatnonzero(n >= FEWEST_CELLS)
    place = np.full(len(pairs), -1)
    place[large] = np.arange(len(large))
    group = np.full(data.n_cells, -1)
    group[rows] = place[code.reshape(-1)]
    return group, [(int(b), int(p)) for b, p in pairs[large].tolist()]


def _weakened(data: ModalityData, group: NDArray[np.int64], gaps: Floats) -> ModalityData:
    """The modality with the counts of each group divided by e to the power of its gaps, (G, D)."""
    if not gaps.any():
        return data
    factor = np.concatenate([np.exp(-gaps), np.ones((1, data.n_features))]).astype(np.float32)
    if isinstance(data.x, StoredValues):
        x: Block | StoredValues = data.x.times(factor, group)
    elif isinstance(data.x, np.ndarray):
        x = data.x * factor[group]
    else:
        x = data.x.copy()
        x.data *= factor[np.repeat(group, np.diff(x.indptr)), x.indices]
    changed = dataclasses.replace(data, x=x, known_columns={}, known_digest=None)
    n_measured = data.panels.sum(1)[data.panel_of_row]
    library, scale = np.empty_like(data.library), np.empty_like(data.scale)
    for rows, block, _ in changed.blocks():
        library[rows], scale[rows] = scales(block, n_measured[rows], data.transform)
    same = group < 0
    library[same], scale[same] = data.library[same], data.scale[same]
    return dataclasses.replace(changed, library=library, scale=scale)
