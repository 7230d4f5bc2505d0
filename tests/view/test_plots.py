from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex, to_rgba
from mudata import MuData

from mosaicvi import MosaicVI, pl
from mosaicvi.data.register import register
from mosaicvi.datasets import SimulatedMosaic, simulated_mosaic
from mosaicvi.errors import InputError
from mosaicvi.inspect.describe import describe
from mosaicvi.view import points
from mosaicvi.view.curves import balance, robust_limits
from mosaicvi.view.mosaic_plot import layout_of
from mosaicvi.view.palette import FAINT, MISSING, category_colors, modality_colors
from mosaicvi.view.points import point_size


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    before = dict(mpl.rcParams)
    with mudata.set_options(pull_on_update=False):
        yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def simulated() -> SimulatedMosaic:
    return simulated_mosaic(300, n_genes=40, n_proteins=10, n_peaks=60)


@pytest.fixture
def cells() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"kind": ["a", "b", "b", "unknown"], "depth": [1.0, 2.0, np.nan, 4.0]},
        index=[f"c{i}" for i in range(4)],
    )
    return AnnData(np.ones((4, 2)), obs=obs, obsm={"X_umap": rng.normal(size=(4, 2))})


def drawn_bars(ax: plt.Axes) -> list[tuple[str, float, float, float, float]]:
    """Colour, left, right, top and bottom of each bar that is not ground."""
    out = []
    for collection in ax.collections:
        color = to_hex(collection.get_facecolor()[0]).upper()
        if color != FAINT:
            for path in collection.get_paths():
                box = path.get_extents()
                out.append((color, box.x0, box.x1, box.y0, box.y1))
    return out


def test_mosaic_draws_cells_and_panels_in_proportion(simulated: SimulatedMosaic) -> None:
    ax = pl.mosaic(simulated.mdata, batch_key="batch")
    assert [t.get_text() for t in ax.get_yticklabels()] == list("ABCDE")
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "rna\n40 features",
        "adt\n10 features",
        "atac\n60 features",
    ]
    colors = modality_colors(["rna", "adt", "atac"])
    measured = simulated.mdata.mod["rna"].varm["measured"]
    for y, batch in enumerate("ABC"):
        rna = [b for b in drawn_bars(ax) if b[0] == colors["rna"] and abs((b[3] + b[4]) / 2 - y) < 0.5]
        area = sum((right - left) * (bottom - top) for _, left, right, top, bottom in rna)
        of_batch = simulated.mdata.obs["batch"] == batch
        has = simulated.mdata.obs["group"][of_batch].str.contains("rna").mean()
        assert area == pytest.approx(0.92 * 0.86 * measured[batch].mean() * has, rel=1e-6)
    assert not [b for b in drawn_bars(ax) if b[0] == colors["rna"] and b[3] > 2.5]
    assert {t.get_text() for t in ax.texts} >= {f"{(simulated.mdata.obs['batch'] == 'A').sum():,} cells"}


def test_mosaic_of_a_registered_mosaic_and_of_a_summary_is_the_same(simulated: SimulatedMosaic) -> None:
    registered = MosaicVI.setup_mudata(simulated.mdata, batch_key="batch")
    layouts = [layout_of(registered), layout_of(describe(simulated.mdata, batch_key="batch"))]
    content = [
        {
            (
                r.batch,
                tuple((m, sum(np.array(x.segments[m])[v])) for m, v in sorted(r.measured.items())),
            ): r.n_cells
            for r in x.rows
        }
        for x in layouts
    ]
    assert content[0] == content[1]
    assert sum(content[0].values()) == simulated.mdata.n_obs
    assert "A: " in layouts[0].sentence()


def test_mosaic_of_cells_that_lack_a_modality_of_the_model(simulated: SimulatedMosaic) -> None:
    known = MosaicVI.setup_mudata(simulated.mdata, batch_key="batch").registry
    rna = simulated.mdata.mod["rna"]
    cells = simulated.mdata[rna.obs_names]
    alone = MuData({"rna": rna.copy()})
    alone.obs["batch"] = cells.obs["batch"].to_numpy()
    mosaic = register(alone, known.setup, registry=known)
    layout = layout_of(mosaic)
    assert sum(r.n_cells for r in layout.rows) == rna.n_obs
    assert {tuple(r.measured) for r in layout.rows} == {("rna",)}
    labels = [t.get_text() for t in pl.mosaic(mosaic).get_xticklabels()]
    assert "rna\n40 features" in labels


def test_mosaic_refuses_what_is_none() -> None:
    with pytest.raises(InputError, match="not list"):
        pl.mosaic([1])  # type: ignore[arg-type]


def test_embedding_draws_each_cell_in_its_colour(cells: AnnData) -> None:
    ax = pl.embedding(cells, color="kind")
    points = ax.collections[0]
    place = {
        tuple(np.round(xy, 9)): to_hex(c).upper()
        for xy, c in zip(points.get_offsets(), points.get_facecolor(), strict=True)
    }
    colors = category_colors(["a", "b"]) | {"unknown": MISSING}
    for xy, kind in zip(cells.obsm["X_umap"], cells.obs["kind"], strict=True):
        assert place[tuple(np.round(xy, 9))] == colors[kind]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "unknown"]
    assert ax.get_xlabel() == "UMAP 1"


def test_embedding_by_numbers_greys_what_is_missing(cells: AnnData) -> None:
    ax = pl.embedding(cells, color="depth")
    points = ax.collections[0]
    place = {
        tuple(np.round(xy, 9)): c for xy, c in zip(points.get_offsets(), points.get_facecolor(), strict=True)
    }
    colors = [place[tuple(np.round(xy, 9))] for xy in cells.obsm["X_umap"]]
    assert to_hex(colors[2]).upper() == MISSING
    assert to_hex(colors[0]) == to_hex(plt.get_cmap("viridis")(0.0))
    assert to_hex(colors[3]) == to_hex(plt.get_cmap("viridis")(1.0))


def test_embedding_takes_values_and_the_modalities_of_each_cell(simulated: SimulatedMosaic) -> None:
    data = MuData(dict(simulated.mdata.mod))
    data.obsm["X_umap"] = np.random.default_rng(1).normal(size=(data.n_obs, 2))
    ax = pl.embedding(data, color="modalities")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "adt",
        "atac",
        "rna",
        "rna+adt",
        "rna+atac",
    ]
    value = np.arange(data.n_obs)
    ax = pl.embedding(data, values=value, color="rank")
    assert ax.get_title(loc="left") == "rank"
    with pytest.raises(InputError, match="one per cell"):
        pl.embedding(data, values=value[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"color": "absent"},
            "no obs column 'absent', nor a feature of that name; there are 'kind',",
        ),
        ({"basis": "X_tsne"}, "no obsm 'X_tsne'; make it with mosaicvi.tl.umap"),
        ({"components": (0, 2)}, "components: obsm 'X_umap' has 2 columns"),
    ],
)
def test_embedding_names_what_is_wrong(cells: AnnData, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pl.embedding(cells, **arguments)  # type: ignore[arg-type]


def test_many_cells_become_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 30_000
    xy = np.random.default_rng(0).uniform(size=(n, 2))
    data = AnnData(
        np.zeros((n, 1)), obs={"half": np.where(xy[:, 0] < 0.5, "left", "right")}, obsm={"X_umap": xy}
    )
    assert pl.embedding(data, color="half").collections[0].get_rasterized()
    monkeypatch.setattr(points, "IMAGE_FROM", n)
    ax = pl.embedding(data, color="half")
    assert not ax.collections
    image = np.asarray(ax.images[0].get_array())
    colors = category_colors(["left", "right"])
    for half, name in ((image[:, :590], "left"), (image[:, 610:], "right")):
        painted = half[half[..., 3] > 0][:, :3]
        assert len(painted) > 1000
        assert (painted == np.round(255 * np.array(to_rgba(colors[name])[:3]))).all()


def test_points_shrink_with_their_number() -> None:
    sizes = [point_size(n) for n in (500, 5_000, 50_000, 500_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 20
    assert sizes[-1] == 0.15


def loss_table(n: int = 12) -> pd.DataFrame:
    epoch = np.arange(n)
    table = pd.DataFrame({"train_loss": 100.0 / (epoch + 1)})
    table["train_kl"], table["train_mmd"] = epoch + 1.0, 0.0
    for name, weight in (("rna", 3.0), ("adt", 1.0)):
        table[f"train_observed_{name}"] = weight * (epoch + 1.0)
        table[f"train_masked_{name}"] = weight
        table[f"train_log_prob_{name}"] = -10.0 * weight
        table[f"beta_{name}"] = weight / 4
    for column in list(table):
        if column.startswith("train_"):
            table[column.replace("train", "validation")] = table[column] * 1.5
    return table.rename_axis("epoch")


def test_history_draws_every_term_of_both_splits() -> None:
    table = loss_table()
    figure = pl.history(table)
    lines = {tuple(np.round(line.get_ydata(), 6)): line for ax in figure.axes for line in ax.lines}
    terms = [c for c in table if c.startswith(("train_", "validation_")) and not c.endswith("mmd")]
    for column in terms:
        line = lines[tuple(np.round(table[column], 6))]
        assert line.get_linestyle() == ("-" if column.startswith("train") else "--")
        assert line.get_label().split(", ")[1] == column.split("_")[0]
        assert list(line.get_xdata()) == list(range(1, 13))
    assert sum(len(ax.lines) for ax in figure.axes) == len(terms)
    stack = next(ax for ax in figure.axes if "balance" in ax.get_title(loc="left"))
    assert [t.get_text() for t in stack.get_legend().get_texts()] == [
        "rna (weight 0.75)",
        "adt (weight 0.25)",
    ]
    assert stack.collections[0].get_paths()[0].get_extents().y1 == pytest.approx(0.75)


def test_balance_is_a_share_of_the_likelihood_terms() -> None:
    assert np.allclose(balance(loss_table(), ["rna", "adt"]), [[0.75] * 12, [0.25] * 12])


def test_limits_leave_out_the_first_epochs() -> None:
    low, high = robust_limits(pd.DataFrame({"a": [1000.0, *np.linspace(2, 1, 19)]})) or (0, 0)
    assert 0.8 < low < 1
    assert 1.9 < high < 2.2
    assert robust_limits(pd.DataFrame({"a": [1000.0, 1.0]})) is None


def test_history_of_one_epoch_and_of_none() -> None:
    pl.history(loss_table(1))
    with pytest.raises(InputError, match="train the model first"):
        pl.history(pd.DataFrame())


def test_imputation_counts_every_hidden_entry() -> None:
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(rng.poisson(3, (200, 5)).astype(float), columns=list("abcde"))
    guess = truth + rng.uniform(0, 0.2, truth.shape)
    guess["e"] = rng.permutation(guess["e"])
    truth.iloc[:50, 0] = np.nan
    figure = pl.imputation(guess, truth)
    big = figure.axes[0]
    assert big.get_title(loc="left") == "950 hidden entries of 5 features"
    assert big.collections[0].get_array().sum() == 950
    single = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")[:2] in ("a ", "e ")]
    assert len(single) == 2
    worst = float(np.corrcoef(np.log1p(guess["e"]), np.log1p(truth["e"]))[0, 1])
    assert f"e  {worst:.2f}" in single


def test_imputation_of_binary_values_draws_shares() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=(300, 3)) < 0.3).astype(float)
    figure = pl.imputation(
        0.1 + 0.5 * truth + rng.uniform(0, 0.1, truth.shape), truth, features=["feature 1"]
    )
    areas = [p.get_data().values.sum() for p in figure.axes[0].patches]
    assert areas == pytest.approx([1, 1, 1, 1])
    assert "feature 1  1.00" in [ax.get_title(loc="left") for ax in figure.axes]
    with pytest.raises(InputError, match="no 'absent'"):
        pl.imputation(truth, truth, features=["absent"])
    with pytest.raises(InputError, match="two matrices"):
        pl.imputation(truth, truth[:, :2])


def test_calibration_draws_levels_in_order() -> None:
    coverage = pd.DataFrame({"rna": [0.95, 0.5], "adt": [0.8, 0.4]}, index=[0.9, 0.5])
    ax = pl.calibration(coverage)
    by_name = {line.get_label(): line for line in ax.lines}
    assert list(by_name["rna"].get_xdata()) == [0.5, 0.9]
    assert list(by_name["rna"].get_ydata()) == [0.5, 0.95]
    assert by_name["adt"].get_color() == modality_colors(["adt"])["adt"]
    with pytest.raises(InputError, match="between 0 and 1"):
        pl.calibration(pd.Series([50.0], index=[0.5]))


def test_pictures_are_drawn_where_they_are_told(cells: AnnData) -> None:
    _, ax = plt.subplots()
    assert pl.embedding(cells, ax=ax) is ax
    assert pl.calibration(pd.Series([0.5], index=[0.5]), ax=ax) is ax
    assert pl.mosaic(cells, ax=ax) is ax
    assert len(plt.get_fignums()) == 1
