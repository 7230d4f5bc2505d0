"""Intervals that cover: how far values lie from what is imputed, learnt from cells that no training saw."""

from mosaicvi.infer.intervals.fitting import fit_spreads
from mosaicvi.infer.intervals.promised import not_promised
from mosaicvi.infer.intervals.saved import read_spreads
from mosaicvi.infer.intervals.spread import Spread, Spreads

__all__ = ["Spread", "Spreads", "fit_spreads", "not_promised", "read_spreads"]
