"""Where the processes find each other, and who of them says what all want to say."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from hashlib import sha256

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from mosaicvi.errors import InputError
from mosaicvi.ranks import place

PATIENCE = timedelta(minutes=5)  # until all have read their data and come to the meeting


@cache
def meeting() -> Store:
    """The store of torchrun's rendezvous, in which processes leave words for each other.

    Raises
    ------
    InputError
        It cannot be reached, or its port is taken.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if address is None or port is None:
        raise InputError(
            "WORLD_SIZE is set, but MASTER_ADDR and MASTER_PORT are not; start the processes by torchrun."
        )
    is_of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            address,
            int(port),
            is_master=place().is_first and not is_of_torchrun,
            timeout=PATIENCE,
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise InputError(
                f"MASTER_PORT={port} is taken on this machine; choose another, "
                "or let torchrun choose with --standalone."
            ) from None
        raise InputError(
            f"{address}:{port}, where the processes are to meet, cannot be reached "
            f"({_first_line(error)}); see MASTER_ADDR and MASTER_PORT, or torchrun's --rdzv-endpoint."
        ) from None
    return PrefixStore(f"mosaicvi/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def says(text: str) -> bool:
    """Whether this process is to say what others want to say as well: the first one that asks is."""
    if place().size == 1:
        return True
    try:
        return int(meeting().add(f"said/{sha256(text.encode()).hexdigest()}", 1)) == 1
    except (InputError, RuntimeError):
        return True


def fails(*, because_of_another: bool = False) -> bool:
    """Whether this process is to say that it fails; not if another that it waited for said why."""
    if place().size == 1:
        return True
    try:
        n_earlier = meeting().add("failed", 1) - 1
    except (InputError, RuntimeError):
        return True
    return not (because_of_another and n_earlier)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]
