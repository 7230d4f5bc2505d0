"""What training takes where the user says nothing: minibatch, learning rate and epochs."""

from __future__ import annotations

import dataclasses
import math

from mosaicvi.config import MANY_FEATURES
from mosaicvi.fit.ending import LEAST_FALL_STEPS, LEAST_STEPS
from mosaicvi.fit.state import FitConfig

BLIND_STEPS = 1500  # of a run that has no held-out cells to tell it when to end
MINIBATCH, LARGE_MINIBATCH = 512, 1280  # cells of a step, the second with few features, as it then is short
# of what is new in a grown model, the last as a multiple
GROWING_MINIBATCH, GROWING_STEPS, GROWING_RATE = 256, 100, 4.0
FEWEST_MINIBATCHES = 6  # of an epoch over all cells


def epochs_if_blind(n_cells: int, batch_size: int, train_size: float) -> int | None:
    """Epochs where no cell is held out, which could tell when to end; None where some are."""
    n_train = max(1, round(train_size * n_cells))
    return None if n_train < n_cells else math.ceil(BLIND_STEPS / math.ceil(n_cells / batch_size))


def fewest_epochs(n_cells: int, n_features: int) -> int:
    """Epochs below which training was short, at the default minibatch."""
    steps_per_epoch = math.ceil(n_cells / default_batch_size(n_cells, n_features))
    return math.ceil((LEAST_STEPS + LEAST_FALL_STEPS) / steps_per_epoch)


def default_batch_size(n_cells: int, n_features: int) -> int:
    """Cells of a minibatch: 512, or 1,280 with few features, or a sixth of the cells where there are few."""
    size = MINIBATCH if n_features > MANY_FEATURES else LARGE_MINIBATCH
    return min(size, max(2, n_cells // FEWEST_MINIBATCHES))


def default_rate(batch_size: int) -> float:
    """Learning rate, in proportion to the root of the minibatch: as its gradient's noise falls."""
    return FitConfig.lr * math.sqrt(batch_size / FitConfig.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usual:
    """What is taken where the user says nothing: cells of a minibatch, rate, and epochs or None."""

    batch_size: int
    rate: float
    epochs: int | None


def usual(
    n_cells: int, n_features: int, *, train_size: float, batch_size: int | None, is_growing: bool
) -> Usual:
    """Settings that suit the data.

    Parameters
    ----------
    n_cells, n_features
        Of the data.
    train_size, batch_size
        As the user gave them.
    is_growing
        Whether only what is new of a grown model is trained: few weights, for which few, large steps suffice.
    """
    size = default_batch_size(n_cells, n_features) if batch_size is None else batch_size
    if not is_growing:
        return Usual(
            batch_size=size,
            rate=default_rate(size),
            epochs=epochs_if_blind(n_cells, size, train_size),
        )
    size = min(size, GROWING_MINIBATCH) if batch_size is None else size
    steps_per_epoch = math.ceil(max(1, round(train_size * n_cells)) / size)
    return Usual(
        batch_size=size,
        rate=GROWING_RATE * default_rate(size),
        epochs=math.ceil(GROWING_STEPS / steps_per_epoch),
    )
