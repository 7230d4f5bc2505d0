"""The published tutorial of single-cell RNA run again: three tenths of the entries hidden, and denoised.

Its data come with the package (github.com/jaydu1/scVAEIT, docs/source/tutorial/R/DOGMAseq-RNA.RData: 613
cells, 2,166 genes, logarithms). In R: load("DOGMAseq-RNA.RData"); write.csv(data, "dogma.csv"). The tutorial
has a mean squared error of 0.807 on hidden entries. --fill docs/from-scvaeit.md puts the table into its page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import common
from benchmarks.common import Table

PUBLISHED = 0.807
CONFIG = {
    "dimensions": 16, "dim_latent": 4, "dim_block_enc": 64, "dim_block_dec": 64, "dist_block": ["NB"],
    "dim_block_embed": 128, "beta_unobs": 0.9, "p_feat": 0.5,
}  # fmt: skip
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = common.parser(__doc__, "denoising")
    parser.add_argument("file", type=Path, help="the data as CSV, cells × genes, names first")
    parser.add_argument("--seeds", type=int, default=1, help="how many [%(default)s]")
    parser.add_argument("--epochs", type=int, default=1000, help="of each training [%(default)s, as there]")
    options = parser.parse_args()
    common.begin(options)
    x = pd.read_csv(options.file, index_col=0).to_numpy(np.float64)
    common.show("denoising", [_table(x[:, x.sum(0) > 0], options)], options)


def _table(x: Floats, options: argparse.Namespace) -> Table:
    table = Table(
        name="denoising",
        title="Single-cell RNA, squared error of hidden entries",
        columns=("seed", "mosaicvi", "gene_means", "published"),
    )
    for seed in range(1 if options.quick else options.seeds):
        hidden = np.random.default_rng(seed).random(x.shape) < 0.3
        found = denoised(x, hidden, epochs=2 if options.quick else options.epochs, seed=seed)
        means = np.nanmean(np.where(hidden, np.nan, x), 0)
        ours, simple = (float(np.square(x - guess)[hidden].mean()) for guess in (found, means))
        table.add(seed=seed, mosaicvi=ours, gene_means=simple, published=PUBLISHED)
    return table


def denoised(x: Floats, hidden: npt.NDArray[np.bool_], *, epochs: int, seed: int) -> Floats:
    """The values as the tutorial has them denoised, from those that are not hidden."""
    from mosaicvi.scvaeit import VAEIT, reset_random_seeds

    reset_random_seeds(seed)
    model = VAEIT(CONFIG, np.where(hidden, 0, x), -hidden.astype(int))
    model.train(num_epoch=epochs, verbose=False)
    return np.asarray(model.get_denoised_data(L=50))


if __name__ == "__main__":
    main()
