"""Figures of the documentation, each made by one command."""

import mosaicvi as mosaicvi  # before torch, as where it is used
