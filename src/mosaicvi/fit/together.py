"""Several processes begin a training together: with the same data and settings, and the first one's state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from mosaicvi.errors import InputError
from mosaicvi.fit.state import FitConfig, FitState, take_up
from mosaicvi.ranks.group import Group
from mosaicvi.store.packed import packed, unpacked

WHAT = {
    "frozen": "weights to train (unfrozen=)",
    "network": "parameters of the network",
    "fit": "settings of training",
    "settings": "settings of training",
    "features": "features",
    "cells": "cells",
    "values": "values, batches or panels of the same cells and features",
    "levels": "levels of batches that the encoder sees values without",
}


def agree(group: Group, said: Mapping[str, Any]) -> None:
    """See that all processes were given the same.

    Parameters
    ----------
    group
        The processes.
    said
        What this one was given, under the keys of `WHAT`.

    Raises
    ------
    InputError
        In a process that was given something else than the first.
    """
    own = {key: sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for key, value in said.items()}
    of_first = json.loads(group.from_first(lambda: json.dumps(own).encode()))
    for key in WHAT:  # also what only one of them was given
        if own.get(key) != of_first.get(key):
            raise InputError(
                f"Process {group.rank} of {group.size} was given other {WHAT[key]} than process 0; "
                "give all the same files and settings."
            )


def begin_as_first(state: FitState, group: Group, make: Callable[[], FitState], config: FitConfig) -> None:
    """Bring all processes to the state that the first one makes, such as that of its newest checkpoint."""
    content = group.from_first(lambda: packed(make().to_dict()))
    if not group.is_first:
        take_up(state, unpacked(content), config, "process 0")
