"""Which measured entries are hidden from the encoder in a training step.

A mask is a table of distinct rows and a code per cell, because a dense B x D draw costs as much as a
layer. Within a cell every draw is the published one (each feature alone with one probability, `p_feat`);
only the feature patterns of a minibatch are shared among its cells, `N_PATTERNS` of them, unless the
network's `mask_by_cell` says that each cell has its own. By default each pattern has a probability of its
own, so that the encoder knows panels from nearly all features to nearly none.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from mosaicvi.config import NetworkConfig
from mosaicvi.data.minibatch import Minibatch, ModalityRows
from mosaicvi.device import moved

N_PATTERNS = 2
BESIDE_WHOLE = 0.2  # with more, batches of different modalities mix less (docs/ablations.md)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityMask:
    """Which features of a modality are hidden, for the cells that have it.

    Attributes
    ----------
    table
        Distinct masks, boolean (T, D_m). Row 0 hides nothing, row 1 hides all.
    code
        Row of the table of each cell, int64 (n_m,).
    """

    table: Tensor
    code: Tensor

    @classmethod
    def of(cls, masked: Tensor) -> ModalityMask:
        """A mask given entry by entry, boolean (n_m, D_m)."""
        ends = torch.tensor([[False], [True]], device=masked.device).expand(2, masked.shape[1])
        code = torch.arange(len(masked), device=masked.device) + 2
        return cls(table=torch.cat([ends, masked]), code=code)


class MaskSampler:
    """Draws the mask of a minibatch (docs/model.md, "What is hidden").

    Per cell: with probability 1/2 no feature is masked, else each with `p_feat`, drawn for the cell alone
    or for several; where that is ``"uniform"``, with a probability that is itself drawn, evenly from 0 to 1,
    if the cell loses no modality besides, and with `BESIDE_WHOLE` if it does. With several modalities one is
    drawn from `p_modal` and masked whole if the cell measured another. With one, what another cell's measured
    pattern lacks is masked.

    Parameters
    ----------
    config
        The network's parameters.
    """

    def __init__(self, config: NetworkConfig) -> None:
        self.p_feat = config.p_feat
        self.p_modal = torch.tensor(config.p_modal, dtype=torch.float32)
        self.sizes = config.dim_input_arr
        self.by_cell = config.mask_by_cell

    def draw(self, minibatch: Minibatch, generator: Generator) -> tuple[ModalityMask, ...]:
        """One mask per modality."""
        device = minibatch.index.device
        n = minibatch.n_cells
        k = n if self.by_cell else min(N_PATTERNS, n)
        chosen = (
            torch.arange(n, device=device)
            if self.by_cell
            else torch.randint(0, k, (n,), generator=generator, device=device)
        ) + 2
        by_feature = torch.rand(n, generator=generator, device=device) < 0.5
        pattern = torch.where(by_feature, chosen, 0)  # 0: no feature is masked
        if len(self.sizes) == 1:
            return (self._single(minibatch.rows[0], pattern, k, generator),)
        whole = self._whole(minibatch, generator)
        if self.p_feat == "uniform":
            pattern = torch.where((whole >= 0) & (pattern > 0), pattern + k, pattern)
        masks = []
        for m, rows in enumerate(minibatch.rows):
            code = torch.where(whole[rows.cells] == m, 1, pattern[rows.cells])
            masks.append(ModalityMask(table=self._table(m, k, device, generator), code=code))
        return tuple(masks)

    def _table(self, m: int, k: int, device: torch.device, generator: Generator) -> Tensor:
        p = self._probabilities(k, device, generator)
        table = torch.empty(len(p) + 2, self.sizes[m], dtype=torch.bool, device=device)
        table[0], table[1] = False, True
        table[2:] = _coins(p, self.sizes[m], generator)
        return table

    def _probabilities(self, k: int, device: torch.device, generator: Generator) -> Tensor:
        """With which each pattern masks a feature: k, and k for cells that lose a modality besides."""
        if self.p_feat != "uniform":
            return torch.full((k,), self.p_feat, device=device)
        first = torch.rand(1, generator=generator, device=device)
        even = (first + torch.arange(k, device=device) / k) % 1  # apart from one another
        if len(self.sizes) == 1:
            return even
        return torch.cat([even, torch.full((k,), BESIDE_WHOLE, device=device)])

    def _whole(self, minibatch: Minibatch, generator: Generator) -> Tensor:
        """The modality that each cell loses whole, -1 for none; (B,)."""
        n = minibatch.n_cells
        device = minibatch.index.device
        p = moved(self.p_modal, device)
        drawn = torch.multinomial(p, n, replacement=True, generator=generator)
        has = torch.zeros(n, len(self.sizes), dtype=torch.bool, device=device)
        for m, rows in enumerate(minibatch.rows):
            has[rows.cells, m] = True
        others = has.sum(1) - has.gather(1, drawn[:, None]).squeeze(1).long()
        return torch.where(others > 0, drawn, -1)

    def _single(self, rows: ModalityRows, pattern: Tensor, k: int, generator: Generator) -> ModalityMask:
        """One modality: hide also what another cell's measured pattern lacks."""
        device = pattern.device
        table = self._table(0, k, device, generator)
        pattern = pattern[rows.cells]
        n = len(pattern)
        donor = torch.randint(0, max(n, 1), (n,), generator=generator, device=device)
        panels = rows.panels
        if rows.entry_measured is not None or self.by_cell:
            lent = panels[rows.panel] if rows.entry_measured is None else rows.entry_measured
            return ModalityMask.of(table[pattern] | ~lent[donor])
        combined = (table[:, None] | ~panels).flatten(0, 1)  # every pattern with every lent panel
        return ModalityMask(
            table=torch.cat([table[:2], combined]), code=pattern * len(panels) + rows.panel[donor] + 2
        )


def _coins(p: Tensor, n: int, generator: Generator) -> Tensor:
    """Independent booleans (k, n), true with probability p (k,) to 1 in 65,536; four of a 64-bit draw."""
    size = len(p) * n
    draws = torch.empty(-(-size // 4), dtype=torch.int64, device=p.device)
    draws.random_(-(2**63), None, generator=generator)
    lanes = draws.view(torch.int16)[:size].view(-1, n)
    return lanes < (p[:, None].double() * 65536).round().int() - 32768


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A choice of the entries of a modality, for the cells that have it.

    Attributes
    ----------
    table
        Distinct rows of the choice, boolean (R, D_m).
    index
        Row of the table of each cell, int64 (n_m,).
    full
        True when every entry is known to be chosen, without a look at the table.
    """

    table: Tensor
    index: Tensor
    full: bool = False

    @cached_property
    def n_chosen(self) -> NDArray[np.int64]:
        """How many entries each row of the table chooses, on the host, (R,)."""
        n: NDArray[np.int64] = np.count_nonzero(self.table.cpu().numpy(), axis=1)
        return n


def observed_view(rows: ModalityRows) -> View:
    """What was measured (m != -1)."""
    if rows.entry_measured is not None:
        return View(table=rows.entry_measured, index=torch.arange(len(rows.cells), device=rows.cells.device))
    return View(table=rows.panels, index=rows.panel, full=rows.all_measured)


def blind_view(rows: ModalityRows) -> View:
    """Nothing of the modality."""
    return View(table=torch.zeros_like(rows.panels[:1]), index=torch.zeros_like(rows.panel))


def masked_views(observed: View, mask: ModalityMask) -> tuple[View, View]:
    """What stays visible (m = 0) and what is masked (m = 1), of what was measured."""
    n, r, t = len(mask.code), len(observed.table), len(mask.table)
    if r * t <= n:
        measured = observed.table[:, None]
        visible = (measured & ~mask.table).flatten(0, 1)
        masked = (measured & mask.table).flatten(0, 1)
        index = observed.index * t + mask.code
    else:
        measured, hidden = observed.table[observed.index], mask.table[mask.code]
        visible, masked = measured & ~hidden, measured & hidden
        index = torch.arange(n, device=mask.code.device)
    return View(table=visible, index=index), View(table=masked, index=index)
