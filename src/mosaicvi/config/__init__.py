"""What a network is and how it is trained, checked before anything is built."""

from __future__ import annotations

from mosaicvi.config.defaults import MANY_FEATURES
from mosaicvi.config.network import NetworkConfig, check_names
from mosaicvi.config.schedule import Schedule
from mosaicvi.config.sizes import Distribution

__all__ = [
    "MANY_FEATURES",
    "Distribution",
    "NetworkConfig",
    "Schedule",
    "check_names",
]
