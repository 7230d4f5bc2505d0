"""The covariates with which a cell is decoded: its own, those of other batches, or a mean of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mosaicvi.data.minibatch import Minibatch
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.data.register.unseen import NOT_SAID
from mosaicvi.data.registry import Registry
from mosaicvi.data.staining import FEWEST_CELLS, is_stained
from mosaicvi.errors import InputError, quoted

MEAN = "mean of the batches that measured it"
TransformBatch = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches as which a modality is decoded.

    Attributes
    ----------
    measuring
        Which batches measured the modality, boolean (B,); B is 0 where data have no batches.
    shares
        As which batches every cell is decoded, rows (B,) that add up to 1, whose values are averaged;
        None for each cell's own, or the mean of those that measured the modality where its own did not.
    said
        The same in words.
    """

    measuring: NDArray[np.bool_]
    shares: tuple[NDArray[np.float64], ...] | None = None
    said: str = "each cell's own batch"

    def __str__(self) -> str:
        return self.said

    def said_of(self, mosaic: Mosaic, modality: str) -> str:
        """The same of the cells of a mosaic, some of which may be of batches that the model has not seen."""
        is_new = mosaic.batch >= len(self.measuring)
        if self.shares is not None or not len(self.measuring) or not is_new.any():
            return self.said
        if is_new.all():
            return MEAN
        lacking = "" if self.measuring.all() else f"that measured none of {modality} or "
        return f"each cell's own batch, or {MEAN} where {lacking}the model has not seen that"

    @property
    def mean(self) -> NDArray[np.float64]:
        """Equal shares of all batches that measured the modality, (B,)."""
        return self.measuring / max(int(self.measuring.sum()), 1)

    def own(self, minibatch: Minibatch) -> Tensor:
        """Covariates of each cell, with the mean where its batch measured nothing or is not known, (b, C)."""
        c = minibatch.covariates
        if self.measuring.all():
            return c
        n = len(self.measuring)
        known, mean = torch.from_numpy(self.measuring).to(c.device), torch.from_numpy(self.mean).to(c)
        inside = (c[:, :n] * ~known).sum(1, keepdim=True) == 0  # nor any share of a batch without it
        return torch.cat([torch.where(inside, c[:, :n], mean), c[:, n:]], 1)

    def own_share(self, minibatch: Minibatch) -> NDArray[np.float64]:
        """The share of each batch in that with which a cell is decoded, (b, B)."""
        return np.asarray(self.own(minibatch)[:, : len(self.measuring)].double().cpu().numpy())

    def shared(self, minibatch: Minibatch, share: NDArray[np.float64]) -> Tensor:
        """Covariates of each cell as if it were of batches in these shares, (b, C)."""
        c = minibatch.covariates
        return torch.cat([torch.from_numpy(share).to(c).expand(len(c), -1), c[:, len(share) :]], 1)

    def asked(self, minibatch: Minibatch) -> list[Tensor]:
        """Covariates of every decoding whose values are averaged, (b, C) each."""
        if self.shares is None:
            return [self.own(minibatch)]
        return [self.shared(minibatch, share) for share in self.shares]


def batches_of(registry: Registry, modality: str, transform_batch: TransformBatch = None) -> Batches:
    """As which batches a modality is decoded.

    Parameters
    ----------
    registry, modality
        What the model knows of its data, and the name of the modality.
    transform_batch
        None for each cell's own, the name of a batch, several names for the average over these batches, or
        ``"mean"`` for covariates halfway between all that measured the modality.

    Raises
    ------
    InputError
        There are no batches, or one did not measure the modality.
    """
    key = registry.setup.batch_key
    if key is None:
        if transform_batch is not None:
            raise InputError(
                "transform_batch: the data were registered without batches, so that there is none to choose."
            )
        return Batches(measuring=np.zeros(0, bool))
    names = registry.categories[key]
    there = registry.measured_in[modality]
    found = Batches(measuring=np.isin(names, there))
    if not found.measuring.all():
        found = dataclasses.replace(found, said=f"{found}, or {MEAN} where that measured none of {modality}")
    if transform_batch is None:
        return found
    if isinstance(transform_batch, str) and transform_batch == "mean" and "mean" not in names:
        return dataclasses.replace(found, shares=(found.mean,), said=MEAN)
    chosen = [str(transform_batch)] if np.isscalar(transform_batch) else list(map(str, transform_batch))
    if not chosen:
        raise InputError("transform_batch: an empty list; name at least one batch.")
    for name in chosen:
        if name not in there:
            problem = f"did not measure {modality}" if name in names else "is unknown"
            raise InputError(f"transform_batch: {name!r} {problem}; use 'mean' or one of {quoted(there)}.")
    return dataclasses.replace(
        found,
        shares=tuple((np.asarray(names) == name).astype(np.float64) for name in chosen),
        said=f"as batch {chosen[0]}" if len(chosen) == 1 else f"average as batches {', '.join(chosen)}",
    )


def level_in_words(mosaic: Mosaic, modality: str) -> str | None:
    """On which staining imputed values of a modality are; None of values that have no such level.

    Parameters
    ----------
    mosaic
        The cells, brought to the level of a reference where they are of batches that it has not seen.
    modality
        Its name.
    """
    data, key = mosaic.modality(modality), mosaic.registry.setup.batch_key
    if not is_stained(data) or key is None:
        return None
    known = len(mosaic.registry.categories[key])
    is_new = mosaic.batch >= known
    if not is_new.any():
        return "that of each cell's own batch, or the mean of those that measured it"
    of = quoted(mosaic.registry.measured_in[modality])
    mean = f"the mean of the reference's batches {of}"
    said = [mean if is_new.all() else f"{mean} for cells of new batches, for others that of their own batch"]
    for b, name in enumerate(mosaic.batches[known:], known):
        n = int(((mosaic.batch == b) & (data.row_of_cell >= 0)).sum())
        named = "cells without a batch" if name == NOT_SAID else repr(name)
        factors = np.exp(list(mosaic.levels.get(modality, {}).get(name, {}).values()))
        if len(factors):
            said.append(
                f"counts of {named} were divided by {factors.min():.2g} to {factors.max():.2g}, as it is "
                f"stained otherwise in {len(factors)} features"
            )
        elif 0 < n < FEWEST_CELLS:
            said.append(f"counts of {named} are taken as they are, with {n} cells too few to compare")
        elif n:
            said.append(f"counts of {named} are taken as they are, not stained otherwise")
    return "; ".join(said)
