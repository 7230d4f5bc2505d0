"""How often hidden values lie in their intervals, and how wide these are.

Of each task the values that it hides: of features that the cell's batch measured, and apart from that of
others; where single entries are missing, a tenth of the measured ones is hidden from the training as well.
Counts other than peaks are compared as log(1 + counts per 10,000) of the cell's own total, peaks as
counts at the cell's true library. Beside ours stand the quantiles of the likelihood as the network gives
them, which are told the true library, and those of each feature's measured values, whatever the cell.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import common, models, mosaics
from benchmarks.common import Table, say
from mosaicvi.infer.intervals.spread import LEVELS as LEVELS_OF_TABLES
from mosaicvi.infer.intervals.spread import Spreads, factor_at, stretched
from mosaicvi.infer.readout.views import shown_of_cells

LEVELS = (0.5, 0.8, 0.9, 0.95)
MOST_CELLS, MOST_FEATURES, FEWEST_VALUES = 1500, 600, 15
COLUMNS = (
    "task", "modality", "batch", "level", "inside", "least", "near", "if_exact", "width",
    "model_inside", "model_width", "feature_inside", "feature_width",
)  # fmt: skip
BRIEF = (
    "task", "modality", *map(str, LEVELS), "features_within_.05", "by_chance_alone", "likelihood_as_it_is"
)  # fmt: skip
NOTES = {
    "measured": "Share of hidden values inside, mean over features with 15 of them. In brackets the mean "
    "width beside that of one interval for each feature from all its measured values; then, where an "
    "interval that begins at 0 has to hold more than is asked, what the smallest such would hold. Within "
    ".05: share of features at each level that hold between .05 less and .05 more than is asked, or .03 more "
    "than they have to. By chance: as many would be if each interval held just what is asked. The likelihood "
    "as it is: what its quantiles hold as the network gives them, told the cell's true library.",
    "never": "The same of features that the cell's batch never measured.",
}
TITLES = {"measured": "Features that the batch measured", "never": "Features that it never measured"}
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = common.parser(__doc__, "intervals")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", action="append", metavar="NAME", help="of the folder [all]")
    models.add_models(parser)
    options = parser.parse_args()
    common.begin(options)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in measured(options)]
    full = Table(name="intervals", title="Intervals", columns=COLUMNS, rows=rows, is_printed=False)
    common.show("intervals", [full, *(brief(rows, batch) for batch in TITLES)], options)


def brief(rows: list[dict[str, Any]], batch: str) -> Table:
    """The table of the docs, a row for each modality: of features that the batch measured, or never did."""
    out = Table(name=batch, title=TITLES[batch], columns=BRIEF, note=NOTES[batch])
    for key in dict.fromkeys((row["task"], row["modality"]) for row in rows if row["batch"] == batch):
        levels = [row for row in rows if (row["task"], row["modality"], row["batch"]) == (*key, batch)]
        each = {str(row["level"]): _share(row) for row in levels}
        others = [
            ", ".join(_short(row[name]) for row in levels) for name in ("near", "if_exact", "model_inside")
        ]
        out.add(**dict(zip(BRIEF, (*key, *each.values(), *others), strict=True)))
    return out


def _share(row: Mapping[str, Any]) -> str:
    """Share inside, and in brackets the width beside the features' own and what has to be held, if more."""
    width = row["width"] / row["feature_width"] if row["feature_width"] else float("nan")
    more = f", {_short(row['least'], 3)}" if row["least"] > row["level"] + 0.0005 else ""
    return f"{_short(row['inside'], 3)} ({_short(width)}{more})"


def _short(share: float, digits: int = 2) -> str:
    return "–" if np.isnan(share) else f"{share:.{digits}f}".removeprefix("0")


def measured(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Rows of the table: the simulated mosaic with --quick, else every task."""
    from mosaicvi import MosaicVI, datasets

    if options.quick:
        made = datasets.simulated_mosaic(300, n_genes=60, n_proteins=10, n_peaks=60)
        mosaic = MosaicVI.setup_mudata(made.mdata, batch_key="batch")
        model = MosaicVI(mosaic, dimensions=16, dim_latent=4, dim_block_enc=8, dim_block_dec=8)
        model.train(2, accelerator="cpu", progress=False)
        for name in ("rna", "adt", "atac"):
            missing = ~np.isin(mosaic.cells, made.mdata.mod[name].obs_names)
            cells = np.flatnonzero(missing)
            truth = made.truth.mod[name].X[cells].toarray().astype(np.float64)
            names = made.truth.mod[name].var_names
            yield from scored(model, "simulated", name, cells, truth, np.ones(truth.shape, bool), names)
        return
    for task in tasks(options):
        model, _ = models.at_defaults(task.name, task.mosaic, 0, options.models)
        for name, truth in task.truth.items():
            hidden = mosaics.hidden(task, name)
            if not len(hidden.rows):
                continue
            x: Any = truth.X[hidden.rows]
            values = np.asarray(x.toarray() if hasattr(x, "toarray") else x, np.float64)
            yield from scored(model, task.name, name, hidden.cells, values, hidden.entries, truth.var_names)


def tasks(options: argparse.Namespace) -> Iterator[mosaics.Task]:
    """Each task, with measured entries hidden as well where single entries are missing."""
    for name in mosaics.find(options.data, options.task):
        yield mosaics.read_with_hidden_entries(options.data, name) or mosaics.read_task(options.data, name)


def scored(
    model: Any, task: str, name: str, cells: Any, values: Floats, entries: Any, features: Any
) -> Iterator[tuple[Any, ...]]:
    """Rows of one modality: of cells whose batch measured it, and of others."""
    from mosaicvi.infer.readout.levels import known_by_batch

    data = model.mosaic.modality(name)
    order = {f: j for j, f in enumerate(data.features.names)}
    rng = np.random.default_rng(0)
    columns = np.sort(rng.permutation(values.shape[1])[:MOST_FEATURES])
    known = known_by_batch(model.mosaic, data)[model.mosaic.batch[cells]]
    known = known[:, [order[f] for f in features[columns]]]
    for said, which in (("measured", known), ("never", ~known)):
        asked = entries[:, columns] & which
        rows = np.sort(rng.permutation(np.flatnonzero(asked.any(1)))[:MOST_CELLS])
        if len(rows):
            say(f"{task}: {name}, {len(rows)} cells, batch {said}")
            of = _Asked(model, name, cells[rows], values[rows], asked[rows], columns, features)
            for level in LEVELS:
                yield task, name, said, level, *of.row(level)


class _Asked:
    """Hidden values of some cells, and the three intervals about them."""

    def __init__(
        self, model: Any, name: str, cells: Any, values: Floats, entries: Any, columns: Any, features: Any
    ) -> None:
        self.model, self.name, self.cells, self.entries = model, name, cells, entries
        self.features = list(features[columns])
        self.is_log = model.interval_scale(name).kind == "log1p_cp10k"
        self.is_whole = model.mosaic.modality(name).whole
        self.total = np.maximum(np.nansum(values, 1), 1.0)
        self.truth = self._shown(values[:, columns], self.total)
        data = model.mosaic.modality(name)
        some = np.sort(np.random.default_rng(0).permutation(data.n_cells)[: 2 * MOST_CELLS])
        x: Any = data.x[some]
        known = np.asarray(x.toarray() if hasattr(x, "toarray") else x, np.float64)
        order = {f: j for j, f in enumerate(data.features.names)}
        at = [order[f] for f in self.features]
        known = self._shown(known, np.maximum(known.sum(1), 1.0))[:, at]
        seen = (
            data.panels[data.panel_of_row[some]] if data.entry_measured is None else data.entry_measured[some]
        )
        self.known = np.where(seen[:, at], known, np.nan)
        self.imputed: Floats | None = None

    def _shown(self, values: Floats, total: Floats) -> Floats:
        return np.log1p(values / total[:, None] * 1e4) if self.is_log else values

    def row(self, level: float) -> tuple[float, ...]:
        """The figures of one level."""
        ours = self._ours(level)
        model = self._of_likelihood(level)
        each = np.nanquantile(self.known, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
        inside, width, n = self._score(*ours)
        plain, plain_width, _ = self._score(*model)
        alone, alone_width, _ = self._score(*np.broadcast_arrays(each[0], each[1], self.truth)[:2])
        least = self._least(level, *ours)
        near = (inside >= level - 0.05) & (inside <= np.maximum(level + 0.05, least + 0.03))
        return (
            inside.mean(), least.mean(), near.mean(), _if_exact(n, level), width,
            plain.mean(), plain_width, alone.mean(), alone_width,
        )  # fmt: skip

    def _score(self, lower: Floats, upper: Floats) -> tuple[Floats, float, Floats]:
        """Share of the hidden values of each feature inside, the mean width, and how many values."""
        wanted = self.entries & ~np.isnan(self.truth)
        inside = (self.truth >= lower - 1e-4) & (self.truth <= upper + 1e-4) & wanted
        n = wanted.sum(0)
        enough = n >= FEWEST_VALUES
        return inside.sum(0)[enough] / n[enough], float((upper - lower)[wanted].mean()), n[enough]

    def _least(self, level: float, lower: Floats, upper: Floats) -> Floats:
        """What the smallest intervals with at least this share would hold of each feature.

        Ends that begin at 0 stay the same from level to level until more has to lie inside than 0 and what
        is below the upper end: that level is meant.
        """
        wanted = self.entries & ~np.isnan(self.truth)
        share = np.full(wanted.shape, level)
        if self.is_log and (lower <= 0).any():
            share = np.maximum(share, np.where(lower <= 0, self._stays_until(level, upper), 0.0))
        elif self.is_whole:
            share = np.where(upper <= 0, np.maximum(self.truth <= 0, level), level)
        n = wanted.sum(0)
        enough = n >= FEWEST_VALUES
        return np.asarray((share * wanted).sum(0)[enough] / n[enough])

    def _stays_until(self, level: float, upper: Floats) -> Floats:
        """The level up to which intervals of counts over their total, which begin at 0, end where they do."""
        mosaic = self.model.mosaic
        if self.imputed is None:
            self.imputed = self.model.get_imputed_values(
                modality=self.name, scale="log1p_cp10k", indices=self.cells, features=self.features
            ).to_numpy(float)
        code, views = shown_of_cells(mosaic)
        names = {f: j for j, f in enumerate(mosaic.modality(self.name).features.names)}
        at = np.array([names[f] for f in self.features])
        pairs = np.stack([code[self.cells], mosaic.batch[self.cells]], 1)
        out = np.zeros(upper.shape)
        for i, b in np.unique(pairs, axis=0).tolist():
            here = (pairs == (i, b)).all(1)
            spread = self.model.spreads().of(views[i], self.name).of(at)
            for known, row in ((spread.known[b], b), (~spread.known[b], -1)):
                t, d = int(spread.table_of[row]), np.flatnonzero(known)
                table = spread.tables[t].of(d)
                shift = spread.shift[row, d] if row >= 0 else 0.0
                bins = table.bins(self.imputed[np.ix_(here, d)] + shift)
                values = table.values[np.arange(len(d)), bins]
                n_below = (values <= upper[np.ix_(here, d)][..., None] + 1e-6).sum(2)
                factor = factor_at(level, spread.stretch[t]) * spread.stretch_of_features[t, d]
                top = stretched(LEVELS_OF_TABLES[np.maximum(n_below - 1, 0)], 1 / factor)
                out[np.ix_(here, d)] = np.where(table.relative, 0.0, top)
        return out

    def _asked(self, level: float, **choice: Any) -> tuple[Floats, Floats]:
        ends = self.model.get_imputed_intervals(
            modality=self.name, level=level, indices=self.cells, features=self.features, **choice
        )
        return ends.lower.to_numpy(float), ends.upper.to_numpy(float)

    def _aware(self) -> bool:
        return bool(self.model.config.library_aware[self.model.config.uni_block_names.index(self.name)])

    def _ours(self, level: float) -> tuple[Floats, Floats]:
        if self.is_log or not self._aware():
            return self._asked(level)
        return self._asked(level, scale="counts", library=self.total)

    def _of_likelihood(self, level: float) -> tuple[Floats, Floats]:
        """Without what held-out cells say."""
        kept = self.model.spreads()
        parts = {
            k: dataclasses.replace(
                part,
                of_likelihood=np.stack([LEVELS_OF_TABLES] * 2),
                stretch_of_likelihood=np.ones_like(part.stretch_of_likelihood),
            )
            for k, part in kept.parts.items()
        }
        self.model._spreads = Spreads(parts=parts)
        choice = {"scale": "counts", "library": self.total} if self._aware() else {}
        lower, upper = self._asked(level, **choice)
        self.model._spreads = kept
        return self._shown(lower, self.total), self._shown(upper, self.total)


def _if_exact(n: Floats, level: float) -> float:
    """Share of features with so many values that chance leaves within .05 of the level."""
    from scipy.stats import binom

    inside = binom.cdf(np.floor(n * (level + 0.05) + 1e-9), n, level)
    return float((inside - binom.cdf(np.ceil(n * (level - 0.05) - 1e-9) - 1, n, level)).mean())


if __name__ == "__main__":
    main()
