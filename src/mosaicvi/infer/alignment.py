"""The latent with its groups aligned: cells of a kind lie together, whatever their batch and modalities.

A group is the cells of one batch of which the same can be seen. Within a cluster of the latent, groups differ
in their mean, because of the laboratory, and in how widely they are spread, because one modality says more
of a cell than another. Each group is moved and stretched so that both agree: means cluster by cluster, as
Harmony does (Korsunsky et al., Nature Methods 2019), covariances within clusters as correlation alignment
does for two domains (Sun, Feng and Saenko, AAAI 2016). Nothing makes a cluster hold every group: cells of a
type that a batch lacks stay where they are, and groups whose means in a cluster lie further apart than its
cells are not moved together.

Legend: n cells, K latent, C clusters, G groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from mosaicvi.config import NetworkConfig
from mosaicvi.data.blocks import distinct_rows
from mosaicvi.data.loader import MinibatchLoader
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.infer.latent import latent
from mosaicvi.infer.readout.views import Shown, shown_of_cells
from mosaicvi.nn.vae import MosaicVAE
from mosaicvi.store.parts import fitting_the_network, need

Floats = NDArray[np.floating[Any]]
N_STEPS = 2
MOST_CLUSTERS, CELLS_OF_A_CLUSTER = 40, 10
FEWEST_OF_GROUP, FEWEST_IN_CLUSTER = 50, 10
MOST_CELLS = 20_000  # from which clusters and groups are learnt
FURTHEST, FADE = 1.25, 0.1  # of two means, in spreads of their cells: so far apart they count as the same
RIDGE = 0.05  # of the mean variance, added to each covariance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One correction of a group: its mean in each cluster is moved, and what differs from it is stretched.

    Attributes
    ----------
    centres, width
        Centres of the clusters, (C, K), and the squared distance at which membership fades.
    mean, shift
        Mean of each group in each cluster, and where it goes, (G, C, K) each.
    stretch
        Of the differences from the mean, (G, K, K).
    """

    centres: Floats
    width: float
    mean: Floats
    shift: Floats
    stretch: Floats

    def __call__(self, z: Floats, g: int) -> Floats:
        """Latent (n, K) of cells of group g, corrected."""
        member = membership(z, self.centres, self.width)
        rest = z - member @ self.mean[g]
        return np.asarray(member @ (self.mean[g] + self.shift[g]) + rest @ self.stretch[g])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """Corrections of all groups.

    Attributes
    ----------
    groups
        Position of the batch, and what is shown, of each group.
    steps
        Corrections, one after the other.
    """

    groups: tuple[tuple[int, Shown], ...]
    steps: tuple[Step, ...]

    def __call__(
        self,
        z: Floats,
        var: Floats,
        batch: NDArray[np.int64],
        code: NDArray[np.int64],
        views: Sequence[Shown],
    ) -> tuple[Floats, Floats]:
        """Aligned latent: mean and variance, (n, K) each.

        A cell of a group that is not known, such as one of a new batch, is corrected by the mean of the
        groups of which the same is shown; where there is none it stays.

        Parameters
        ----------
        z, var
            Mean and variance of the latent, (n, K).
        batch
            Position of the batch, (n,).
        code, views
            What is shown of each cell, as a position (n,) among the views.
        """
        mean, spread = z.copy(), var.copy()
        pairs, pair = distinct_rows(np.stack([batch, code], 1))
        for i, (b, v) in enumerate(pairs.tolist()):
            some = np.flatnonzero(pair == i)
            known = [g for g, (_, shown) in enumerate(self.groups) if shown == views[v]]
            own = [g for g in known if self.groups[g][0] == b]
            found = [self._of_group(z[some], var[some], g) for g in own or known]
            if found:
                mean[some] = np.mean([one for one, _ in found], 0)
                spread[some] = np.mean([one for _, one in found], 0)
        return mean, spread

    def _of_group(self, z: Floats, var: Floats, g: int) -> tuple[Floats, Floats]:
        for step in self.steps:
            z, var = step(z, g), var @ step.stretch[g] ** 2
        return z, var

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `read_alignment` reads it back."""
        return {
            "groups": [
                {"batch": b, "shown": {k: v.copy() for k, v in shown.features.items()}}
                for b, shown in self.groups
            ],
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }


def read_alignment(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> Alignment:
    """Read what `Alignment.to_dict` wrote, as `fitting_the_network`."""
    sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
    with fitting_the_network(folder, "its alignment does not fit"):
        groups, steps, k = [], [], config.dim_latent
        for one in saved["groups"]:
            groups.append((int(one["batch"]), Shown.from_dict(one["shown"], sizes)))
        for one in saved["steps"]:
            step = Step(
                width=float(one["width"]),
                **{key: np.asarray(one[key], np.float64) for key in ("centres", "mean", "shift", "stretch")},
            )
            n, c = len(groups), len(step.centres)
            shapes = step.centres.shape, step.mean.shape, step.shift.shape, step.stretch.shape
            need(shapes == ((c, k), (n, c, k), (n, c, k), (n, k, k)) and c > 0 and step.width > 0)
            steps.append(step)
        return Alignment(groups=tuple(groups), steps=tuple(steps))


def membership(z: Floats, centres: Floats, width: float) -> Floats:
    """Share of each cell in each cluster, (n, C)."""
    distance = _squared_distances(z, centres)
    weight = np.exp(-2 * (distance - distance.min(1, keepdims=True)) / width)
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _squared_distances(z: Floats, centres: Floats) -> Floats:
    """(n, C)."""
    return np.asarray((z**2).sum(1)[:, None] - 2 * z @ centres.T + (centres**2).sum(1))


def fit_alignment(net: MosaicVAE, loader: MinibatchLoader, mosaic: Mosaic, *, seed: int = 0) -> Alignment:
    """Learn how the groups of a mosaic are aligned; those of fewer than fifty cells stay as they are.

    Parameters
    ----------
    net, loader, mosaic
        The trained network and its data.
    seed
        Decides which cells are looked at, and where clusters begin.
    """
    code, views = shown_of_cells(mosaic)
    pairs, group = distinct_rows(np.stack([mosaic.batch, code], 1))
    large = np.flatnonzero(np.bincount(group) >= FEWEST_OF_GROUP)
    if len(large) < 2:
        return Alignment(groups=(), steps=())
    rng = np.random.default_rng(seed)
    most = max(FEWEST_OF_GROUP, MOST_CELLS // len(large))
    parts = []
    for g in large:
        cells = np.sort(rng.permutation(np.flatnonzero(group == g))[:most])
        parts.append(latent(net, loader, cells)[0].astype(np.float64))
    groups = tuple((int(b), views[v]) for b, v in pairs[large].tolist())
    return Alignment(groups=groups, steps=aligning_steps(parts, seed=seed))


def aligning_steps(parts: Sequence[Floats], *, seed: int = 0) -> tuple[Step, ...]:
    """Corrections of groups, each given by the latent of some of its cells, (n_g, K)."""
    rng = np.random.default_rng(seed)
    n_clusters = max(1, min(MOST_CLUSTERS, sum(map(len, parts)) // CELLS_OF_A_CLUSTER))
    steps = []
    for _ in range(N_STEPS):
        step = _step(parts, n_clusters, rng, seed)
        steps.append(step)
        parts = [step(part, g) for g, part in enumerate(parts)]
    return tuple(steps)


def _step(parts: Sequence[Floats], n_clusters: int, rng: np.random.Generator, seed: int) -> Step:
    # as many cells of each group, so that clusters are not those of the largest alone
    even = max(map(len, parts))
    pool = np.concatenate([part[rng.integers(0, len(part), even)] for part in parts])
    centres = KMeans(n_clusters, n_init=1, random_state=seed).fit(pool).cluster_centers_.astype(np.float64)
    nearest = _squared_distances(pool, centres).min(1)
    width = float(max(np.median(nearest), 1e-12))
    members = [membership(part, centres, width) for part in parts]
    weight = np.stack([member.sum(0) for member in members])  # (G, C)
    mean = np.stack(
        [
            (member.T @ part) / np.maximum(w, 1e-9)[:, None]
            for member, part, w in zip(members, parts, weight, strict=True)
        ]
    )
    rest = [part - member @ mu for part, member, mu in zip(parts, members, mean, strict=True)]
    spread = np.stack(
        [
            np.sqrt((m.T @ (e**2).sum(1)) / np.maximum(w, 1e-9))
            for m, e, w in zip(members, rest, weight, strict=True)
        ]
    )
    same = _same(mean, spread, weight)
    target = np.einsum("abc,bck->ack", same, mean) / same.sum(1)[..., None]
    shift = np.where((weight >= FEWEST_IN_CLUSTER)[..., None], target - mean, 0.0)
    return Step(centres=centres, width=width, mean=mean, shift=shift, stretch=_stretches(rest, same, weight))


def _same(mean: Floats, spread: Floats, weight: Floats) -> Floats:
    """From 0 to 1, whether two groups hold cells of a kind in a cluster, (G, G, C)."""
    apart = np.linalg.norm(mean[:, None] - mean[None], axis=3)
    within = np.sqrt((spread[:, None] ** 2 + spread[None] ** 2) / 2)
    near = np.clip((FURTHEST + FADE - apart / np.maximum(within, 1e-12)) / (2 * FADE), 0.0, 1.0)
    there = weight >= FEWEST_IN_CLUSTER
    same = near * there[:, None] * there[None]
    same[np.arange(len(same)), np.arange(len(same))] = 1.0
    return np.asarray(same)


def _stretches(rest: Sequence[Floats], same: Floats, weight: Floats) -> Floats:
    """What gives a group the mean covariance, within clusters, of those it is aligned with, (G, K, K)."""
    covariances = []
    for e in rest:
        found = e.T @ e / len(e)
        covariances.append(found + (RIDGE * np.trace(found) / len(found) + 1e-12) * np.eye(len(found)))
    shares = np.einsum("abc,ac->ab", same, weight) / weight.sum(1)[:, None]
    out = []
    for g, own in enumerate(covariances):
        wanted = np.einsum("b,bij->ij", shares[g] / shares[g].sum(), np.stack(covariances))
        out.append(_power(own, -0.5) @ _power(wanted, 0.5))
    return np.stack(out)


def _power(symmetric: Floats, exponent: float) -> Floats:
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T)
