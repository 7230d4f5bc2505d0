"""What every benchmark shares: options, the machine's description, tables, and measured child processes.

Nothing heavy is imported here. A child inherits the peak memory of the process that starts it, so the
parent of a measured child must stay small.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TOOLS = ROOT.parent / "shared" / "tools"
GIB = 2**30
REAL = ("reap", "mop")
TASKS = (*REAL, "simulated")

# --- options --------------------------------------------------------------------------------------


def parser(doc: str | None, module: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks take."""
    out = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--threads", type=int, default=min(2, n_cores()), help="cores to use [%(default)s]")
    out.add_argument("--csv", type=Path, metavar="FILE", help="also write the tables as CSV")
    out.add_argument("--markdown", action="store_true", help="print the tables as Markdown, for the docs")
    out.add_argument("--fill", type=Path, metavar="FILE", help="put the tables into a page of the docs")
    out.add_argument("--quick", action="store_true", help="seconds instead of minutes: to see that it runs")
    return out


def add_data(out: argparse.ArgumentParser) -> None:
    """Options that say which mosaics."""
    out.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="folder of the real mosaics")
    out.add_argument(
        "--task", action="append", choices=TASKS, help="which mosaic; may be repeated [all that are there]"
    )


def begin(options: argparse.Namespace) -> None:
    """Confine this process and its children to so many cores."""
    if options.threads < 1:
        raise SystemExit("--threads: at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(options.threads)


def tasks(options: argparse.Namespace) -> list[str]:
    """The mosaics to use; says which real ones are not there."""
    asked = options.task or (["simulated"] if options.quick else list(TASKS))
    there = [t for t in asked if t == "simulated" or (options.data / f"{t}.h5mu").exists()]
    for task in asked:
        if task not in there:
            say(f"skipped {task}: no {task}.h5mu in {shown(options.data)}")
    if not there:
        raise SystemExit("nothing to run: name the folder of the real mosaics with --data DIR")
    return there


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- what is printed ------------------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Table:
    """Rows of named values under a title; `note` explains what needs it.

    One that is not printed is written as CSV alone, where that is asked for.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    note: str = ""
    is_printed: bool = True

    def add(self, **values: Any) -> None:
        """One more row; column names have _ for a blank and per for a slash."""
        unknown = set(values) - set(self.columns)
        if unknown:
            raise ValueError(f"no column {sorted(unknown)[0]!r} in {list(self.columns)}")
        self.rows.append(values)


def machine(threads: int) -> str:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    load = f", load {os.getloadavg()[0]:.1f} now" if hasattr(os, "getloadavg") else ""
    return (
        f"{_cpu()}, {os.cpu_count()} cores of which {threads} used, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"mosaicvi {version('mosaicvi')}{load}"
    )


def version(package: str) -> str:
    """Version of a package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != "mosaicvi":
            return "?"
        text = (ROOT / "src" / "mosaicvi" / "_version.py").read_text()
        return text.split('"')[1] if '"' in text else "?"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command(module: str) -> str:
    """The command line that was given."""
    return shlex.join(["python", "-m", f"benchmarks.{module}", *[shown(a) for a in sys.argv[1:]]])


def shown(path: object) -> str:
    """A path relative to the repository, where it lies near it."""
    text = str(path)
    if os.path.isabs(text) and Path(text).is_relative_to(ROOT.parent):
        return os.path.relpath(text, ROOT)
    return text


def show(module: str, tables: Sequence[Table], options: argparse.Namespace) -> None:
    """Print the machine, the command and the tables; write CSV where asked."""
    day = datetime.date.today().isoformat()
    wide = Console().is_terminal
    console = Console(width=None if wide else 200, soft_wrap=not wide)
    head = [machine(options.threads), command(module), f"measured on {day}"]
    if options.markdown:
        print(*_said(head), sep="\n\n", end="\n\n")
    else:
        console.print(*head, sep="\n", markup=False, highlight=False)
    printed = [table for table in tables if table.is_printed]
    for table in printed:
        if options.markdown:
            print(markdown(table), end="\n\n")
        else:
            console.print(_rich(table))
            console.print(table.note, markup=False, highlight=False)
    if options.fill is not None:
        fill(options.fill, module, "\n\n".join([*_said(head), *map(markdown, printed)]))
    if options.csv is not None:
        for i, table in enumerate(tables):
            path = options.csv if i == 0 else options.csv.with_stem(f"{options.csv.stem}-{table.name}")
            write_csv(path, table, head)


def _said(head: Sequence[str]) -> list[str]:
    return [f"Machine: {head[0]}.", f"Command: `{head[1]}` ({head[2]})."]


def fill(page: Path, module: str, text: str) -> None:
    """Put text between the marks of a benchmark in a page."""
    first, last = f"<!-- begin {module} -->", f"<!-- end {module} -->"
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"--fill: {page} has no {first} and {last}")
    page.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}")


def _rich(table: Table) -> RichTable:
    out = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in table.columns:
        out.add_column(heading(name), justify="right" if _is_numeric(table, name) else "left")
    for row in table.rows:
        out.add_row(*[text(row.get(name)) for name in table.columns])
    return out


def markdown(table: Table) -> str:
    """The table for a page of the docs."""
    sides = ["---:" if _is_numeric(table, name) else "---" for name in table.columns]
    lines = [list(map(heading, table.columns)), sides]
    lines += [[text(row.get(name)).replace("|", "\\|") for name in table.columns] for row in table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (f"**{table.title}**", body, table.note) if part)


def write_csv(path: Path, table: Table, head: Sequence[str]) -> None:
    """Write the values as they are, with the machine and the command as comments on top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in head)
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows([row.get(name, "") for name in table.columns] for row in table.rows)


def heading(column: str) -> str:
    """A column's name as it is printed."""
    return column.replace("_per_", "/").replace("_", " ")


def text(value: Any) -> str:
    """A value as it is printed: three digits that count, or a dash for nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_numeric(table: Table, name: str) -> bool:
    values = [row.get(name) for row in table.rows]
    return any(isinstance(v, SupportsFloat) for v in values)


def say(message: str) -> None:
    """A line of progress, on stderr so that the tables can be piped."""
    print(message, file=sys.stderr, flush=True)


# --- measured children ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Child:
    """How a process ended: its peak memory in GiB, wall-clock seconds and the end of what it said."""

    ok: bool
    peak_gib: float
    seconds: float
    said: str


def run(args: Sequence[object], log: Path, *, env: Mapping[str, str] | None = None) -> Child:
    """Run a process to its end, in the repository's root; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(a) for a in args], cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")[-2000:]
    kib = 1 if sys.platform == "darwin" else 1024
    return Child(
        ok=process.returncode == 0,
        peak_gib=usage.ru_maxrss * kib / GIB,
        seconds=time.perf_counter() - began,
        said=said,
    )


def last_line(said: str) -> str:
    """The last line of a log, which names the error."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def child_env(*, ours: bool) -> dict[str, str]:
    """Environment of a child: ours finds the sources, a peer does not."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if ours:
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [str(ROOT / p) if p and not os.path.isabs(p) else p for p in given]
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT / "src"), *filter(None, paths)]))
    return env


def read_json(path: Path) -> dict[str, Any]:
    """What a child left."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
