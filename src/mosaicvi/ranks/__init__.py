"""Several processes that work on one mosaic, as torchrun starts them: which of them this one is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mosaicvi.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of the processes this one is.

    Attributes
    ----------
    rank, size
        Its number from 0, and how many there are on all machines.
    local_rank, local_size
        The same on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and says how it goes."""
        return self.rank == 0


def place() -> Place:
    """Where the environment, as torchrun sets it, puts this process; alone without one.

    Raises
    ------
    InputError
        For numbers that make no sense.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Place()
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    found = Place(
        rank=rank,
        size=size,
        local_rank=_number("LOCAL_RANK", rank),
        local_size=_number("LOCAL_WORLD_SIZE", size),
    )
    if not (0 <= found.rank < found.size and 0 <= found.local_rank < found.local_size <= found.size):
        raise InputError(
            f"RANK={rank} of WORLD_SIZE={size} makes no sense; start the processes by torchrun, "
            "or remove both from the environment."
        )
    return found


def _number(name: str, default: int) -> int:
    said = os.environ.get(name, str(default))
    try:
        return int(said)
    except ValueError:
        raise InputError(
            f"{name}={said}: a whole number is needed; start the processes by torchrun, or remove it "
            "from the environment."
        ) from None


def threads_each(here: Place) -> int:
    """Threads for each process of this machine, so that together they have one for each core.

    torchrun sets ``OMP_NUM_THREADS`` to 1 where it is not set, so that 1 says nothing; a larger number is
    followed where it is smaller than that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, cores // here.local_size)
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(each, int(said)) if said.isdigit() and int(said) > 1 else each
