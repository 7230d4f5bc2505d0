"""A published comparison run again: proteins of one donor predicted from RNA, by what the other's taught.

REAP-seq, as in Hu et al. (Nature Methods 2024): the model sees RNA of both donors and the proteins of PBMC3,
and predicts the 47 proteins of PBMC2. Scored is the mean over proteins of Pearson's correlation over cells.
The published figures compare some methods on raw counts and others on centred log ratios; ours are
given on both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import common
from benchmarks.common import Table, say

TAUGHT, ASKED = "PBMC3", "PBMC2"
PUBLISHED = {"Seurat": 0.417, "sciPENN": 0.369, "scVAEIT": 0.311, "totalVI": 0.259}
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = common.parser(__doc__, "published")
    parser.add_argument(
        "--data", type=Path, default=common.DATA, metavar="DIR", help="folder of real mosaics"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many [%(default)s]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    options = parser.parse_args()
    common.begin(options)
    path = options.data / "reap.truth.h5mu"
    if not path.exists():
        raise SystemExit(
            f"nothing to run: no reap.truth.h5mu in {common.shown(options.data)}; say --data DIR"
        )
    common.show("published", [_table(path, options)], options)


def _table(path: Path, options: argparse.Namespace) -> Table:
    table = Table(
        name="published",
        title=f"REAP-seq: proteins of {ASKED} from RNA, mean Pearson correlation by protein",
        columns=("method", "on_counts", "on_log_counts", "on_log_ratios", "published"),
        note="Published: Hu et al., Nature Methods 2024; on counts for some methods, on centred log ratios "
        "for others. Ours: mean of the seeds.",
    )
    seeds = range(1 if options.quick else options.seeds)
    ours = [_run(path, seed, 2 if options.quick else options.epochs) for seed in seeds]
    means = {name: float(np.mean([one[name] for one in ours])) for name in ours[0]}
    table.add(method="mosaicvi", **means)
    for method, value in PUBLISHED.items():
        table.add(method=method, published=value)
    return table


def _run(path: Path, seed: int, epochs: int | None) -> dict[str, float]:
    from mosaicvi import MosaicVI
    from mosaicvi.data.read import read_mudata

    mdata, measured = reversed_mosaic(read_mudata(path))
    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, seed=seed).train(epochs, seed=seed, progress=False)
    asked = np.flatnonzero((mdata.obs["batch"] == ASKED).to_numpy())
    predicted = model.get_imputed_values(modality="adt", indices=asked).to_numpy(np.float64)
    found = scores(predicted, measured)
    say(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return found


def reversed_mosaic(truth: Any) -> tuple[Any, Floats]:
    """RNA of both donors with the proteins of one, and the proteins of the other, (cells, proteins)."""
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is

    adt = truth["adt"]
    donor = truth.obs["batch"].reindex(adt.obs_names).to_numpy()
    asked = truth.obs_names[truth.obs["batch"] == ASKED]
    measured = adt[asked].X
    with mudata_as_it_is():
        mdata = MuData({"rna": truth["rna"].copy(), "adt": adt[donor == TAUGHT].copy()})
        mdata.obs = truth.obs[["batch"]].astype(str)
    return mdata, np.asarray(measured.toarray() if hasattr(measured, "toarray") else measured, np.float64)


def scores(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Mean correlation of proteins: counts, their logarithms, centred log ratios; (cells, proteins) both."""
    from mosaicvi.metrics import correlation_per_feature

    pairs = {
        "on_counts": (predicted, measured),
        "on_log_counts": (np.log1p(np.maximum(predicted, 0)), np.log1p(measured)),
        "on_log_ratios": (ratios(predicted), ratios(measured)),
    }
    return {name: float(np.nanmean(correlation_per_feature(*pair))) for name, pair in pairs.items()}


def ratios(counts: Floats) -> Floats:
    """Centred log ratios of each cell: log(1 + count / geometric mean)."""
    mean = np.expm1(np.log1p(np.maximum(counts, 0)).mean(1, keepdims=True))
    return np.asarray(np.log1p(np.maximum(counts, 0) / np.where(mean > 0, mean, 1)))


if __name__ == "__main__":
    main()
