from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mosaicvi.errors import InputError
from mosaicvi.store.checkpoint import CheckpointStore
from mosaicvi.store.lock import hold

HOLD = """
import sys, time
from pathlib import Path
from mosaicvi.store.lock import hold
with hold(Path(sys.argv[1])) as holder:
    assert holder is None
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / ".mosaicvi-training"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    store = CheckpointStore(tmp_path)
    with pytest.raises(InputError, match=f"process {child.pid} on .* trains into it now"), store.alone():
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with store.alone(), hold(tmp_path / ".mosaicvi-training") as holder:
        assert holder is not None
        assert f"process {os.getpid()} on" in holder
    assert os.listdir(tmp_path) == []
