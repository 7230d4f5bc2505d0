"""Python processes that have everything imported when they begin: copies of one that has done no more."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks import common

ROOT = Path(__file__).parents[1]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "mosaicvi.cli.app",
        "mosaicvi.model",
        "mosaicvi.datasets",
        "mosaicvi.view",
        "sklearn.neighbors",
        __name__,
    ]
)


def start(
    line: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    out: Path | None = None,
    err: Path | None = None,
) -> BaseProcess:
    """Begin a process as ``python LINE`` in the repository's root; what it prints may go to files."""
    given = [str(word) for word in line]
    process = _context.Process(target=_play, args=(given, dict(os.environ if env is None else env), out, err))
    process.start()
    return process


def run(line: Sequence[object], *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run such a process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start(line, env=env, out=out, err=err)
        process.join(timeout=600)
        process.kill()  # if it hangs
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(line, process.exitcode, out.read_text(), err.read_text())


def _play(line: list[str], env: dict[str, str], out: Path | None, err: Path | None) -> None:
    """Be the process."""
    import numba

    for number, path in ((1, out), (2, err)):
        if path is not None:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, number)
            os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    tempfile.tempdir = None  # said by the environment
    numba.config.reload_config()  # type: ignore[attr-defined]
    common.run = _measured
    kind, *rest = line
    if kind == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(line)
        runpy.run_path(kind, run_name="__main__")


def _measured(args: Sequence[object], log: Path, *, env: Mapping[str, str] | None = None) -> common.Child:
    """Run a child as `benchmarks.common.run` does, as a copy of this process."""
    assert str(args[0]) == sys.executable
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            _play([str(a) for a in args[1:]], dict(os.environ if env is None else env), log, log)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    return common.Child(
        ok=status == 0,
        peak_gib=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / common.GIB,
        seconds=time.perf_counter() - began,
        said=log.read_text(errors="replace")[-2000:],
    )
