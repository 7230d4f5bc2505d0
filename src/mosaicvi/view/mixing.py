"""Who has whom for a neighbour: how kinds of cells mix in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.errors import InputError
from mosaicvi.metrics import neighbors
from mosaicvi.view.cells import PATTERN, column, representation
from mosaicvi.view.palette import DIVERGING, INK, short
from mosaicvi.view.points import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def modality_mixing(
    data: MuData | AnnData,
    *,
    use_rep: str = "X_mosaicvi",
    groups: str = PATTERN,
    k: int = 15,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often cells of each kind have each other for neighbours, against chance.

    A cell's k nearest neighbours should be of all kinds in proportion to their number: 1 everywhere. Large
    values on the diagonal and small ones elsewhere are kinds that lie apart.

    Parameters
    ----------
    data
        With the latent space in ``obsm``.
    use_rep
        Which ``obsm``.
    groups
        Column of ``obs``; by default what each cell measured, ``"batch"`` or the like for batches.
    k
        Neighbours of each cell.
    ax
        Where to draw; a new figure where None.

    Raises
    ------
    InputError
        There is no such column or ``obsm``, a value is missing, or there are not k + 1 cells.
    """
    z = representation(data, use_rep, remedy="store model.get_latent_representation() there first")
    ratio = mixing_ratios(z, column(data, groups), k=k)
    if ax is None:
        ax = canvas(side=1.6 + 0.75 * max(3, len(ratio)))[0]
    number = ratio.to_numpy(np.float64)
    shade = np.clip(np.log2(np.maximum(number, 1 / 64)), -3, 3)
    image = ax.imshow(shade, cmap=f"{DIVERGING}_r", vmin=-3, vmax=3)
    labels = [short(n, 18) for n in ratio.index]
    ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(labels)), labels)
    if len(labels) <= 14:
        for i, j in np.ndindex(*ratio.shape):
            ink = "white" if abs(shade[i, j]) > 1.9 else INK
            ax.text(j, i, f"{number[i, j]:.2g}", ha="center", va="center", color=ink, fontsize="small")
    ax.set_xlabel("kind of the neighbours")
    ax.set_ylabel("kind of the cell")
    ax.set_title(f"neighbours by {groups}: observed / by chance", fontsize="medium", loc="left")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.75)
    bar.set_ticks([-3, -1, 0, 1, 3], labels=["≤ 1/8", "1/2", "1", "2", "≥ 8"])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def mixing_ratios(z: NDArray[np.float64], groups: pd.Series, *, k: int = 15) -> pd.DataFrame:
    """Share of each kind among each kind's neighbours, over its share of the other cells; kinds × kinds."""
    if groups.isna().any():
        raise InputError(
            f"{groups.name}: missing for {int(groups.isna().sum()):,} cells; give every cell a value"
        )
    code, kinds = pd.factorize(groups.astype(str), sort=True)
    near = neighbors(z, k).indices
    n, g = len(code), len(kinds)
    observed = np.zeros((g, g))
    np.add.at(observed, (np.repeat(code, k), code[near].ravel()), 1)
    count = np.bincount(code, minlength=g)
    expected = (count[None, :] - np.eye(g)) / (n - 1)
    share = observed / observed.sum(1, keepdims=True)
    ratio = np.divide(share, expected, out=np.full((g, g), np.nan), where=expected > 0)
    return pd.DataFrame(ratio, index=list(kinds), columns=list(kinds))
