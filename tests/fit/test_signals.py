from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mosaicvi.fit import signals
from mosaicvi.fit.signals import stop_requests

SOURCE = str(Path(signals.__file__).parents[2])
BOTH = [signal.SIGINT, signal.SIGTERM]

WORK = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from mosaicvi.fit.signals import stop_requests
    with stop_requests() as stop:
        print("ready", flush=True)
        for _ in range(1000):
            time.sleep(0.01)
            if stop.requested and "stubborn" not in sys.argv:
                print("stopped by", stop.requested.name, flush=True)
                sys.exit(128 + stop.requested)
            if stop.requested:
                print("noted", flush=True)
                sys.argv.append("noted")
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORK), *arguments],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested is number
    assert signal.getsignal(number) is before


def test_the_handlers_are_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    with pytest.raises(RuntimeError, match="stop"), stop_requests():
        raise RuntimeError("stop")
    assert [signal.getsignal(number) for number in BOTH] == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    seen = []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in BOTH]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


@pytest.mark.parametrize("number", BOTH)
def test_a_process_finishes_its_step(number: signal.Signals) -> None:
    process = start()
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert output == f"stopped by {number.name}\n"
    assert process.returncode == 128 + number


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_second_signal_ends_at_once(first: signal.Signals, second: signal.Signals) -> None:
    process = start("stubborn")
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "noted\n"
    started = time.monotonic()
    process.send_signal(second)
    process.communicate(timeout=20)
    assert process.returncode == -second
    assert time.monotonic() - started < 5
