"""The call sequences of the published tutorials and of the R wrapper, beside `MosaicVI` itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from tests.builders import mudata_of
from tests.scvaeit.simulated import dogma_cite_asap, log1p_cp10k, peptides

import mosaicvi.scvaeit as scVAEIT
from mosaicvi import InputError, MosaicVI, Schedule
from mosaicvi.fit.statistics import settle
from mosaicvi.scvaeit import VAEIT

pytestmark = pytest.mark.filterwarnings("ignore:Modality")


def with_nan(
    data: np.ndarray, sizes: dict[str, int], blocks: dict[str, list[str]], obs: dict[str, Any]
) -> MuData:
    """The same values as a user of `MosaicVI` would have them: NaN is missing."""
    frame = pd.DataFrame(obs, index=[f"cell {i}" for i in range(len(data))])
    mods, at = {}, 0
    for name, size in sizes.items():
        x = data[:, at : at + size].astype(np.float32)
        rows = ~np.isnan(x).all(1)
        var = pd.DataFrame({"block": blocks[name]}, index=[f"{name} {j}" for j in range(size)])
        mods[name] = AnnData(x[rows], obs=frame[rows][[]], var=var)
        at += size
    return mudata_of(mods, frame)


def direct(mdata: MuData, likelihoods: dict[str, Any], epochs: int, batch_size: int, **how: Any) -> MosaicVI:
    """The same model, trained by its own names."""
    setup = {k: how.pop(k) for k in list(how) if k.endswith("_keys")}
    MosaicVI.setup_mudata(
        mdata,
        likelihoods=likelihoods,
        transforms=dict.fromkeys(likelihoods, "none"),
        block_keys=dict.fromkeys(likelihoods, "block"),
        **setup,
    )
    model = MosaicVI(mdata, preset="published", **how)
    model.train(
        epochs, batch_size=batch_size, lr=3e-4, lr_schedule="constant", train_size=1.0, progress=False
    )
    settle(model.net, model.mosaic, batch_size=batch_size, seed=0)
    return model


@pytest.fixture(autouse=True, scope="module")
def missing_is_nan() -> Iterator[None]:
    """Missing as in `with_nan`: with panels sums run in another order, and the last digits differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaicvi.data.read.masked.MOST_PANELS", 0)
        yield


def same(model: VAEIT, other: MosaicVI) -> None:
    """Whether both trained, and answer, alike."""
    np.testing.assert_allclose(model.hist["train"]["total"], other.history["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(model.get_latent_z(), other.get_latent_representation(), rtol=1e-5, atol=1e-5)
    theirs = [other.get_imputed_values(modality=m, n_samples=7) for m in other.config.uni_block_names]
    np.testing.assert_allclose(model.get_denoised_data(L=7), np.hstack(theirs), rtol=1e-5, atol=1e-5)


def test_one_modality_with_a_tenth_of_the_entries_held_back() -> None:
    f = dogma_cite_asap()
    data, masks = log1p_cp10k(f.Y)[30:], np.zeros((60, 6), np.float32)
    masks[:30, 2], masks[30:, 4] = -1, -1
    config = {
        "dim_input_arr": np.array([6]), "dim_block": np.array([6]), "dist_block": ["NB"],
        "dim_block_enc": np.array([8]), "dim_block_dec": np.array([8]), "dim_block_embed": np.array([4]),
        "dimensions": [8], "dim_latent": 3, "beta_unobs": 0.9, "p_feat": 0.5,
    }  # fmt: skip
    model = VAEIT(config, data * (masks != -1), masks, None, f.batches[30:], None)
    hist = model.train(num_epoch=3, batch_size=20, save_every_epoch=50, verbose=False)
    assert set(hist) == {"train"}
    assert set(hist["train"]) == {"total", "obs_0", "unobs_0", "kl", "mmd"}
    assert [len(term) for term in hist["train"].values()] == [3] * 5
    denoised = model.get_denoised_data()
    assert denoised.shape == data.shape
    assert denoised.dtype == np.float64
    mdata = with_nan(
        np.where(masks == -1, np.nan, data),
        {"M-0": 6},
        {"M-0": ["0"] * 6},
        dict(zip("ab", f.batches[30:].T, strict=True)),
    )
    widths = {k: 8 for k in ("dim_block_enc", "dim_block_dec", "dimensions")}
    same(model, direct(mdata, {"M-0": "NB"}, 3, 20, categorical_covariate_keys=["a", "b"],
                       beta_unobs=0.9, p_feat=0.5, dim_block_embed=4, dim_latent=3, **widths))  # fmt: skip


def test_two_modalities_with_a_fifth_of_the_entries_held_back() -> None:
    f, rng = dogma_cite_asap(), np.random.default_rng(1)
    data = np.c_[log1p_cp10k(f.X), log1p_cp10k(f.Y)][30:]
    masks = np.zeros_like(data)
    masks[30:, :14] = -1
    masks[rng.random(masks.shape) < 0.2] = -1
    config = {
        "dim_input_arr": np.array([14, 6]), "dim_block": np.array([14, 6]), "dist_block": ["NB", "NB"],
        "dim_block_enc": np.array([8, 6]), "dim_block_dec": np.array([8, 6]),
        "dim_block_embed": np.array([4, 3]), "dimensions": [8], "dim_latent": 3, "beta_unobs": 0.9,
        "beta_modal": np.array([0.05, 0.95]), "p_feat": 0.5,
    }  # fmt: skip
    model = VAEIT(config, data * (masks != -1), masks, None, f.batches[30:], None)
    hist = model.train(num_epoch=2, batch_size=20, verbose=False)
    assert {"obs_0", "obs_1", "unobs_0", "unobs_1"} < set(hist["train"])
    mdata = with_nan(
        np.where(masks == -1, np.nan, data),
        {"M-0": 14, "M-1": 6},
        {"M-0": ["0"] * 14, "M-1": ["1"] * 6},
        dict(zip("ab", f.batches[30:].T, strict=True)),
    )
    settings = {k: v for k, v in config.items() if k not in ("dim_input_arr", "dim_block", "dist_block")}
    same(
        model,
        direct(mdata, {"M-0": "NB", "M-1": "NB"}, 2, 20, categorical_covariate_keys=["a", "b"], **settings),
    )


class Trimodal(SimpleNamespace):
    """What the tutorial of three modalities prepares."""

    def __init__(self) -> None:
        f = dogma_cite_asap()
        g, p, a = f.X.shape[1], f.Y.shape[1], f.Z.shape[1]
        masks = -np.ones((3, g + p + a), np.float32)
        masks[0] = 0
        masks[1, np.r_[f.id_X_cite, g : g + p]] = 0
        masks[2, np.r_[g : g + p, f.id_Z_asap + g + p]] = 0
        n = len(f.chunk_atac)
        super().__init__(
            f=f,
            data=np.c_[log1p_cp10k(f.X), log1p_cp10k(f.Y), f.Z],
            masks=masks,
            ids=f.batches[:, -1],
            config={
                "dim_input_arr": np.array([g, p, a]),
                "dim_block": np.append([g, p], f.chunk_atac),
                "dist_block": ["NB", "NB"] + ["Bernoulli"] * n,
                "dim_block_enc": np.array([8, 6] + [3] * n),
                "dim_block_dec": np.array([8, 6] + [3] * n),
                "block_names": np.array(["rna", "adt"] + ["atac"] * n),
                "uni_block_names": np.array(["rna", "adt", "atac"]),
                "dim_block_embed": np.array([4, 3] + [1] * n) * 2,
                "dimensions": [10],
                "dim_latent": 4,
                "beta_unobs": 2.0 / 3.0,
                "beta_modal": np.array([0.14, 0.85, 0.01]),
                "p_feat": 0.2,
                "p_modal": np.ones(3) / 3,
                "gamma": lambda epoch: 2 * 0.8 ** (epoch / 50),
            },
        )

    def model(self, **changes: Any) -> VAEIT:
        return VAEIT(self.config | changes, self.data, self.masks, self.ids, self.f.batches, None, self.ids)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Three modalities, trained for 3 epochs and gone on with to the fifth, as the tutorial does."""
    t, folder = Trimodal(), tmp_path_factory.mktemp("work") / "result" / "3" / "checkpoint"
    model = t.model()
    first = model.train(num_epoch=3, batch_size=30, save_every_epoch=2, verbose=False, checkpoint_dir=folder)
    again = model.train(init_epoch=4, num_epoch=5, batch_size=30, save_every_epoch=50, checkpoint_dir=folder)
    return SimpleNamespace(t=t, model=model, first=first, again=again, folder=folder)


def test_three_modalities_beside_direct_use(three: SimpleNamespace) -> None:
    t = three.t
    data = np.where(t.masks[t.ids.astype(int)] == -1, np.nan, t.data)
    peaks = np.repeat(["2", "3", "4"], t.f.chunk_atac).tolist()
    blocks = {"rna": ["0"] * 14, "adt": ["1"] * 6, "atac": peaks}
    obs = dict(zip("ab", t.f.batches.T, strict=True)) | {"dataset": t.ids}
    mdata = with_nan(data, {"rna": 14, "adt": 6, "atac": 12}, blocks, obs)
    skip = ("dim_input_arr", "dim_block", "dist_block", "block_names", "uni_block_names", "gamma")
    settings = {k: v for k, v in t.config.items() if k not in skip}
    gamma = Schedule(start=2 * 0.8 ** (1 / 50), decay=0.8 ** (1 / 50))
    likelihoods = {"rna": "NB", "adt": "NB", "atac": "Bernoulli"}
    other = direct(mdata, likelihoods, 5, 30, categorical_covariate_keys=["a", "b"],
                   condition_keys=["dataset"], gamma=gamma, **settings)  # fmt: skip
    np.testing.assert_allclose(three.again["train"]["total"], other.history["train_loss"], rtol=1e-5)
    assert three.first["train"]["total"] == three.again["train"]["total"][:3]
    np.testing.assert_allclose(
        three.model.model.history["gamma"], [t.config["gamma"](e) for e in range(1, 6)]
    )
    assert three.again["train"]["mmd"][0] > 0
    assert [len(three.first["train"][k]) for k in ("obs_2", "unobs_2", "kl")] == [3, 3, 3]
    assert three.model.hist is three.again
    same(three.model, other)


def test_a_saved_model_is_read_again(three: SimpleNamespace, tmp_path: Path) -> None:
    fresh = three.t.model()
    fresh.load_model(f"{three.folder}/")
    np.testing.assert_array_equal(fresh.get_latent_z(), three.model.get_latent_z())
    fresh.save_model(tmp_path / "weights")
    fresh.reset()
    with pytest.warns(match="not trained"):
        assert not np.allclose(fresh.get_latent_z(), three.model.get_latent_z())
    fresh.load_model(tmp_path / "weights")
    np.testing.assert_array_equal(fresh.get_latent_z(), three.model.get_latent_z())


def test_latent_and_pictures(three: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(
        "mosaicvi.view.umap.layout", lambda z, *, n_neighbors, **_: (z[:, :2] + n_neighbors, "UMAP")
    )
    model, f = three.model, three.t.f
    model.update_z(n_neighbors=7)
    assert model.z.shape == (90, 4)
    assert model.z.dtype == np.float64
    model.adata.obs["Dataset"] = pd.Categorical(f.batches[:, -1])
    model.adata.obs["Cell Types"] = f.cell_types
    np.testing.assert_array_equal(model.adata.obsm["X_VAE"], model.get_latent_z())
    axes = model.visualize_latent(method="UMAP", color=["Dataset", "Cell Types"], show=False)
    assert [ax.get_title("left") for ax in axes] == ["Dataset", "Cell Types"]
    np.testing.assert_array_equal(model.adata.obsm["X_umap"], model.z[:, :2] + 7)
    one = model.visualize_latent(method="PCA", color="Dataset")
    assert one.xaxis.get_label_text() == "PC 1"
    centred = model.z - model.z.mean(0)
    variance = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1][:2]
    np.testing.assert_allclose((model.adata.obsm["X_pca"] ** 2).sum(0), variance, rtol=1e-4)
    assert model.vae.config.dim_input_arr[0] == 14
    how = {"palette": {"B": "red", "T": "blue"}, "size": 7, "title": "kinds", "frameon": False}
    drawn = model.visualize_latent(color=["Cell Types"], **how)
    assert (drawn.get_title("left"), drawn.axison, drawn.collections[0].get_sizes()[0]) == ("kinds", False, 7)
    assert [h.get_color() for h in drawn.get_legend().legend_handles] == ["#ff0000", "#0000ff"]
    with pytest.raises(InputError, match=r"method: 'UMAP' or 'PCA', not 'TSNE'.*scanpy"):
        model.visualize_latent(method="TSNE")
    with pytest.raises(InputError, match="'palete'; did you mean 'palette'"):
        model.visualize_latent(palete="tab10")
    plt.close("all")


@pytest.mark.parametrize("from_r", [False, True])
def test_peptides_with_covariates_and_a_skip_connection(from_r: bool) -> None:
    raw = peptides()
    n = len(raw)
    label = np.random.default_rng(2).permutation(np.repeat(["case", "control"], n // 2))
    depth = np.log((~np.isnan(raw)).sum(1))
    data, masks = np.nan_to_num(raw), -np.isnan(raw).astype(np.int32)
    config = {
        "dimensions": [6], "dim_latent": 3, "dim_block_enc": [8], "dim_block_dec": [8],
        "dist_block": ["Gaussian"], "dim_block_embed": 5, "beta_unobs": 0.5, "p_feat": 0.2,
        "beta_reverse": 0.2, "skip_conn": True,
    }  # fmt: skip
    if from_r:  # whole numbers as doubles, vectors of one as scalars, NULL as None
        config |= {"dimensions": 6.0, "dim_latent": 3, "dim_block_enc": 8.0, "dim_block_dec": 8.0,
                   "dist_block": "Gaussian", "dim_block_embed": 5, "dim_input_arr": None, "dim_block": None,
                   "block_names": None, "uni_block_names": None, "beta_modal": None,
                   "p_modal": None}  # fmt: skip
    scVAEIT.reset_random_seeds(0)
    model = VAEIT(config, data, masks, None, label[:, None], depth[:, None], None)
    if from_r:
        model.train(num_epoch=2, num_repeat=2.0, batch_size=20.0, checkpoint_dir=None, save_every_epoch=None,
                    verbose=False)  # fmt: skip
        doubled = model.hist["train"]["total"]
        assert len(doubled) == 2
        np.testing.assert_allclose(
            doubled, model.model.history["train_loss"].to_numpy().reshape(2, 2).mean(1)
        )
        model.hist["train"]["total"] = model.model.history["train_loss"].tolist()
    else:
        model.train(num_epoch=4, batch_size=20)
    samples = model.get_denoised_data(return_mean=False, L=3.0, batch_size_inference=512.0)
    assert samples.shape == (n, 3, 20)
    assert (samples.std(1) > 0).mean() > 0.9  # but where a mean is at its bound
    mdata = with_nan(raw, {"M-0": 20}, {"M-0": ["0"] * 20}, {"label": label, "depth": depth})
    settings = {k: v for k, v in config.items() if v is not None and k != "dist_block"}
    same(model, direct(mdata, {"M-0": "Gaussian"}, 4, 20, categorical_covariate_keys=["label"],
                       continuous_covariate_keys=["depth"], **settings))  # fmt: skip


def test_denoising_of_one_rna_dataset_without_covariates(tmp_path: Path) -> None:
    f, rng = dogma_cite_asap(n=25), np.random.default_rng(3)
    complete = log1p_cp10k(f.X)
    hidden = rng.random(complete.shape) < 0.3
    raw = np.where(hidden, np.nan, complete)
    data, masks = np.nan_to_num(raw), -np.isnan(raw).astype(int)
    config = {"dimensions": 8.0, "dim_latent": 3, "dim_block_enc": 8.0, "dim_block_dec": 8.0,
              "dist_block": ["NB"], "dim_block_embed": 6, "beta_unobs": 0.9, "p_feat": 0.5}  # fmt: skip
    model = VAEIT(config, data, masks)
    hist = model.train(num_epoch=2, verbose=False)
    model.save_model(tmp_path / "r_checkpoint")
    imputed = model.get_denoised_data(return_mean=True)
    blend = np.where(masks != 0, imputed, data)
    assert len(hist["train"]["total"]) == 2
    assert np.isfinite(blend).all()
    assert (imputed >= 0).all()
    mdata = with_nan(raw, {"M-0": 14}, {"M-0": ["0"] * 14}, {})
    settings = {k: v for k, v in config.items() if k != "dist_block"}
    same(model, direct(mdata, {"M-0": "NB"}, 2, 75, **settings))


def test_panels_and_nan_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    t = Trimodal()
    nan = t.model()
    monkeypatch.setattr("mosaicvi.data.read.masked.MOST_PANELS", 64)
    panels = t.model()
    entry = [[m.entry_measured is None for m in one.model.mosaic.modalities] for one in (panels, nan)]
    assert entry == [[True] * 3, [False, True, False]]  # all proteins were measured everywhere
    losses = [one.train(num_epoch=2, batch_size=30)["train"]["total"] for one in (panels, nan)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(panels.get_latent_z(), nan.get_latent_z(), atol=0.02)
