"""Imputed values read out of the latent, the decoder and the measured values together.

A decoder is one way to a value; a regression on what was measured is another, the nearest cells a third.
Which deserves how much trust differs from mosaic to mosaic, so it is decided on cells that no training saw.
"""

from __future__ import annotations

from mosaicvi.infer.readout.fitting import fit_readout
from mosaicvi.infer.readout.readout import ReadOut
from mosaicvi.infer.readout.saved import read_readout

__all__ = ["ReadOut", "fit_readout", "read_readout"]
