"""How well each feature is imputed, by what can be seen of a cell: it is hidden where it was measured.

A view is what is shown of a cell: modalities, and features of them. For every view that cells of the mosaic
have, and for each modality alone, cells that measured more are shown to the model as those of the view are,
and what it imputes is compared with what they measured. Where single entries of a modality are missing, each
measured one of some cells is hidden once, a part of them at a time.

Legend: q test cells, D features of a modality.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from mosaicvi import likelihoods
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import ModalityData, Mosaic
from mosaicvi.infer.hidden import covers, missing_entries, showing, without_entries
from mosaicvi.infer.impute import ImputationRequest, Scale, imputed
from mosaicvi.infer.readout import ReadOut
from mosaicvi.infer.readout.views import Shown, panels_of_cells
from mosaicvi.metrics import auroc_per_feature
from mosaicvi.nn.vae import MosaicVAE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_CELLS = 500
FEWEST_CELLS = 40
FEWEST_POSITIVE = 5
MOST_VIEWS = 24
PARTS = 5
GOOD = {"correlation": 0.5, "AUROC": 0.75}
CHANCE = {"correlation": 0.0, "AUROC": 0.5}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureAccuracy:
    """How well features of a modality are imputed from a view that hides them.

    Attributes
    ----------
    modality, view, shown
        Its name; what is shown, in words, and as such; None of single entries.
    partial
        Whether other features of the modality are shown.
    lacking
        How many cells of the mosaic have this view; of single entries, how many lack each feature, (d,).
    features
        Positions of those that are hidden and could be scored, (d,).
    score
        Of each: correlation within batches of logarithms of counts, or of values as they are; of peaks the
        area under the ROC curve, (d,).
    measure
        ``"correlation"`` or ``"AUROC"``.
    n_cells
        Test cells that measured each, (d,).
    held_out
        Whether no training saw the test cells; None where that is not known.
    """

    modality: str
    view: str
    shown: Shown | None
    partial: bool
    lacking: int | Ints
    features: Ints
    score: Floats
    measure: str
    n_cells: Ints
    held_out: bool | None

    def believe(self) -> NDArray[np.object_]:
        """``"yes"`` from a correlation of 0.5 (AUROC 0.75) on, ``"partly"`` if above chance, else ``"no"``.

        Above chance: by more than one-sided 5 % of its standard error under chance.
        """
        noise = 1 / np.sqrt(np.maximum(self.n_cells, 1) * (1 if self.measure == "correlation" else 3))
        above = self.score > CHANCE[self.measure] + 1.64 * noise
        good = above & (self.score >= GOOD[self.measure])
        return np.where(good, "yes", np.where(above, "partly", "no")).astype(object)


def accuracies(
    net: MosaicVAE,
    mosaic: Mosaic,
    loader: MinibatchLoader,
    wanted: list[str],
    *,
    imputing: Callable[[str], tuple[Scale, ReadOut | None]],
    held_out: NDArray[np.bool_] | None,
    seed: int,
    query: Mosaic | None = None,
) -> Iterator[FeatureAccuracy]:
    """The accuracy of features from each view that hides some, where enough cells can tell.

    Parameters
    ----------
    net, mosaic, loader
        The trained network, and the data.
    wanted
        Names of the modalities.
    imputing
        On which scale a modality is imputed, counts at one library, and how counts are read out.
    held_out
        Which cells no training saw, (n,); None where that is not known.
    seed
        Decides the test cells, where there are many.
    query
        Cells whose views are asked about; where None those of `mosaic`, and each modality alone.
    """
    lacking = views_of(mosaic if query is None else query)
    for data in mosaic.modalities if query is None else ():
        lacking.setdefault(Shown.make({data.name: np.ones(data.n_features, bool)}), 0)
    for view, n in sorted(lacking.items(), key=lambda pair: -pair[1])[:MOST_VIEWS]:
        for name in wanted:
            found = _accuracy(net, mosaic, loader, name, view, n, imputing, held_out, seed)
            if found is not None:
                yield found
    for name in wanted:
        found = _of_entries(
            net, mosaic, loader, name, asked_for=query, imputing=imputing, held_out=held_out, seed=seed
        )
        if found is not None:
            yield found


def views_of(mosaic: Mosaic) -> dict[Shown, int]:
    """What cells show, and how many of them, as if every feature of a cell's panel had been measured."""
    code, views = panels_of_cells(mosaic)
    return {view: int((code == i).sum()) for i, view in enumerate(views)}


def _of_entries(
    net: MosaicVAE,
    mosaic: Mosaic,
    loader: MinibatchLoader,
    name: str,
    *,
    asked_for: Mosaic | None,
    imputing: Callable[[str], tuple[Scale, ReadOut | None]],
    held_out: NDArray[np.bool_] | None,
    seed: int,
) -> FeatureAccuracy | None:
    """The accuracy of single entries, from all else of their cells; None where none is missing."""
    data = mosaic.modality(name)
    lacking = missing_entries((mosaic if asked_for is None else asked_for).modality(name))
    cells = np.flatnonzero(data.row_of_cell >= 0)
    if not lacking.any() or len(cells) < FEWEST_CELLS:
        return None
    cells, is_new = _tested(cells, held_out, seed)
    part = np.random.default_rng([seed, 1]).integers(0, PARTS, (len(cells), data.n_features))
    guess = np.zeros(part.shape)
    for i in range(PARTS):
        hidden = part == i
        less = without_entries(mosaic, data, cells, hidden)
        guess[hidden] = _imputed(net, less, loader, name, *imputing(name))[hidden]
    at, score, n = _compared(mosaic, data, cells, guess, data.measured(data.row_of_cell[cells]))
    return FeatureAccuracy(
        modality=name,
        view=f"other entries of {name}",
        shown=None,
        partial=True,
        lacking=lacking[at],
        features=at,
        score=score,
        measure=_measure(data),
        n_cells=n[at],
        held_out=is_new,
    )


def _accuracy(
    net: MosaicVAE,
    mosaic: Mosaic,
    loader: MinibatchLoader,
    name: str,
    view: Shown,
    lacking: int,
    imputing: Callable[[str], tuple[Scale, ReadOut | None]],
    held_out: NDArray[np.bool_] | None,
    seed: int,
) -> FeatureAccuracy | None:
    data, shown = mosaic.modality(name), view.features
    own = shown.get(name, np.zeros(data.n_features, bool))
    cells = _able(mosaic, data, shown, own)
    if own.all() or len(cells) < FEWEST_CELLS:
        return None
    cells, is_new = _tested(cells, held_out, seed)
    less = showing(mosaic, cells, shown)
    guess = _imputed(net, less, loader, name, *imputing(name))
    at, score, n = _compared(mosaic, data, cells, guess, data.measured(data.row_of_cell[cells]) & ~own)
    return FeatureAccuracy(
        modality=name,
        view=_words(mosaic, view),
        shown=view,
        partial=bool(own.any()),
        lacking=lacking,
        features=at,
        score=score,
        measure=_measure(data),
        n_cells=n[at],
        held_out=is_new,
    )


def _tested(cells: Ints, held_out: NDArray[np.bool_] | None, seed: int) -> tuple[Ints, bool | None]:
    """Test cells, and whether no training saw them: those held out where there are enough."""
    unseen = cells if held_out is None else cells[held_out[cells]]
    is_new = None if held_out is None else len(unseen) >= FEWEST_CELLS
    cells = unseen if is_new is not False else cells
    return np.sort(np.random.default_rng(seed).permutation(cells)[:MOST_CELLS]), is_new


def _imputed(
    net: MosaicVAE, less: Mosaic, loader: MinibatchLoader, name: str, scale: Scale, readout: ReadOut | None
) -> Floats:
    """Imputed values of a modality of all cells of a mosaic, (q, D), in the order of its blocks."""
    stream = imputed(
        net,
        MinibatchLoader(less, device=loader.device),
        less,
        np.arange(less.n_cells),
        [ImputationRequest(m=[m.name for m in less.modalities].index(name), scale=scale)],
        readout=readout,
    )
    guess = np.concatenate([part.values[0] for part in stream]).astype(np.float64)
    return np.asarray(guess[:, less.modality(name).features.order])


def _compared(
    mosaic: Mosaic, data: ModalityData, cells: Ints, guess: Floats, counts: NDArray[np.bool_]
) -> tuple[Ints, Floats, Ints]:
    """Features that enough cells measured, (d,), their scores, (d,), and by how many cells, (D,).

    Parameters
    ----------
    mosaic, data, cells
        The modality, and test cells.
    guess, counts
        Imputed values (q, D), and which of them are to be compared with what was measured.
    """
    rows = data.row_of_cell[cells]
    x: Any = data.x[rows]
    truth = np.asarray(x.toarray() if sp.issparse(x) else x, np.float64)
    family = likelihoods.get(data.likelihood)
    if family.whole and not family.of_peaks:
        depth = np.maximum(data.library[rows, None].astype(np.float64), 1) / max(
            float(data.library.mean()), 1
        )
        truth, guess = np.log1p(truth / depth), np.log1p(np.maximum(guess, 0.0))
    truth[~counts] = np.nan
    n = (~np.isnan(truth)).sum(0)
    if family.of_peaks:
        positive = (truth > 0).sum(0)
        scorable = (n >= FEWEST_CELLS) & (positive >= FEWEST_POSITIVE) & (positive < n)
        at = np.flatnonzero(scorable)
        return at, auroc_per_feature(guess[:, at], truth[:, at]), n
    spread = np.nanstd(np.where(n >= FEWEST_CELLS, truth, 0.0), axis=0)
    at = np.flatnonzero((n >= FEWEST_CELLS) & (spread > 0))
    return at, _within_batches(guess[:, at], truth[:, at], mosaic.batch[cells]), n


def _measure(data: ModalityData) -> str:
    return "AUROC" if likelihoods.get(data.likelihood).of_peaks else "correlation"


def _able(
    mosaic: Mosaic, data: ModalityData, shown: dict[str, NDArray[np.bool_]], own: NDArray[np.bool_]
) -> Ints:
    """Cells that measured what the view shows, and some of what it hides of the modality.

    Where hardly any measured all that it shows, because panels differ, those that measured half of it.
    """
    hides: NDArray[np.bool_] = np.any(data.panels & ~own, axis=1)
    there = data.row_of_cell >= 0
    hiding = np.zeros(mosaic.n_cells, bool)
    hiding[there] = hides[data.panel_of_row[data.row_of_cell[there]]]
    found = np.zeros(0, np.int64)
    for share in (1.0, 0.5):
        able = hiding & covers(data, own, mosaic.n_cells, share)
        for name, mask in shown.items():
            if name != data.name:
                able &= covers(mosaic.modality(name), mask, mosaic.n_cells, share)
        found = np.flatnonzero(able)
        if len(found) >= FEWEST_CELLS:
            break
    return found


def _within_batches(guess: Floats, truth: Floats, batch: Ints) -> Floats:
    """Correlation of each feature over cells, each less its mean in the cell's batch; NaN left out."""
    known = ~np.isnan(truth)
    off: list[Floats] = []
    for values in (guess, truth):
        left = np.where(known, values, 0.0)
        for b in np.unique(batch):
            here = batch == b
            n = known[here].sum(0)
            mean = left[here].sum(0) / np.maximum(n, 1)
            left[here] = np.where(known[here], left[here] - mean, 0.0)
        off.append(left)
    p, t = off
    size = np.sqrt((p**2).sum(0) * (t**2).sum(0))
    return np.asarray((p * t).sum(0) / np.where(size > 0, size, 1.0))


def _words(mosaic: Mosaic, view: Shown) -> str:
    """What a view shows: ``rna+adt``, or of a part of the features ``rna+adt (9 of 29)``."""
    said = []
    for name, mask in view.features.items():
        said.append(name if mask.all() else f"{name} ({int(mask.sum())} of {len(mask)})")
    return "+".join(said)
