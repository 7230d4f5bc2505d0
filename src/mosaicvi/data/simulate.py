"""A trimodal mosaic whose truth is known.

Cell types are the leaves of a binary tree. A cell's state ``z`` (its type's programmes, how far it has
gone along its type's branch, and noise) drives RNA, protein and accessibility alike: every protein
and every peak follows a gene. Batches measure different modalities and different panels of features.

Shapes: n cells, k programmes, d features of a modality, b batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mudata
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mosaicvi.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MODALITIES = ("rna", "adt", "atac")
BATCHES = ("A", "B", "C", "D", "E")
N_PROGRAMMES = 8
# Mean counts per feature and cell; they set the sparsity: RNA 85–93 % zeros, ATAC about 97 %.
RNA_PER_GENE = 0.19
ATAC_PER_PEAK = 0.034
ADT_SIGNAL = 6.0
ADT_BACKGROUND = 3.0
# Whatever the number of features, no cell should come out empty.
SMALLEST_LIBRARY = 40.0


@dataclass(frozen=True, kw_only=True)
class SimulatedMosaic:
    """What was measured, and what would have been.

    Attributes
    ----------
    mdata
        The mosaic. Each modality holds the cells that measured it, all its features, whole counts (CSR,
        float32), and ``varm["measured"]``: features × batches, which batch's panel has the feature.
        Outside its panel a value is 0 and not measured. ``obs``: ``batch``, ``group`` (the modalities
        that the cell measured, joined by ``+``), ``cell_type``.
    truth
        All cells, in the order of ``mdata``, in all modalities, with all features. ``X``: the counts,
        equal to those of ``mdata`` wherever ``mdata`` measured; ``layers["expected"]``: their expected
        values (dense float32), given the cell's state, library and batch; ``obsm["state"]``: the state,
        n × k.
    """

    mdata: MuData
    truth: MuData


def simulated_mosaic(
    n_cells: int = 2000,
    *,
    n_genes: int = 400,
    n_proteins: int = 30,
    n_peaks: int = 1500,
    n_types: int = 8,
    n_chromosomes: int = 6,
    paired: float = 0.6,
    panel_overlap: float = 0.6,
    batch_effect: float = 0.3,
    seed: int = 0,
) -> SimulatedMosaic:
    """Simulate a mosaic of RNA, surface proteins and chromatin accessibility, and its truth.

    Batch A measures RNA and proteins, B RNA and accessibility (some of its cells only one of them),
    C RNA, D proteins, E accessibility. A has one gene panel, B and C another; D has part of the proteins.

    Parameters
    ----------
    n_cells
        Cells over all batches, at least 50.
    n_genes, n_proteins, n_peaks
        Features per modality, over all panels; at least 20 genes, 4 proteins and 20 peaks.
    n_types
        Cell types, the leaves of the tree.
    n_chromosomes
        Chromosomes the peaks lie on; the earlier ones hold more.
    paired
        Share of batch B's cells that measured both RNA and accessibility; half of the others measured each.
    panel_overlap
        Share of the genes that are in both gene panels, and of the proteins that D measures; 1 for no panels.
    batch_effect
        Standard deviation of the logarithm of each batch's factor on each gene and protein.
    seed
        The same arguments and seed give the same values; no global random state is read or changed.

    Returns
    -------
    The mosaic and its truth.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    check_whole(n_cells=(n_cells, 50), n_genes=(n_genes, 20), n_proteins=(n_proteins, 4))
    check_whole(n_peaks=(n_peaks, 20), n_types=(n_types, 1), n_chromosomes=(n_chromosomes, 1), seed=(seed, 0))
    if n_chromosomes > n_peaks:
        raise InputError(f"n_chromosomes is {n_chromosomes}, more than the {n_peaks} peaks; give fewer")
    if n_types > n_cells:
        raise InputError(f"n_types is {n_types}, more than the {n_cells} cells; give fewer")
    _check_shares(paired, panel_overlap, batch_effect)
    rng = np.random.default_rng(seed)
    sizes = {"rna": n_genes, "adt": n_proteins, "atac": n_peaks}
    batch_n, has_n = _patterns(n_cells, paired)
    type_n = _types(batch_n, n_types, rng)
    state_nk = _states(type_n, n_types, rng)
    loadings = _loadings(sizes, rng)
    names = {
        "rna": [f"gene{i + 1:04d}" for i in range(n_genes)],
        "adt": [f"protein{i + 1:03d}" for i in range(n_proteins)],
        "atac": _peak_names(n_peaks, n_chromosomes, rng),
    }
    expected = {
        "rna": _expected_rna(state_nk, loadings["rna"], batch_n, batch_effect, rng),
        "adt": _expected_adt(state_nk, loadings["adt"], batch_n, batch_effect, rng),
        "atac": _expected_atac(state_nk, loadings["atac"], batch_n, rng),
    }
    overdispersion = {"rna": 0.2, "adt": 0.1, "atac": 0.0}
    counts = {m: _draw(expected[m], overdispersion[m], rng) for m in MODALITIES}
    panels = _panels(sizes, panel_overlap, rng)
    obs = _obs(batch_n, has_n, type_n)
    truth = _truth(obs, names, counts, expected, state_nk)
    return SimulatedMosaic(mdata=_seen(obs, names, counts, batch_n, has_n, panels), truth=truth)


def check_whole(**lowest: tuple[object, int]) -> None:
    """Raise for each name=(value, lowest) whose value is no whole number or below its lowest."""
    problems = [
        f"{name} is {value!r}; give a whole number, at least {low}"
        for name, (value, low) in lowest.items()
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low
    ]
    if problems:
        raise InputError(problems)


def _check_shares(paired: float, panel_overlap: float, batch_effect: float) -> None:
    problems = []
    if not 0 <= paired <= 1:
        problems.append(f"paired is {paired!r}; give a share of cells between 0 and 1")
    if not 0 < panel_overlap <= 1:
        problems.append(f"panel_overlap is {panel_overlap!r}; give a share of features above 0 and up to 1")
    if not 0 <= batch_effect < np.inf:
        problems.append(f"batch_effect is {batch_effect!r}; give a standard deviation, 0 or more")
    if problems:
        raise InputError(problems)


def _patterns(n_cells: int, paired: float) -> tuple[Ints, dict[str, Bools]]:
    """Batch of each cell (its index), and which modalities it measured."""
    layout = [
        (0, ("rna", "adt"), 0.30),
        (1, ("rna", "atac"), 0.30 * paired),
        (1, ("rna",), 0.15 * (1 - paired)),
        (1, ("atac",), 0.15 * (1 - paired)),
        (2, ("rna",), 0.15),
        (3, ("adt",), 0.125),
        (4, ("atac",), 0.125),
    ]
    ends = np.rint(np.cumsum([share for _, _, share in layout]) * n_cells).astype(np.int64)
    batch_n, has_n = np.zeros(n_cells, np.int64), {m: np.zeros(n_cells, np.bool_) for m in MODALITIES}
    for (batch, modalities, _), start, end in zip(layout, [0, *ends[:-1]], ends, strict=True):
        batch_n[start:end] = batch
        for m in modalities:
            has_n[m][start:end] = True
    return batch_n, has_n


def _types(batch_n: Ints, n_types: int, rng: np.random.Generator) -> Ints:
    """Type of each cell: some types are rarer, and batches differ a little in composition."""
    overall = rng.dirichlet(np.full(n_types, 10.0))
    type_n = np.zeros(len(batch_n), np.int64)
    for batch in range(len(BATCHES)):
        here = np.flatnonzero(batch_n == batch)
        type_n[here] = rng.choice(n_types, len(here), p=rng.dirichlet(60.0 * overall))
    return type_n


def _states(type_n: Ints, n_types: int, rng: np.random.Generator) -> Floats:
    """State of each cell: its leaf of the tree, a way along the leaf's own branch, and noise."""
    leaf_tk = np.zeros((n_types, N_PROGRAMMES))
    branch_tk = rng.normal(size=(n_types, N_PROGRAMMES))

    def grow(first: int, last: int, at_k: Floats, step: float) -> None:
        leaf_tk[first:last] = at_k
        if last - first < 2:
            return
        middle = (first + last + 1) // 2
        for low, high in ((first, middle), (middle, last)):
            drift_k = step * rng.normal(size=N_PROGRAMMES)
            branch_tk[low:high] = drift_k
            grow(low, high, at_k + drift_k, 0.85 * step)

    grow(0, n_types, np.zeros(N_PROGRAMMES), 1.0)
    along_n1 = rng.uniform(-0.4, 0.4, size=(len(type_n), 1))
    noise_nk = 0.15 * rng.normal(size=(len(type_n), N_PROGRAMMES))
    return leaf_tk[type_n] + along_n1 * branch_tk[type_n] + noise_nk


def _loadings(sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Floats]:
    """Effects of programmes on features, k × d. A protein and a peak follow a gene, not exactly."""
    shape = (N_PROGRAMMES, sizes["rna"])
    rna_kd = 0.45 * rng.normal(size=shape) * (rng.random(shape) < 0.5)

    def follow(d: int, noise: float) -> Floats:
        gene_d = rng.permutation(np.arange(d) % sizes["rna"])
        return rna_kd[:, gene_d] + noise * rng.normal(size=(N_PROGRAMMES, d))

    return {"rna": rna_kd, "adt": follow(sizes["adt"], 0.1), "atac": follow(sizes["atac"], 0.15)}


def _libraries(batch_n: Ints, median: float, spread: float, rng: np.random.Generator) -> Floats:
    """Log-normal libraries around a depth that differs between batches, n × 1."""
    depth_b = np.exp(rng.uniform(-0.2, 0.2, len(BATCHES)))
    lib_n = max(median, SMALLEST_LIBRARY) * depth_b[batch_n] * np.exp(spread * rng.normal(size=len(batch_n)))
    return np.asarray(lib_n[:, None])


def _shares(log_nd: Floats) -> Floats:
    """Softmax over features."""
    e_nd = np.exp(log_nd - log_nd.max(1, keepdims=True))
    return np.asarray(e_nd / e_nd.sum(1, keepdims=True))


def _expected_rna(
    state_nk: Floats, loading_kd: Floats, batch_n: Ints, effect: float, rng: np.random.Generator
) -> Floats:
    d = loading_kd.shape[1]
    base_d = rng.normal(0, 1.0, d)
    batch_bd = effect * rng.normal(size=(len(BATCHES), d))
    share_nd = _shares(base_d + state_nk @ loading_kd + batch_bd[batch_n])
    return np.asarray(_libraries(batch_n, RNA_PER_GENE * d, 0.35, rng) * share_nd)


def _expected_adt(
    state_nk: Floats, loading_kd: Floats, batch_n: Ints, effect: float, rng: np.random.Generator
) -> Floats:
    """Bound antibody plus ambient: a background of its own size in each protein, batch and cell."""
    n, d = len(batch_n), loading_kd.shape[1]
    base_d = rng.normal(0, 0.7, d)
    factor_bd = np.exp(effect * rng.normal(size=(len(BATCHES), d)))
    bound_nd = ADT_SIGNAL * np.exp(np.minimum(base_d + state_nk @ loading_kd, 4.0))
    ambient_bd = ADT_BACKGROUND * np.exp(rng.normal(0, 0.5, d) + rng.normal(0, 0.3, size=(len(BATCHES), 1)))
    ambient_nd = ambient_bd[batch_n] * np.exp(0.3 * rng.normal(size=(n, 1)))
    size_n1 = _libraries(batch_n, SMALLEST_LIBRARY, 0.3, rng) / SMALLEST_LIBRARY
    return np.asarray(size_n1 * factor_bd[batch_n] * (bound_nd + ambient_nd))


def _expected_atac(state_nk: Floats, loading_kd: Floats, batch_n: Ints, rng: np.random.Generator) -> Floats:
    d = loading_kd.shape[1]
    share_nd = _shares(rng.normal(0, 0.6, d) + state_nk @ loading_kd)
    return np.asarray(_libraries(batch_n, ATAC_PER_PEAK * d, 0.35, rng) * share_nd)


def _draw(expected_nd: Floats, overdispersion: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Whole counts: negative binomial with variance mean + overdispersion · mean², or Poisson."""
    rate_nd = expected_nd
    if overdispersion > 0:
        rate_nd = expected_nd * rng.gamma(1 / overdispersion, overdispersion, expected_nd.shape)
    return sp.csr_matrix(rng.poisson(rate_nd).astype(np.float32))


def _peak_names(n_peaks: int, n_chromosomes: int, rng: np.random.Generator) -> list[str]:
    """Peaks of 500 bp at random gaps; chromosome c holds a share ∝ 1 / (c + 1), at least one peak."""
    share_c = 1 / np.arange(2, n_chromosomes + 2)
    spare = n_peaks - n_chromosomes
    ends = np.rint(np.cumsum(share_c) / share_c.sum() * spare).astype(np.int64)
    names = []
    for c, count in enumerate(1 + np.diff(ends, prepend=0)):
        starts = 1000 + np.cumsum(np.concatenate([[0], 1000 + 100 * rng.integers(0, 90, count - 1)]))
        names += [f"chr{c + 1}:{start}-{start + 500}" for start in starts]
    return names


def _panels(sizes: Mapping[str, int], overlap: float, rng: np.random.Generator) -> dict[str, Bools]:
    """Which batch's panel has which feature, d × b; False where the batch lacks the modality."""
    panels = {m: np.zeros((sizes[m], len(BATCHES)), np.bool_) for m in MODALITIES}
    order = rng.permutation(sizes["rna"])
    shared = max(1, round(overlap * len(order)))
    own = shared + (len(order) - shared) // 2
    panels["rna"][order[:own], 0] = True
    for b in (1, 2):
        panels["rna"][order[:shared], b] = True
        panels["rna"][order[own:], b] = True
    panels["adt"][:, 0] = True
    panels["adt"][rng.permutation(sizes["adt"])[: max(1, round(overlap * sizes["adt"]))], 3] = True
    panels["atac"][:, [1, 4]] = True
    return panels


def _obs(batch_n: Ints, has_n: Mapping[str, Bools], type_n: Ints) -> pd.DataFrame:
    columns: dict[str, list[str]] = {
        "batch": [BATCHES[b] for b in batch_n],
        "group": ["+".join(m for m in MODALITIES if has_n[m][i]) for i in range(len(batch_n))],
        "cell_type": [f"type{t + 1:02d}" for t in type_n],
    }
    index = pd.Index([f"cell{i + 1:06d}" for i in range(len(batch_n))])
    return pd.DataFrame({key: pd.Categorical(value) for key, value in columns.items()}, index=index)


def _join(parts: dict[str, AnnData], obs: pd.DataFrame) -> MuData:
    """MuData with the cells in the order of obs, and no column pulled up from its modalities."""
    with mudata.set_options(pull_on_update=False):
        joined = MuData(parts)
        if not joined.obs_names.equals(obs.index):
            joined = joined[obs.index].copy()
        for column in obs:
            joined.obs[column] = obs[column]
    return joined


def _seen(
    obs: pd.DataFrame,
    names: Mapping[str, list[str]],
    counts: Mapping[str, sp.csr_matrix],
    batch_n: Ints,
    has_n: Mapping[str, Bools],
    panels: Mapping[str, Bools],
) -> MuData:
    parts = {}
    for m in MODALITIES:
        x_nd = counts[m][has_n[m]].multiply(panels[m].T[batch_n[has_n[m]]]).tocsr().astype(np.float32)
        x_nd.eliminate_zeros()
        part = AnnData(x_nd, obs=pd.DataFrame(index=obs.index[has_n[m]]), var=pd.DataFrame(index=names[m]))
        part.varm["measured"] = pd.DataFrame(panels[m], index=part.var_names, columns=list(BATCHES))
        parts[m] = part
    return _join(parts, obs)


def _truth(
    obs: pd.DataFrame,
    names: Mapping[str, list[str]],
    counts: Mapping[str, sp.csr_matrix],
    expected: Mapping[str, Floats],
    state_nk: Floats,
) -> MuData:
    parts = {}
    for m in MODALITIES:
        part = AnnData(counts[m], obs=pd.DataFrame(index=obs.index), var=pd.DataFrame(index=names[m]))
        part.layers["expected"] = expected[m].astype(np.float32)
        parts[m] = part
    truth = _join(parts, obs)
    truth.obsm["state"] = state_nk
    return truth
