"""False discoveries and power of differential features, on mosaics in which it is known what differs.

Every structure of batches (`benchmarks.simulated_groups`) is simulated with many seeds. Two types are
compared in every modality, beside Wilcoxon's test on the cells that measured it, normalised as usual. With a
folder of real mosaics, random halves of the cells of one type are compared as well, those that measured the
modality and those that did not: nothing differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import false_discovery_control

from benchmarks import common, models, mosaics, simulated_groups
from benchmarks.common import Table, say

CALLED = "is_de_fdr_0.05"
ONE, OTHER = "type1", "type2"
FALSE = ("structure", "modality", "evidence", "FDR", "power", "FDR_change", "power_change")
COLUMNS = (*FALSE, "FDR_Wilcoxon", "power_Wilcoxon", "power_Wilcoxon_at_0.05")
HALVES = ("task", "modality", "evidence", "types", "features", "called", "most_called")
RATE = 0.05
MOST_TYPES, FEWEST_CELLS = 6, 20


def main() -> None:
    parser = common.parser(__doc__, "differential")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument("--task", action="append", metavar="NAME", help="of the folder [all with labels]")
    parser.add_argument("--seeds", type=int, help="how many, 0 for real mosaics alone [20; 1 with --quick]")
    parser.add_argument(
        "--structure", action="append", choices=list(simulated_groups.STRUCTURES), help="[all of them]"
    )
    models.add_models(parser)
    options = parser.parse_args()
    common.begin(options)
    tables = [] if options.seeds == 0 else [simulated(options)]
    halves = [] if options.quick or not options.data.exists() else list(of_halves(options))
    if halves:
        note = (
            f"Random halves of the {MOST_TYPES} most frequent types, by what rows rest on: share of features "
            "called different (vanilla), mean and largest over types."
        )
        tables.append(Table(name="halves", title="Nothing differs", columns=HALVES, rows=halves, note=note))
    common.show("differential", tables, options)


def simulated(options: argparse.Namespace) -> Table:
    """False discoveries and power, means over seeds."""
    found = pd.DataFrame(list(simulations(options)))
    by = found.groupby(["structure", "modality", "evidence"], sort=False)[list(COLUMNS[3:])].mean()
    note = (
        "Means over seeds, at a nominal rate of 0.05. FDR, power: any difference (mode vanilla); change: "
        "effects of more than 0.25 (mode change). Wilcoxon: cells that measured the modality, counts as "
        "log(1 + counts per 10,000), without regard to batches; at 0.05: of its smallest p-values as many as "
        "leave its true rate at 0.05, which only those can take who know the truth. imputed: both groups are "
        "of a batch that never measured it."
    )
    rows = by.reset_index().to_dict("records")
    return Table(name="differential", title="Differential features", columns=COLUMNS, rows=rows, note=note)


def simulations(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record of each structure, modality and seed."""
    from mosaicvi import MosaicVI

    n_seeds = (1 if options.quick else 20) if options.seeds is None else options.seeds
    for structure in options.structure or simulated_groups.STRUCTURES:
        for seed in range(n_seeds):
            made = simulated_groups.simulated(structure, n_cells=600 if options.quick else 1500, seed=seed)
            MosaicVI.setup_mudata(made.mdata, batch_key="batch")
            model = MosaicVI(made.mdata, dimensions=32, dim_latent=8, seed=seed)
            # what was measured is compared without the network
            if structure == "never measured":
                model.train(5 if options.quick else 60, batch_size=256, accelerator="cpu", progress=False)
            say(f"{structure}, seed {seed}")
            for modality in made.means:
                yield record(model, made, structure, modality)


def record(model: Any, made: simulated_groups.Groups, structure: str, modality: str) -> dict[str, Any]:
    """False discoveries and power of both modes, and of Wilcoxon's test."""
    obs = made.mdata.obs
    one, other = ((obs["cell_type"] == kind).to_numpy() for kind in (ONE, OTHER))
    if structure == "never measured":
        lacks = (obs["batch"] == ("Y" if modality == "rna" else "X")).to_numpy()
        one, other = one & lacks, other & lacks
    effect = pd.Series(made.means[modality][0] - made.means[modality][1], made.mdata[modality].var_names)
    out: dict[str, Any] = {"structure": structure, "modality": modality}
    for name, mode, least in (("", "vanilla", 0.0), ("_change", "change", 0.25)):
        table = model.differential_expression(modality=modality, idx1=one, idx2=other, mode=mode)
        out["evidence"] = " and ".join(sorted(set(table["evidence"])))
        out |= rates(table[CALLED].to_numpy(), (effect[table.index].abs() > least).to_numpy(), name)
    if out["evidence"] == "measured":
        differs = (effect != 0).to_numpy()
        p = wilcoxon(made.mdata[modality], made.mdata.obs_names[one], made.mdata.obs_names[other], obs)
        out |= rates(false_discovery_control(p) <= RATE, differs, "_Wilcoxon")
        out["power_Wilcoxon_at_0.05"] = power_at_rate(p, differs)
    return {name: out.get(name, np.nan) for name in COLUMNS}


def rates(called: npt.NDArray[np.bool_], differs: npt.NDArray[np.bool_], name: str) -> dict[str, float]:
    """Share of false ones among those called, and of those called among those that differ."""
    return {
        f"FDR{name}": float((called & ~differs).sum() / max(called.sum(), 1)),
        f"power{name}": float((called & differs).sum() / max(differs.sum(), 1)),
    }


def power_at_rate(p: npt.NDArray[np.float64], differs: npt.NDArray[np.bool_]) -> float:
    """Share of what differs that is found by the most p-values of which at most 0.05 are false."""
    true = differs[np.argsort(p, kind="stable")]
    false_so_far = np.cumsum(~true) / np.arange(1, len(true) + 1)
    held = np.flatnonzero(false_so_far <= RATE)
    return float(true[: held[-1] + 1].sum() / max(true.sum(), 1)) if len(held) else 0.0


def wilcoxon(part: Any, one: pd.Index, other: pd.Index, obs: pd.DataFrame) -> npt.NDArray[np.float64]:
    """p-values of Wilcoxon's rank-sum test by feature."""
    from scipy.stats import mannwhitneyu

    x = part.to_df().to_numpy(np.float64)
    if np.nanmin(x) >= 0:
        x = np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)
    panels = part.varm["measured"]
    measured = panels.T.loc[obs.loc[part.obs_names, "batch"]].to_numpy()
    rows = [part.obs_names.isin(cells) for cells in (one, other)]
    p = np.ones(x.shape[1])
    for j in range(x.shape[1]):
        first, second = (x[row & measured[:, j], j] for row in rows)
        if len(first) and len(second):
            p[j] = mannwhitneyu(first, second, method="asymptotic").pvalue
    return np.nan_to_num(p, nan=1.0)


def of_halves(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record of each modality of each real task, and of what the rows rest on."""
    rng = np.random.default_rng(0)
    for name in mosaics.find(options.data, options.task):
        task = mosaics.read_task(options.data, name)
        label = pd.Series(task.label.astype(str))
        kinds = label[~label.isin(mosaics.UNKNOWN)].value_counts().index[:MOST_TYPES]
        if not len(kinds):
            continue
        model, _ = models.at_defaults(name, task.mosaic, 0, options.models)
        for data in task.mosaic.modalities:
            called: dict[str, list[float]] = {}
            for kind in kinds:
                for measured in (True, False):
                    which = (label == kind).to_numpy() & ((data.row_of_cell >= 0) == measured)
                    cells = rng.permutation(np.flatnonzero(which))
                    if len(cells) < FEWEST_CELLS:
                        continue
                    half = len(cells) // 2
                    table = model.differential_expression(
                        modality=data.name, idx1=cells[:half], idx2=cells[half:], mode="vanilla"
                    )
                    for evidence, rows in table.groupby("evidence"):
                        called.setdefault(str(evidence), []).append(float(rows[CALLED].mean()))
            for evidence, shares in called.items():
                found = (len(shares), data.n_features, np.mean(shares), max(shares))
                yield dict(zip(HALVES, (name, data.name, evidence, *found), strict=True))


if __name__ == "__main__":
    main()
