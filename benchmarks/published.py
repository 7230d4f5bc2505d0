"""A published comparison run again: proteins of one donor predicted from RNA, by what the other's taught.

REAP-seq, as in Hu et al. (Nature Methods 2024): the model sees RNA of both donors and the proteins of PBMC3,
and predicts the 47 proteins of PBMC2. Scored is the mean over proteins of Pearson's correlation over cells.
The authors compare each method on a scale of its own; ours are given on all of these. With what they
published of each method's predictions, --predictions, so are the others'.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import common
from benchmarks.common import Table, say

TAUGHT, ASKED = "PBMC3", "PBMC2"
# By method the published mean, the scale it is on, and the name of its predictions. Where the code of the
# comparison (QuKunLab/MultiomeBenchmarking) says CLR it is that of a protein over cells, which is
# log(1 + count) but for a constant. BABEL's is over the 32 proteins that it does not predict to be constant.
PUBLISHED = {
    "BABEL": (0.447, "counts", "babel"),
    "Seurat": (0.417, "log_counts", "seurat"),
    "scMoGNN": (0.372, "counts", "scMoGNN"),
    "sciPENN": (0.369, "log_of_median", "sciPENN"),
    "Guanlab-dengkw": (0.353, "counts", "Dengkw"),
    "scVAEIT": (0.311, "log_cp10k", "scVAEIT"),
    "totalVI": (0.259, "counts", "totalVI"),
    "scArches": (0.252, "counts", "scArches"),
    "LIGER": (0.212, "counts", "Liger"),
    "cTP-net": (0.185, "log_counts", "cTPnet"),
    "CMAE": (0.099, "counts", "cmae"),
}
SCALES = ("counts", "log_counts", "log_cp10k", "log_of_median", "log_ratios")
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = common.parser(__doc__, "published")
    parser.add_argument(
        "--data", type=Path, default=common.DATA, metavar="DIR", help="folder of real mosaics"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many [%(default)s]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    parser.add_argument(
        "--predictions", type=Path, metavar="DIR",
        help="code/Prediction/RNA_Protein/Results of github.com/QuKunLab/MultiomeBenchmarking",
    )  # fmt: skip
    options = parser.parse_args()
    common.begin(options)
    path = options.data / "reap.truth.h5mu"
    if not path.exists():
        raise SystemExit(
            f"nothing to run: no reap.truth.h5mu in {common.shown(options.data)}; say --data DIR"
        )
    common.show("published", [_table(path, options)], options)


def _table(path: Path, options: argparse.Namespace) -> Table:
    from mosaicvi.data.read import read_mudata

    table = Table(
        name="published",
        title=f"REAP-seq: proteins of {ASKED} from RNA, mean Pearson correlation by protein",
        columns=("method", *(f"on_{scale}" for scale in SCALES), "published", "published_on"),
        note="Published: Hu et al., Nature Methods 2024. Ours: mean of the seeds.",
    )
    mdata, measured = reversed_mosaic(read_mudata(path))
    truth = truths(measured.to_numpy(np.float64))
    seeds = range(1 if options.quick else options.seeds)
    ours = [_run(mdata, truth, seed, 2 if options.quick else options.epochs) for seed in seeds]
    table.add(method="mosaicvi", **{name: float(np.mean([one[name] for one in ours])) for name in ours[0]})
    for method, (value, scale, file) in PUBLISHED.items():
        found = {}
        if options.predictions is not None:
            predicted = read_predictions(options.predictions, file, measured)
            found = scores(dict.fromkeys(SCALES, predicted), truth)
        table.add(method=method, **found, published=value, published_on=scale.replace("_", " "))
    return table


def _run(mdata: Any, truth: Mapping[str, Floats], seed: int, epochs: int | None) -> dict[str, float]:
    from mosaicvi import MosaicVI

    MosaicVI.setup_mudata(mdata, batch_key="batch")
    model = MosaicVI(mdata, seed=seed).train(epochs, seed=seed, progress=False)
    found = scores(answers(model, np.flatnonzero((mdata.obs["batch"] == ASKED).to_numpy())), truth)
    say(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return found


def answers(model: Any, asked: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """What is imputed of the proteins of some cells, on each scale, (cells, proteins)."""

    def ask(**how: Any) -> Floats:
        frame = model.get_imputed_values(modality="adt", indices=asked, **how)
        return np.asarray(frame.to_numpy(np.float64))

    counts = ask()
    median = model.registry.median_library["adt"]
    return {
        "counts": counts,
        "log_counts": np.log1p(counts),
        "log_cp10k": ask(scale="log1p_cp10k"),
        "log_of_median": np.log1p(ask(library=median)),
        "log_ratios": ask(scale="clr"),
    }


def reversed_mosaic(truth: Any) -> tuple[Any, pd.DataFrame]:
    """RNA of both donors with the proteins of one, and the counts of the other's, (cells, proteins)."""
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is

    adt = truth["adt"]
    donor = truth.obs["batch"].reindex(adt.obs_names).to_numpy()
    asked = truth.obs_names[truth.obs["batch"] == ASKED]
    with mudata_as_it_is():
        mdata = MuData({"rna": truth["rna"].copy(), "adt": adt[donor == TAUGHT].copy()})
        mdata.obs = truth.obs[["batch"]].astype(str)
    return mdata, adt[asked].to_df()


def read_predictions(folder: Path, name: str, measured: pd.DataFrame) -> Floats:
    """What the authors published of a method's predictions, as `measured` has cells and proteins."""
    found = _read(folder, name)
    if str(found.columns[0]) == "0":  # without names, in the order of the others
        like = _read(folder, "totalVI")
        found = pd.DataFrame(found.T.to_numpy(), index=like.index, columns=like.columns)
    elif "-" in str(found.columns[0]):  # barcodes end in the sample's number
        found = found.T
    found.index = found.index.str.split("-").str[0]
    found.columns = found.columns.str.replace(r"[-.]", "_", regex=True)
    cells = measured.index.str.split("_").str[-1]
    return found.loc[cells, measured.columns.str.replace("-", "_")].to_numpy(np.float64)


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"23_from_24_{name}.csv"
    if not path.exists():
        raise SystemExit(f"no {path.name} in {common.shown(folder)}; say --predictions DIR")
    return pd.read_csv(path, index_col=0)


def truths(counts: Floats) -> dict[str, Floats]:
    """Measured counts on each scale, (cells, proteins)."""
    total = counts.sum(1, keepdims=True)
    return {
        "counts": counts,
        "log_counts": np.log1p(counts),
        "log_cp10k": np.log1p(counts / total * 1e4),
        "log_of_median": np.log1p(counts / total * np.median(total)),
        "log_ratios": ratios(counts),
    }


def scores(predicted: Mapping[str, Floats], measured: Mapping[str, Floats]) -> dict[str, float]:
    """Mean over proteins of the correlation over cells on each scale, 0 where one does not vary."""
    from mosaicvi.metrics import correlation_per_feature

    return {
        f"on_{scale}": float(np.nan_to_num(correlation_per_feature(predicted[scale], measured[scale])).mean())
        for scale in SCALES
    }


def ratios(counts: Floats) -> Floats:
    """Centred log ratios of each cell: log(1 + count / geometric mean)."""
    mean = np.expm1(np.log1p(np.maximum(counts, 0)).mean(1, keepdims=True))
    return np.asarray(np.log1p(np.maximum(counts, 0) / np.where(mean > 0, mean, 1)))


if __name__ == "__main__":
    main()
