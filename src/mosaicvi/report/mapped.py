"""One page about new cells on a reference: where they lie, what matched, what not to trust."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mosaicvi.report.findings import Finding, trust
from mosaicvi.report.page import asset, environment, versions_used
from mosaicvi.store.files import atomic_path, check_output
from mosaicvi.view.palette import MISSING, OKABE_ITO, column_colors

FAR = 0.99  # rank from which a cell is unlike the reference: one in a hundred of its own lies as far
SHIFTED = 0.7  # median rank from which not only some cells, but all are farther out
FEW_FEATURES = 0.5
MOST_LABELS = 20
MOST_NAMES = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapped:
    """New cells as a model sees them.

    Attributes
    ----------
    model
        The model in one line.
    latent, places
        Of the n cells, (n, K) and (n, 2).
    obs
        Their columns, with ``reference_rank`` and ``predicted_label`` where these are known.
    background
        Places of the reference's cells, (r, 2).
    features
        By modality: ``known``, ``in_the_data``, ``left_out``, and ``cells`` that measured it.
    matches
        What was matched to what, where that was asked for.
    values
        Of each modality its name, what its values mean, as which batch they are given, and on which level of
        staining, or "".
    trust
        Of `MosaicVI.imputation_accuracy`, for what the cells lack; None where nothing can tell.
    is_remembered
        Whether the model remembers it, so that it is of cells which show about what these do.
    """

    model: str
    latent: NDArray[np.float32]
    obs: pd.DataFrame
    places: NDArray[np.float32]
    background: NDArray[np.float32]
    features: pd.DataFrame
    matches: pd.DataFrame | None
    values: Sequence[tuple[str, str, str, str]] = ()
    trust: pd.DataFrame | None = None
    is_remembered: bool = False


def write_mapped(
    page: Mapped, output: Path, *, warnings: Sequence[str], command: str, overwrite: bool = False
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    page
        What it is about.
    output
        The file to be.
    warnings
        What was said while the cells were mapped.
    command
        The command that made it.
    overwrite
        Replace a file that is there.
    """
    check_output(output, overwrite=overwrite)
    words = [*findings(page), *(Finding(level="warning", title="Noticed.", text=w) for w in warnings)]
    labels = page.obs.get("predicted_label")
    counted = None
    if labels is not None:
        counted = labels.value_counts().head(MOST_LABELS).items()
    text = (
        environment()
        .get_template("mapped.html.j2")
        .render(
            title=f"{len(page.obs):,} cells on a reference",
            lead=page.model,
            css=asset("report.css"),
            findings=words,
            picture=_picture(page),
            ranks=_ranks(page),
            features=page.features.reset_index().to_dict("records"),
            matches=[] if page.matches is None else page.matches.to_dict("records"),
            labels=[] if counted is None else list(counted),
            command=command,
            trust=_believed(page),
            values=page.values,
            is_remembered=page.is_remembered,
            versions=versions_used(seed=0),
        )
    )
    with atomic_path(output, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def findings(page: Mapped) -> list[Finding]:
    """What not to trust, in plain words."""
    out = []
    rank = page.obs.get("reference_rank")
    if rank is not None:
        share, median = float((rank >= FAR).mean()), float(rank.median())
        is_shifted = median > SHIFTED
        shift = (
            " Not only some cells are far out, all are shifted: by another laboratory, kit or depth, or by "
            "features that the query lacks. Their labels and imputed values are less sure than the "
            "reference's own."
        )
        out.append(
            Finding(
                level="warning" if share > 5 * (1 - FAR) or is_shifted else "note",
                title=f"{share:.1%} of the cells lie farther out than {FAR:.0%} of the reference's own; the "
                f"middle one, of reference_rank {median:.2f}, farther than {median:.0%}.",
                text="About 1 % would, and the middle one farther than 50 %, if they were alike."
                f"{shift if is_shifted else ''} Cells with a reference_rank near 1 are of types or states, "
                "or of a technical quality, that the reference lacks: do not trust their labels and imputed "
                "values.",
            )
        )
    for name, row in page.features.iterrows():
        if row.cells and row.in_the_data < FEW_FEATURES * row.known:
            out.append(
                Finding(
                    level="warning",
                    title=f"{name}: {row.in_the_data:,} of the {row.known:,} features are in the data.",
                    text="Cells are placed by these alone. If the names are written otherwise, match them.",
                )
            )
    absent = [str(name) for name, row in page.features.iterrows() if not row.cells]
    if absent:
        out.append(
            Finding(
                level="note",
                title=f"No cell measured {', '.join(absent)}.",
                text="All their values are imputed from what the reference learnt.",
            )
        )
    if page.trust is not None:
        out += [*_of_more(page), *trust(page.trust, of="reference ")]
    untold = _untold(page)
    if untold:
        out.append(
            Finding(
                level="warning" if set(untold) & set(absent) else "note",
                title=f"Which imputed features of {', '.join(untold)} to believe is not known.",
                text="The model remembers nothing of cells that measured what these did. The data that it "
                "was trained on can tell, by hiding what these cells lack: mosaicvi map --reference REF.h5mu."
                if page.is_remembered
                else "Too few of the reference's cells measured it together with what these have.",
            )
        )
    if "predicted_none_of_these" in page.obs:
        odd = int(page.obs["predicted_none_of_these"].sum())
        if odd:
            out.append(
                Finding(
                    level="warning",
                    title=f"{odd:,} cells are unlike any labelled one.",
                    text="predicted_none_of_these marks them; doubt their label, whatever its probability.",
                )
            )
    return out


def _of_more(page: Mapped) -> list[Finding]:
    """That what to believe was asked of cells of which more is seen, if it was."""
    rows = page.features[page.features["cells"] > 0]
    fewer = [
        f"{r.in_the_data:,} of {r.known:,} of {name}"
        for name, r in rows.iterrows()
        if r.in_the_data < r.known
    ]
    if not fewer or not page.is_remembered:
        return []
    return [
        Finding(
            level="warning",
            title=f"What to believe was asked of cells with all features; these have {', '.join(fewer)}.",
            text="From fewer features less is imputed well. The data that the model was trained on can tell "
            "how much, by hiding just what these cells lack: mosaicvi map --reference REF.h5mu.",
        )
    ]


def _untold(page: Mapped) -> list[str]:
    """Modalities that cells lack, whole or in part, of which nothing says what to believe."""
    told = set() if page.trust is None else set(page.trust.loc[page.trust["lacking"] > 0, "modality"])
    some = (page.features["in_the_data"] < page.features["known"]) | (page.features["cells"] == 0)
    return [str(name) for name in page.features.index[some] if name not in told]


def _believed(page: Mapped) -> list[dict[str, Any]]:
    """The features that the cells lack, by view and by whether to believe what is imputed, best first."""
    if page.trust is None:
        return []
    rows = []
    table = page.trust[page.trust["lacking"] > 0].sort_values("score", ascending=False, kind="stable")
    for (modality, view), found in table.groupby(["modality", "view"], sort=False):
        for word in ("yes", "partly", "no"):
            names = [str(name) for name in found.loc[found["believe"] == word, "feature"]]
            more = len(names) - MOST_NAMES
            rows.append(
                {
                    "modality": modality,
                    "view": view,
                    "believe": word,
                    "n": len(names),
                    "names": ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else ""),
                }
            )
    return rows


def _picture(page: Mapped) -> str:
    """The cells on the reference, as an image inside the page."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    ax = figure.subplots()
    _dots(ax, page.background, s=3, c=MISSING, label="reference")
    labels = page.obs.get("predicted_label")
    if labels is None:
        _dots(ax, page.places, s=4, c=OKABE_ITO[0], label="query")
    else:
        for name, color in column_colors(labels.astype("category")).items():
            here = (labels == name).to_numpy()
            _dots(ax, page.places[here], s=4, color=color, label=str(name))
    ax.set_axis_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=4, fontsize=8)
    return _image(figure)


def _dots(ax: Any, places: NDArray[np.float32], **how: Any) -> None:
    ax.scatter(places[:, 0], places[:, 1], lw=0, **how)


def _ranks(page: Mapped) -> str:
    """How the cells' ranks are spread; those of cells like the reference's would be level."""
    rank = page.obs.get("reference_rank")
    if rank is None:
        return ""
    figure = Figure(figsize=(5, 2.2), layout="constrained")
    ax = figure.subplots()
    ax.hist(
        rank,
        bins=np.linspace(0, 1, 41).tolist(),
        weights=np.full(len(rank), 40 / len(rank)),
        color=OKABE_ITO[0],
    )
    ax.axhline(1, color="0.4", lw=1, ls="--")
    ax.set(xlabel="reference_rank", ylabel="cells, relative", xlim=(0, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return _image(figure)


def _image(figure: Figure) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
