from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
PACKAGE = Path(str(importlib.util.find_spec("mosaicvi").origin)).parent  # type: ignore[union-attr]
if os.access(PACKAGE, os.W_OK):
    # said, so that processes that import the sources beside an installed package have its compiled loops
    os.environ.setdefault("NUMBA_CACHE_DIR", str(PACKAGE / "__pycache__"))
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

FIRST = "tests/conformance/test_promises.py::test_the_first_run"
WITHOUT_LOOPS = (
    "tests/ranks/",
    "tests/data/read/",
    "tests/data/combine/",
    "tests/data/test_input_errors.py",
    "tests/data/test_mosaic.py",
    "tests/store/test_checkpoint.py",
    "tests/store/test_files.py",
    "tests/store/test_format.py",
    "tests/store/test_state.py",
    "tests/likelihoods/",
    "tests/baselines/",
    "tests/inspect/",
    "tests/docs/",
    "tests/test_docs.py",
    "tests/test_metrics.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compile the loops once: the test that does it for all comes first, beside it those that need none.

    Each of two workers begins with one half of the tests, and takes from the end of the other's when it is
    through. So files with long tests come first.
    """
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.endswith(FIRST), item.path not in long))
    with_loops = [item for item in items if not item.nodeid.startswith(WITHOUT_LOOPS)]
    half = len(items) // 2
    free = [item for item in items if item.nodeid.startswith(WITHOUT_LOOPS)]
    items[:] = [*with_loops[:half], *free, *with_loops[half:]]


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Three threads of torch, and so three workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
