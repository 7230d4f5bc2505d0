"""The seed of the models that are made from now on."""

from __future__ import annotations

from mosaicvi.config.arguments import whole

_seed = {"next": 0}


def reset_random_seeds(seed: int) -> None:
    """Seed of the models that are made from now on; generators outside this package are left alone."""
    _seed["next"] = whole("seed", seed)


def next_seed() -> int:
    """Seed of a model that is made now."""
    return _seed["next"]
