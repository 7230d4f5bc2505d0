"""Two hosts, which are network namespaces of this machine, train together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "two_ranks.py"
NAMES, ADDRESSES = [f"mosaicvi-{os.getpid()}-{k}" for k in range(2)], ["10.213.7.1", "10.213.7.2"]


def ip(*words: str) -> bool:
    """Whether a command of ip succeeds."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces with a cable between them."""
    if shutil.which("ip") is None or not all(ip("netns", "add", name) for name in NAMES):
        pytest.skip("network namespaces need Linux, ip and the rights of root")
    try:
        ends = [f"mvi{os.getpid()}a"[-15:], f"mvi{os.getpid()}b"[-15:]]
        assert ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, name, address in zip(ends, NAMES, ADDRESSES, strict=True):
            assert ip("link", "set", end, "netns", name, "name", "eth0")
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            assert ip("-n", name, "link", "set", "eth0", "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            ip("netns", "del", name)


def test_two_hosts_train_together(hosts: list[str], tmp_path: Path) -> None:
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": ADDRESSES[0],
        "MASTER_PORT": "29500",
        "GLOO_SOCKET_IFNAME": "eth0",
        "MOSAICVI_ENGINE": "torch",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    ranks = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, str(PROGRAM), str(tmp_path), "hosts"],
            env=os.environ | common | {"RANK": str(rank)},
        )
        for rank, host in enumerate(hosts)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    assert (tmp_path / "whole0").read_bytes() == (tmp_path / "whole1").read_bytes()
