"""How training went: every term of the loss, and the balance of the modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.errors import InputError
from mosaicvi.view.palette import INK, OKABE_ITO, modality_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class HasHistory(Protocol):
    """A trained model."""

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch."""


def history(history: pd.DataFrame | HasHistory) -> Figure:
    """Draw every term of the loss over the epochs, training solid and validation dashed.

    The first row: the loss, its terms that are no likelihood, and which share of the loss each modality makes
    (with its weight). Then for each modality the two terms it adds to the loss, for entries that the encoder
    saw and for those hidden from it; and its log-likelihood per cell, without weight. Terms that are zero
    throughout are left out, and so is the share of a modality that is the only one.

    Parameters
    ----------
    history
        ``model.history``, or the model.

    Returns
    -------
    A Figure.

    Raises
    ------
    InputError
        Nothing was trained yet.
    """
    table = history if isinstance(history, pd.DataFrame) else history.history
    if not len(table) or "train_loss" not in table:
        raise InputError("the history is empty; train the model first: model.train()")
    import matplotlib.pyplot as plt

    names = modalities_in(table)
    colors = modality_colors(names)
    several = len(names) != 1
    rows, columns = (3, max(3, len(names))) if several else (2, 2)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.4 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.ravel():
        ax.set_visible(False)
    _lines(axes[0, 0], table, {"loss": INK}, "loss")
    _lines(axes[0, 1], table, {"kl": OKABE_ITO[3], "mmd": OKABE_ITO[5]}, "regularising terms")
    if several:
        _balance(axes[0, 2], table, names)
    for i, name in enumerate(names):
        both = {f"observed_{name}": colors[name], f"masked_{name}": INK}
        terms, likelihood = axes[1:, i] if several else axes[1]
        _lines(terms, table, both, f"{name}: terms of the loss")
        _lines(likelihood, table, {f"log_prob_{name}": colors[name]}, f"{name}: log-likelihood per cell")
    for ax in (a for a in axes.ravel() if a.get_visible()):
        ax.set_xlabel("epoch", fontsize="small")
    return figure


def modalities_in(table: pd.DataFrame) -> list[str]:
    """Modalities of a history, in order."""
    start = "train_log_prob_"
    return [str(c)[len(start) :] for c in table.columns if str(c).startswith(start)]


def balance(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """Share of the likelihood terms that each modality makes, modalities × epochs."""
    part = np.stack(
        [np.abs(table[f"train_observed_{n}"]) + np.abs(table[f"train_masked_{n}"]) for n in names]
    ).astype(np.float64)
    total = part.sum(0)
    share: NDArray[np.float64] = np.divide(part, total, out=np.zeros_like(part), where=total > 0)
    return share


def robust_limits(table: pd.DataFrame) -> tuple[float, float] | None:
    """Limits that show the later epochs: the first ones are often so high that all else looks flat."""
    values = table.to_numpy(np.float64)
    if len(values) < 8:
        return None
    late = values[max(1, len(values) // 10) :]
    late = late[np.isfinite(late)]
    if not late.size:
        return None
    room = 0.08 * (late.max() - late.min()) or 1.0
    return float(late.min() - room), float(late.max() + room)


def _lines(ax: Axes, table: pd.DataFrame, terms: dict[str, str], title: str) -> None:
    """One colour a term; nothing is drawn for terms that are always zero."""
    drawn = []
    for term, color in terms.items():
        for split, style in (("train", "-"), ("validation", "--")):
            key = f"{split}_{term}"
            if key not in table or not table[key].fillna(0).any():
                continue
            label = f"{term.rsplit('_', 1)[0].replace('log_prob', 'log-likelihood')}, {split}"
            mark = "o" if len(table) < 8 else None
            ax.plot(
                table.index + 1, table[key], style, color=color, label=label, linewidth=1.4, marker=mark, ms=3
            )
            drawn.append(key)
    if not drawn:
        return
    ax.set_visible(True)
    limits = robust_limits(table[drawn])
    if limits:
        ax.set_ylim(*limits)
    ax.set_title(title, fontsize="medium", loc="left")
    ax.legend(frameon=False, fontsize="x-small")
    ax.locator_params(axis="x", integer=True, nbins=6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")


def _balance(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    if not names:
        return
    ax.set_visible(True)
    colors = modality_colors(names)
    weight = {
        n: f" (weight {table[f'beta_{n}'].iloc[-1]:.2g})" if f"beta_{n}" in table else "" for n in names
    }
    x = np.arange(len(table)) + 1.0
    share = balance(table, names)
    if len(x) == 1:
        x, share = np.array([0.5, 1.5]), np.repeat(share, 2, axis=1)
    ax.stackplot(
        x, share, labels=[f"{n}{weight[n]}" for n in names], colors=[colors[n] for n in names], alpha=0.9
    )
    ax.set_ylim(0, 1)
    ax.set_xlim(x[0], x[-1])
    ax.set_title("balance: share of the loss", fontsize="medium", loc="left")
    ax.legend(fontsize="x-small", loc="lower left", framealpha=0.9)
    ax.locator_params(axis="x", integer=True, nbins=6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
