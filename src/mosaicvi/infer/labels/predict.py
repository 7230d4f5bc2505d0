"""Labels of cells by their neighbours among labelled ones, with probabilities that hold.

How often such labels are right, and how far from the labels a cell lies, depends on what it measured and on
whether its batch has labels at all. For each such situation labelled cells are put into it: of them too the
encoder sees only the features that the asked cells have, and they are given no neighbour of their own batch
where the asked cells have none. What then turns out right decides how votes become probabilities, and how far
they then lie what is usual.

Legend: q cells, n labelled cells, K latent, L labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.hidden import covers
from mosaicvi.infer.labels.calibration import FAR, Calibration
from mosaicvi.infer.labels.reference import Floats, Ints, Reference
from mosaicvi.infer.readout.views import Shown, panels_of_cells

# cells of a mosaic and what may be seen of them, None for all -> mean and variance of their latent
Place = Callable[[Mosaic, Ints, Shown | None], tuple[Floats, Floats]]
MOST_SITUATIONS = 24
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
    own = reference.names(labelled).get_indexer(asked.names(cells))
    near = known.near(z, width, own=own)
    squares = known.squares(z)
    distance = np.sqrt(squares.min(1))
    probability = np.empty((len(cells), len(known.share)))
    typicality = np.empty(len(cells))
    foreign = ~np.isin(asked.batch[cells], known.batch)
    code_of, views = _views(asked)
    situations, of_cell = np.unique(np.c_[code_of[cells], foreign], axis=0, return_inverse=True)
    for i, (v, is_foreign) in enumerate(situations.tolist()):
        here = of_cell.reshape(-1) == i
        wide = _width(place, asked, np.flatnonzero(code_of == v))
        calibration = _calibration(
            place, reference, labelled, known, views[v], wide, foreign=bool(is_foreign), seed=seed
        )
        some = dataclasses.replace(near, code=near.code[here], apart=near.apart[here])
        probability[here] = calibration.probabilities(some, squares[here], known.share)
        typicality[here] = calibration.typicality(distance[here])
    return Labels(probability=probability, distance=distance, typicality=typicality)


def _calibration(
    place: Place,
    reference: Mosaic,
    labelled: Ints,
    known: Reference,
    view: Shown,
    width: float,
    *,
    foreign: bool,
    seed: int,
) -> Calibration:
    """How votes become probabilities for cells of which these features are shown.

    Parameters
    ----------
    place, reference
        Where cells lie, and the mosaic with the labelled cells.
    labelled, known
        Positions of these, and what is known of them.
    view
        What the asked cells have.
    width
        Mean logarithm of their posterior variance.
    foreign
        Whether no cell of their batches is labelled.
    seed
        As above.
    """
    able, shown = _able(reference, labelled, known, view, width)
    chosen = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(able))[:MOST_DECIDING])
    elsewhere = _elsewhere(known)[chosen]
    shared = chosen[elsewhere]
    leaves_out = foreign and len(shared) >= FEWEST_DECIDING
    deciding = shared if leaves_out else chosen
    but = known.batch[deciding] if leaves_out else None
    z, var = place(reference, labelled[deciding], shown)
    near, squares = known.near(z, var, own=deciding, but=but), known.squares(z, but=but)
    strangers = None
    if foreign and len(np.unique(known.batch)) > 1:
        alone = chosen[~elsewhere]
        z, _ = place(reference, labelled[alone], shown)
        strangers = np.sqrt(known.squares(z, but=known.batch[alone]).min(1))
    tells = not foreign or (leaves_out and len(np.unique(known.code[shared])) > 1)
    return Calibration.fit(near, squares, known.code[deciding], known.share, strangers, plainly=not tells)


def _able(
    mosaic: Mosaic, labelled: Ints, known: Reference, view: Shown, width: float
) -> tuple[NDArray[np.bool_], Shown | None]:
    """Labelled cells that can be put into a situation (n,), and what is to be seen of them.

    Those that measured what the view shows; where these are too few, half of that; or all that they have of
    its modalities. Where too few have these, it is those of another set of modalities whose posteriors are
    most nearly as wide, and all of them is seen.
    """
    masks = view.features
    for share in (1.0, 0.5):
        able = np.ones(mosaic.n_cells, bool)
        for name, mask in masks.items():
            able &= covers(mosaic.modality(name), mask, mosaic.n_cells, share)
        if able[labelled].sum() >= FEWEST_DECIDING:
            return able[labelled], view
    has = np.stack([m.row_of_cell[labelled] >= 0 for m in mosaic.modalities], 1)
    shown = np.array([m.name in masks for m in mosaic.modalities])
    of_modalities: NDArray[np.bool_] = np.all(has | ~shown, axis=1)
    if of_modalities.sum() >= FEWEST_DECIDING:
        return of_modalities, _whole(mosaic, view)
    widths = np.log(known.width).mean(1)
    best, least = np.ones(len(labelled), bool), np.inf
    for line in np.unique(has, axis=0):
        alike = (has == line).all(1)
        off = abs(float(widths[alike].mean()) - width)
        if alike.sum() >= FEWEST_DECIDING and off < least:
            best, least = alike, off
    return best, None


def _views(asked: Mosaic) -> tuple[Ints, list[Shown]]:
    """What each of the asked cells has, by position (n,); of rare views only which modalities they are of."""
    code, views = panels_of_cells(asked)
    often = set(np.argsort(-np.bincount(code, minlength=len(views)), kind="stable")[:MOST_SITUATIONS])
    said = [view if i in often else _whole(asked, view) for i, view in enumerate(views)]
    different = list(dict.fromkeys(said))
    return np.array([different.index(view) for view in said], np.int64)[code], different


def _whole(mosaic: Mosaic, view: Shown) -> Shown:
    """All features of the modalities of which a view shows some."""
    there = view.features
    return Shown.make({m.name: np.ones(m.n_features, bool) for m in mosaic.modalities if m.name in there})


def _width(place: Place, asked: Mosaic, alike: Ints) -> float:
    """Mean logarithm of the posterior variance of cells of which the same is shown, by the first ones."""
    _, width = place(asked, alike[:FOR_WIDTH], None)
    return float(np.log(width).mean())


def _elsewhere(known: Reference) -> NDArray[np.bool_]:
    """Labelled cells whose label cells of another batch have as well, (n,)."""
    counts = np.zeros((len(known.share), int(known.batch.max()) + 1), np.int64)
    np.add.at(counts, (known.code, known.batch), 1)
    return np.asarray(counts.sum(1)[known.code] > counts[known.code, known.batch])
