"""Labels of the phases of a step, for torch's profiler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

_UNSEEN = nullcontext()


def phase(name: str) -> AbstractContextManager[object]:
    """A context that a running profiler shows under this name; without one it costs nothing."""
    return record_function(name) if torch.autograd._profiler_enabled() else _UNSEEN  # type: ignore[attr-defined]
