"""Labels of cells by their neighbours among labelled ones, with probabilities that hold.

How often such labels are right depends on what a cell measured and on whether its batch has labels at all.
For each such situation labelled cells are put into it: they are shown to the encoder as little as the asked
cells, and are given no neighbour of their own batch where the asked cells have none. What then turns out
right decides how votes become probabilities.

Legend: q cells, n labelled cells, K latent, L labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.labels.calibration import FAR, Calibration
from mosaicvi.infer.labels.reference import Floats, Ints, Reference

# cells of a mosaic and the modalities that may be seen, None for all -> mean and variance of their latent
Place = Callable[[Mosaic, Ints, list[str] | None], tuple[Floats, Floats]]
MOST_DECIDING = 3000
FEWEST_DECIDING = 50
FOR_WIDTH = 500  # cells that tell how wide posteriors are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What is said of q cells.

    Attributes
    ----------
    probability
        Of each label, (q, L).
    distance
        To the nearest label's centre, in standard deviations within labels, (q,).
    typicality
        Share of labelled cells in the same situation that lie as far or farther, (q,).
    """

    probability: Floats
    distance: Floats
    typicality: Floats

    @property
    def is_far(self) -> NDArray[np.bool_]:
        """Which cells are unlike those of any label, (q,)."""
        return np.asarray(self.typicality < FAR)


def predict_labels(
    place: Place, reference: Mosaic, code: Ints, asked: Mosaic, cells: Ints, *, seed: int
) -> Labels:
    """Labels of some cells.

    Parameters
    ----------
    place
        Where cells lie in the latent.
    reference
        The mosaic with the labelled cells.
    code
        Label of each of its cells, from 0 to L - 1, or -1.
    asked, cells
        The mosaic with the cells that are asked for, and their positions; it may be the same.
    seed
        Decides which labelled cells decide on probabilities, where there are many.
    """
    labelled = np.flatnonzero(code >= 0)
    known = Reference.of(*place(reference, labelled, None), code[labelled], reference.batch[labelled])
    z, width = place(asked, cells, None)
    # whoever is known by the same name is the same cell
    own = reference.cells[labelled].get_indexer(asked.cells[cells])
    near = known.near(z, width, own=own)
    squares = known.squares(z)
    distance = np.sqrt(squares.min(1))
    probability = np.empty((len(cells), len(known.share)))
    typicality = np.empty(len(cells))
    foreign = ~np.isin(asked.batch[cells], known.batch)
    shown = _shown(asked, cells)
    situations, of_cell = np.unique(np.c_[shown, foreign], axis=0, return_inverse=True)
    for i, line in enumerate(situations):
        here = of_cell.reshape(-1) == i
        view = line[:-1]
        wide = _width(place, asked, view)
        calibration = _calibration(place, reference, labelled, known, view, wide, bool(line[-1]), seed)
        some = dataclasses.replace(near, code=near.code[here], apart=near.apart[here])
        probability[here] = calibration.probabilities(some, squares[here], known.share)
        typicality[here] = calibration.typicality(distance[here])
    return Labels(probability=probability, distance=distance, typicality=typicality)


def _calibration(
    place: Place,
    reference: Mosaic,
    labelled: Ints,
    known: Reference,
    shown: NDArray[np.bool_],
    width: float,
    foreign: bool,
    seed: int,
) -> Calibration:
    """How votes become probabilities for cells of which these modalities are shown.

    Parameters
    ----------
    place, reference
        Where cells lie, and the mosaic with the labelled cells.
    labelled, known
        Positions of these, and what is known of them.
    shown
        Which modalities the asked cells have, (M,).
    width
        Mean logarithm of their posterior variance.
    foreign
        Whether no cell of their batches is labelled.
    seed
        As above.
    """
    able, names = _able(reference, labelled, known, shown, width)
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(able))[:MOST_DECIDING])
    elsewhere = _elsewhere(known)[chosen]
    shared = chosen[elsewhere]
    leaves_out = foreign and len(shared) >= FEWEST_DECIDING
    deciding = shared if leaves_out else chosen
    but = known.batch[deciding] if leaves_out else None
    z, var = place(reference, labelled[deciding], names)
    near, squares = known.near(z, var, own=deciding, but=but), known.squares(z, but=but)
    strangers = None
    if foreign and len(np.unique(known.batch)) > 1:
        alone = chosen[~elsewhere]
        z, _ = place(reference, labelled[alone], names)
        strangers = np.sqrt(known.squares(z, but=known.batch[alone]).min(1))
    tells = not foreign or (leaves_out and len(np.unique(known.code[shared])) > 1)
    return Calibration.fit(near, squares, known.code[deciding], known.share, strangers, plainly=not tells)


def _able(
    mosaic: Mosaic, labelled: Ints, known: Reference, shown: NDArray[np.bool_], width: float
) -> tuple[NDArray[np.bool_], list[str] | None]:
    """Labelled cells that can be put into a situation (n,), and the modalities to show of them.

    Where too few have all modalities that the asked cells have, it is those of another set of modalities
    whose posteriors are most nearly as wide.
    """
    has = _shown(mosaic, labelled)
    able: NDArray[np.bool_] = np.all(has | ~shown, axis=1)
    if able.sum() >= FEWEST_DECIDING:
        return able, [m.name for m, s in zip(mosaic.modalities, shown, strict=True) if s]
    widths = np.log(known.width).mean(1)
    best, least = np.ones(len(labelled), bool), np.inf
    for line in np.unique(has, axis=0):
        alike = (has == line).all(1)
        off = abs(float(widths[alike].mean()) - width)
        if alike.sum() >= FEWEST_DECIDING and off < least:
            best, least = alike, off
    return best, None


def _width(place: Place, asked: Mosaic, shown: NDArray[np.bool_]) -> float:
    """Mean logarithm of the posterior variance of cells with these modalities, of the first ones."""
    alike = np.flatnonzero((_shown(asked, np.arange(asked.n_cells)) == shown).all(1))
    _, width = place(asked, alike[:FOR_WIDTH], None)
    return float(np.log(width).mean())


def _elsewhere(known: Reference) -> NDArray[np.bool_]:
    """Labelled cells whose label cells of another batch have as well, (n,)."""
    counts = np.zeros((len(known.share), int(known.batch.max()) + 1), np.int64)
    np.add.at(counts, (known.code, known.batch), 1)
    return np.asarray(counts.sum(1)[known.code] > counts[known.code, known.batch])


def _shown(mosaic: Mosaic, cells: Ints) -> NDArray[np.bool_]:
    """Which modalities each cell has, (q, M)."""
    return np.stack([m.row_of_cell[cells] >= 0 for m in mosaic.modalities], 1)
