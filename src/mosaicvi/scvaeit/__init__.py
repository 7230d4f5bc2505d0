"""The interface of scVAEIT, the published package, on this engine: change one import, and its scripts run.

from mosaicvi.scvaeit import VAEIT
"""

from __future__ import annotations

from mosaicvi._version import __version__
from mosaicvi.config.arguments import whole
from mosaicvi.scvaeit.VAEIT import VAEIT  # the class, also where the module of its name was imported first

__all__ = ["VAEIT", "__version__", "reset_random_seeds"]


def reset_random_seeds(seed: int) -> None:
    """Seed of the models that are made from now on; generators outside this package are left alone."""
    VAEIT.next_seed = whole("seed", seed)
