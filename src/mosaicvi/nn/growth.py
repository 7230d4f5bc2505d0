"""Where the weights of a network stand in a larger one, which knows more features, modalities or covariates.

Every weight has named axes: features, covariates, the shares of blocks in the mask's embedding. The larger
network has all names of the smaller one, so that a weight is found again by its names.

Legend: K latent, C covariates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from mosaicvi.config import NetworkConfig
from mosaicvi.nn.blocks import BlockGroup, block_groups
from mosaicvi.nn.vae import MosaicVAE

Names: TypeAlias = Sequence[Hashable]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What a network has weights for.

    Attributes
    ----------
    config
        Its sizes.
    features
        Names of the features of each modality, in its order.
    covariates
        Names of the covariates, C.
    """

    config: NetworkConfig
    features: Mapping[str, Sequence[str]]
    covariates: Names

    def axes(self) -> dict[str, tuple[Names, ...]]:
        """Names along each axis of the weights that depend on features, modalities or covariates."""
        c, groups = self.config, block_groups(self.config)
        names = c.uni_block_names
        embed = [
            (name, b, i)
            for b, (name, width) in enumerate(zip(c.block_names, c.dim_block_embed, strict=True))
            for i in range(width)
        ]
        seen = self.covariates if c.encode_covariates else ()
        first = [name for g in groups for name in self._first_of(g, seen)]
        latent = [("z", i) for i in range(c.dim_latent)]
        given = [*latent, *(embed if c.decode_mask else ()), *self.covariates]
        out: dict[str, tuple[Names, ...]] = {
            "encoder.embedding.bias": (embed,),
            "encoder.hidden.linear.0.weight": (range(c.dimensions[0]), first),
            "decoder.hidden.linear.0.weight": (range(c.dimensions[-1]), given),
        }
        for m, name in enumerate(names):
            of = self.features[name]
            out[f"encoder.embedding.weight.{m}"] = (of, embed)
            out[f"decoder.dispersion.{m}"] = (self.covariates, of)
            out[f"decoder.inflation.{m}"] = (of,)
            out |= {f"{bound}_{m}": (of,) for bound in ("centre", "low", "high")}
        for i, g in enumerate(groups):
            of = self.features[names[g.modality]][g.lo : g.hi]
            width = g.dec or c.dimensions[0]
            out[f"decoder.last.{i}"] = (range(width + 1), of)
            out[f"encoder.block.{i}.value"] = (of, range(g.enc))
            out[f"encoder.block.{i}.covariate"] = (seen, range(g.n_blocks * g.enc))
        return out

    def _first_of(self, g: BlockGroup, seen: Names) -> list[Hashable]:
        """Names of what a group gives to the first hidden layer of the encoder."""
        name = self.config.uni_block_names[g.modality]
        if g.enc:
            return [(name, "h", g.first + b, i) for b in range(g.n_blocks) for i in range(g.enc)]
        out: list[Hashable] = []
        for b, (lo, hi) in enumerate(g.spans, start=g.first):
            out += [(name, "x", feature) for feature in self.features[name][lo:hi]]
            out += [(name, "e", b, i) for i in range(g.embed)]
            out += [(name, "c", b, covariate) for covariate in seen]
        return out


Places: TypeAlias = dict[str, tuple[Tensor, ...] | None]


def places(small: Known, large: Known) -> Places:
    """Of each weight of the small network where its rows and columns stand in the large one.

    Returns
    -------
    By the weight's name: positions along each axis; None where they are the same.

    Raises
    ------
    ValueError
        If the large network does not know all that the small one knows.
    """
    here, there = small.axes(), large.axes()
    found: Places = {}
    for key, axes in here.items():
        if key not in there:
            raise ValueError(f"{key} is not in the grown network")
        if [list(a) for a in axes] == [list(a) for a in there[key]]:
            continue
        found[key] = tuple(_positions(a, b) for a, b in zip(axes, there[key], strict=True))
    return found


def _positions(names: Names, among: Names) -> Tensor:
    at = {name: i for i, name in enumerate(among)}
    lacking = [name for name in names if name not in at]
    if lacking:
        raise ValueError(f"{lacking[0]!r} is not in the grown network")
    return torch.tensor([at[name] for name in names], dtype=torch.int64)


def cut(weights: Mapping[str, Tensor], keys: Sequence[str], where: Places) -> dict[str, Tensor]:
    """The weights of the small network, of those of the large one.

    Parameters
    ----------
    weights
        Of the large network.
    keys
        Names of the weights of the small one.
    where
        From `places`.
    """
    out = {}
    for key in keys:
        at = where.get(key)
        out[key] = weights[key].clone() if at is None else weights[key][_grid(at)].clone()
    return out


def _grid(at: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Positions along each axis as an index of all their combinations."""
    return torch.meshgrid(*at, indexing="ij") if len(at) > 1 else at


# --- a network that grew -----------------------------------------------------------------------------


def transplant(
    net: MosaicVAE, weights: Mapping[str, Tensor], small: Known, large: Known, *, sees: Sequence[str]
) -> dict[str, Tensor]:
    """Give a fresh network the weights of a smaller one, so that it answers alike for what that one knew.

    What is new begins so that it says nothing of the latent, and new categories as the mean of the known ones
    of their column. The mask's embedding stays blind to what is new.

    Parameters
    ----------
    net
        The large network, with fresh weights; it is changed.
    weights
        Of the small one.
    small, large
        What they know.
    sees
        Known modalities of whose new features the encoder may learn.

    Returns
    -------
    Which entries of each weight may be trained, boolean.
    """
    where = places(small, large)
    free = {}
    for key, value in net.state_dict().items():
        old, at = weights.get(key), where.get(key)
        free[key] = torch.zeros_like(value, dtype=torch.bool)
        if old is not None and at is None:
            value.copy_(old)
            continue
        free[key] = _first_values(key, value, old, small, large, sees)
        if old is not None and at is not None:
            value[_grid(at)] = old
            free[key][_grid(at)] = False
    return free


def _first_values(
    key: str, value: Tensor, old: Tensor | None, small: Known, large: Known, sees: Sequence[str]
) -> Tensor:
    """Let new entries of a weight begin, in place; which of them may be trained, as if all were new."""
    axes = large.axes().get(key)
    if key.startswith("encoder.embedding") or key.endswith(".embed"):
        value.zero_()
        return torch.zeros_like(value, dtype=torch.bool)
    if key == "decoder.hidden.linear.0.weight":
        assert axes is not None
        assert old is not None
        value.zero_()
        names = small.axes()[key][1]
        return _mean_of_column(value.T, old.T, axes[1], names).T.contiguous()
    if key.startswith("decoder.dispersion") and old is not None:
        assert axes is not None
        m = small.config.uni_block_names[int(key.rpartition(".")[2])]
        at = _positions(small.features[m], axes[1])
        begin = value[:, at]
        _mean_of_column(begin, old, axes[0], small.covariates)
        value[:, at] = begin
        return torch.ones_like(value, dtype=torch.bool)
    if key.startswith("encoder.block") and key.endswith(".covariate"):
        assert axes is not None
        value.zero_()
        names = small.covariates if old is not None else ()
        if old is not None:
            return _mean_of_column(value, old, axes[0], names)
        is_new = torch.tensor([name not in small.covariates for name in axes[0]])
        return is_new[:, None].expand_as(value).clone()
    if key == "encoder.hidden.linear.0.weight":
        assert axes is not None
        value.zero_()
        learns = torch.tensor([_is_learnt(name, small, sees) for name in axes[1]])
        return learns.expand_as(value).clone()
    if key.startswith("encoder.block") and old is not None:
        value.zero_()
        return torch.full_like(value, _modality_of(key, large.config) in sees, dtype=torch.bool)
    return torch.ones_like(value, dtype=torch.bool)


def _is_learnt(name: Hashable, small: Known, sees: Sequence[str]) -> bool:
    """Whether a new input of the encoder's first hidden layer has weights to learn."""
    assert isinstance(name, tuple)
    modality, kind, *rest = name
    if kind == "c":
        return rest[-1] not in small.covariates
    return kind != "e" and (modality not in small.config.uni_block_names or modality in sees)


def _modality_of(key: str, config: NetworkConfig) -> str:
    """The modality of a group's weight."""
    group = block_groups(config)[int(key.split(".")[2])]
    return config.uni_block_names[group.modality]


def _mean_of_column(value: Tensor, old: Tensor, names: Names, known: Names) -> Tensor:
    """Let rows of new categories begin at the mean of their column, in place; which rows these are."""
    trains = torch.zeros_like(value, dtype=torch.bool)
    for i, name in enumerate(names):
        if name in known or not (isinstance(name, tuple) and name[0] == "category"):
            continue
        same = [j for j, other in enumerate(known) if isinstance(other, tuple) and other[:2] == name[:2]]
        value[i] = old[same].mean(0)
        trains[i] = True
    return trains
