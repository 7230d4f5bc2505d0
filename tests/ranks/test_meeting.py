"""Where processes meet: what is said when they cannot, and by whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mosaicvi import InputError
from mosaicvi.cli import run
from mosaicvi.ranks import meeting as module
from mosaicvi.ranks.meeting import fails, meeting, says


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A free port, in the environment of the first of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = int(probe.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(found))
    meeting.cache_clear()
    yield found
    meeting.cache_clear()


def test_a_port_in_use_is_one_line(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(InputError, match=f"MASTER_PORT={port} is taken on this machine") as error:
            meeting()
    assert len(error.value.problems) == 1
    assert "--standalone" in str(error.value)


def test_an_address_that_nobody_answers_is_named(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(module, "PATIENCE", module.PATIENCE / 300)
    with pytest.raises(
        InputError, match=f"127.0.0.1:{port}, where the processes are to meet, cannot be reached"
    ):
        meeting()


def test_without_an_address_torchrun_is_named(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(InputError, match=r"MASTER_ADDR and MASTER_PORT are not.*torchrun"):
        meeting()


@pytest.mark.usefixtures("port")
def test_what_all_would_say_is_said_once() -> None:
    meeting_of_two = [says("no such file"), says("no such file"), says("another")]
    assert meeting_of_two == [True, False, True]


@pytest.mark.usefixtures("port")
def test_who_only_misses_another_is_silent_if_that_one_said_why() -> None:
    assert fails(because_of_another=True)
    assert fails()
    assert not fails(because_of_another=True)


@pytest.mark.usefixtures("port")
def test_commands_that_are_not_shared_are_done_by_the_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(["inspect", "no_such_file.h5mu"]) == 0
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert run(["inspect", "no_such_file.h5mu"]) == 2
    assert "no_such_file.h5mu" in capfd.readouterr().err
