"""How strongly batches are stained, and new ones brought to the level of those that a model was trained on.

Antibodies differ by laboratory: the cells of one study may have ten times the counts of a protein that cells
of their type have elsewhere. A model has learnt the levels of its own batches. Those of a new one are told by
its cells together. Stronger staining moves all of them: those without the protein, whose counts are the
lowest, and those that have most of it. Other cell types move the one or the other end: of sorted T cells none
is without CD3, but the highest counts are as ever. So of each feature both ends are compared with those of
the reference's batches, and by the smaller difference, where both agree in sign, counts are divided; by less
where the ends lie much closer to each other than usual, as in cells of one type.

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
from mosaicvi.data.registry import Levels
from mosaicvi.data.stored.values import StoredValues
from mosaicvi.data.values import scales

Floats = NDArray[np.floating[Any]]
FEWEST_CELLS, MOST_CELLS = 50, 2000  # of a group, from which its level can be told, and is told
LOW, HIGH = 0.05, 0.95  # quantiles
NOTHING, ALL = 0.4, 0.6  # of the usual range between them, up to and from which nothing and all is taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staining:
    """Levels of a modality in groups of cells.

    Attributes
    ----------
    low, high
        Quantiles of log(1 + count), (G, D), NaN where the group did not measure the feature.
    """

    low: Floats
    high: Floats

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
        chosen = np.zeros(len(group), bool)
        rng = np.random.default_rng(0)
        for g in range(n_groups):
            chosen[rng.permutation(np.flatnonzero(group == g))[:MOST_CELLS]] = True
        parts: list[list[Floats]] = [[] for _ in range(n_groups)]
        panel = np.zeros((n_groups, data.n_features), bool)
        for rows, block, _ in data.blocks():
            here, code = chosen[rows], group[rows]
            for g in np.unique(code[here]):
                some = here & (code == g)
                x = block[some]
                parts[g].append(np.log1p(x if isinstance(x, np.ndarray) else x.toarray()).astype(np.float64))
                panel[g] = data.panels[data.panel_of_row[rows][some][0]]
        ends = np.full((2, n_groups, data.n_features), np.nan)
        for g, of_group in enumerate(parts):
            if of_group:
                ends[:, g] = np.quantile(np.concatenate(of_group), (LOW, HIGH), axis=0)
        low, high = np.where(panel, ends, np.nan)
        return cls(low=low, high=high)

    def placed(self, at: NDArray[np.int64], n_features: int) -> Staining:
        """The same where there are more features, of which these stand at the positions `at`."""
        parts = []
        for table in (self.low, self.high):
            more = np.full((len(table), n_features), np.nan)
            more[:, at] = table
            parts.append(more)
        return Staining(low=parts[0], high=parts[1])

    def differences(self, other: Staining) -> Floats:
        """By how much more strongly other groups are stained, (G of the other, D), 0 where that is not known.

        At either end features that both measured are compared with the mean of these, so that depth does not
        count. Of the two ends, on average over the groups, the difference nearer to 0 is taken, and 0 where
        they differ in sign. Less of it, or nothing, where the ends of the other group are closer together
        than 0.6 times as far as usual, as in cells of one type.
        """
        known = np.stack([self.low, self.high], 1)
        out = np.zeros(other.low.shape)
        for g, ends in enumerate(np.stack([other.low, other.high], 1)):
            both = ~np.isnan(known) & ~np.isnan(ends)
            alike = both[:, 0].sum(1) >= 2
            if alike.any():
                gap = np.where(both[alike], ends - known[alike], np.nan)
                gap -= np.nanmean(gap, 2, keepdims=True)
                there = both[alike].any((0, 1))
                low, high = np.nanmean(gap[:, :, there], 0)
                smaller = np.where(np.abs(low) < np.abs(high), low, high)
                usual = np.where(both[alike], known[alike], np.nan)
                usual_range = max(float(np.nanmean(usual[:, 1] - usual[:, 0])), 1e-12)
                narrow = float((ends[1] - ends[0])[there].mean()) / usual_range
                share = float(np.clip((narrow - NOTHING) / (ALL - NOTHING), 0, 1))
                out[g, there] = share * np.where(low * high > 0, smaller, 0.0)
        return out

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], n_features: int) -> Staining:
        """Read what `dataclasses.asdict` wrote; `ValueError` if it is not of so many features."""
        found = cls(**{key: np.asarray(saved[key], np.float64) for key in ("low", "high")})
        if found.low.ndim != 2 or found.low.shape != found.high.shape:
            raise ValueError("levels of batches do not fit together")
        if found.low.shape[1] != n_features or np.isinf([found.low, found.high]).any():
            raise ValueError("levels of batches are not of these features")
        return found


def staining_of(mosaic: Mosaic) -> dict[str, Staining]:
    """Levels of a reference's batches, of each modality whose counts are seen as centred log ratios."""
    found = {}
    for data in mosaic.modalities:
        if is_stained(data) and data.n_cells:
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
    found = levels_of_batches(mosaic, reference, new)
    return dataclasses.replace(at_level(mosaic, found), levels=found)


def levels_of_batches(mosaic: Mosaic, reference: Mapping[str, Staining], batches: Sequence[int]) -> Levels:
    """By how much more strongly some batches are stained than a reference, as a registry remembers it."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for data in mosaic.modalities:
        if data.name in reference and is_stained(data):
            group, pairs = _groups(mosaic, data, np.isin(mosaic.batch, list(batches)))
            gaps = reference[data.name].differences(Staining.of(data, group, len(pairs)))
            found[data.name] = {}
            for (batch, _), gap in zip(pairs, gaps, strict=True):  # a later panel adds to it
                of_batch = found[data.name].setdefault(mosaic.batches[batch], {})
                of_batch |= {data.features.names[f]: float(gap[f]) for f in np.flatnonzero(gap)}
    return found


def at_level(mosaic: Mosaic, levels: Levels) -> Mosaic:
    """The cells with the counts of some batches divided by how much more strongly these are stained."""
    modalities = []
    for data in mosaic.modalities:
        of_batches = levels.get(data.name, {})
        batches = [b for b, name in enumerate(mosaic.batches) if name in of_batches]
        if not batches:
            modalities.append(data)
            continue
        gaps, place = np.zeros((len(batches), data.n_features)), np.full(len(mosaic.batches), -1)
        column = {name: f for f, name in enumerate(data.features.names)}
        for i, b in enumerate(batches):
            place[b] = i
            for feature, gap in of_batches[mosaic.batches[b]].items():
                gaps[i, column[feature]] = gap
        group = np.full(data.n_cells, -1)
        has = data.row_of_cell >= 0
        group[data.row_of_cell[has]] = place[mosaic.batch[has]]
        modalities.append(_weakened(data, group, gaps))
    return dataclasses.replace(mosaic, modalities=tuple(modalities))


def is_stained(data: ModalityData) -> bool:
    """Whether it is of counts that are compared by the level of their batch."""
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
