"""Seconds per epoch of ours and of the peers, in one run on one machine; then where a step's time goes.

Each training is a process of its own, confined to the same cores; rounds alternate (A B A B). The figure
of ours is the median over the epochs after the first; of several rounds the median is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import common, peers
from benchmarks.common import Table, child_env, last_line, read_json, run, say

# What the project promises: the peer's seconds per epoch over ours, by (settings, peer, task).
GOALS = {
    ("like", "scvaeit", "reap"): 10.0,
    ("like", "scvaeit", "mop"): 15.0,
    ("default", "scvaeit", "reap"): 8.0,
    ("default", "scvaeit", "mop"): 12.0,
    ("default", "totalvi", "reap"): 8.0,
    ("default", "multivi", "mop"): 15.0,
    ("default", "midas", "reap"): 20.0,
    ("default", "midas", "mop"): 20.0,
}
COLUMNS = (
    "task",
    "compared",
    "method",
    "minibatch",
    "epochs",
    "s_per_epoch",
    "rounds",
    "peak_GiB",
    "times_ours",
    "goal",
)
TITLE = "Seconds per epoch"
NOTE = """\
times ours: seconds of that method over those of mosaicvi in the same block of rows.
like for like: the reference's widths, likelihoods, weights and minibatch, all cells train.
defaults: each as it comes; ours holds a tenth of the cells out and validates on them within the epoch."""

Runs = dict[str, list[dict[str, Any]]]


def main() -> None:
    options = _options()
    common.begin(options)
    with tempfile.TemporaryDirectory(prefix="mosaicvi-speed-") as folder:
        work = Path(folder)
        table = Table(name="speed", title=TITLE, columns=COLUMNS, note=NOTE)
        profiled = []
        for task in common.tasks(options):
            data = task_folder(task, options, work)
            _add_rows(table, task, _all_rounds(task, data, options, work))
            for settings in _settings(options) if options.phases else ():
                found = once(settings, task, data, options, work, phases=options.phases)
                profiled += [] if found is None else [(task, settings, found)]
    tables = [table]
    if profiled:
        from benchmarks.phases import phase_table

        tables.append(phase_table(profiled, options.phases))
    common.show("speed", tables, options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "speed")
    common.add_data(parser)
    peers.add_peers(parser)
    parser.add_argument("--epochs", type=int, help="of each run of ours [6; 2 with --quick]")
    parser.add_argument("--rounds", type=int, help="runs of each method [2; 1 with --quick]")
    parser.add_argument("--phases", type=int, metavar="STEPS", help="steps to profile, 0 for none [40; 3]")
    parser.add_argument(
        "--settings", choices=("like", "default"), action="append", help="of ours; may be repeated [both]"
    )
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="of ours [%(default)s]")
    options = parser.parse_args()
    for name, quick, full in (("epochs", 2, 6), ("rounds", 1, 2), ("phases", 3, 40)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    if options.accelerator == "gpu":
        options.phases = 0  # its steps overlap, so that phases on the host say nothing
    return options


def _settings(options: argparse.Namespace) -> list[str]:
    return options.settings or ["like", "default"]


def task_folder(task: str, options: argparse.Namespace, work: Path) -> Path:
    """Where TASK.h5mu lies; the simulated one is written first, by a process of its own."""
    if task != "simulated":
        return Path(options.data).resolve()
    if not (work / "simulated.h5mu").exists():
        how = "quick" if options.quick else "full"
        args = [sys.executable, "-m", "benchmarks.ours", work, task, work, "1", "--simulate", how]
        child = run(args, work / "simulate.log", env=child_env(ours=True))
        if not child.ok:
            raise SystemExit(f"simulating failed: {last_line(child.said)}")
    return work


def once(
    settings: str, task: str, data: Path, options: argparse.Namespace, work: Path, *, phases: int = 0
) -> dict[str, Any] | None:
    """One training of ours in a process of its own; None, with the reason on stderr, if it failed."""
    out = work / f"ours-{settings}-{task}"
    args = [sys.executable, "-m", "benchmarks.ours", data, task, out, str(options.epochs)]
    args += ["--settings", settings, "--accelerator", options.accelerator, "--phases", str(phases)]
    child = run(args, work / "ours.log", env=child_env(ours=True))
    if not child.ok:
        say(f"{task}: mosaicvi ({settings}) failed: {last_line(child.said)}")
        return None
    return read_json(out / "time.json")


def _all_rounds(task: str, data: Path, options: argparse.Namespace, work: Path) -> Runs:
    """Every method once, then every method again."""
    runs: Runs = defaultdict(list)
    side = peers.PeerRuns(options.tools, work, options.peer_epochs)
    chosen = [p for p in options.peer if task in peers.CAN[p.key]]
    for i in range(options.rounds):
        for settings in _settings(options):
            _keep(runs, settings, once(settings, task, data, options, work), f"{task}, round {i + 1}")
        for peer in chosen:
            _keep(runs, peer.key, side.once(peer, data, task), f"{task}, round {i + 1}")
    return runs


def _keep(runs: Runs, method: str, found: dict[str, Any] | None, where: str) -> None:
    if found is not None:
        runs[method].append(found)
        say(f"{where}: {peers.NAMES.get(method, f'mosaicvi ({method})')} {found['epoch_s']:.3g} s/epoch")


def _add_rows(table: Table, task: str, runs: Runs) -> None:
    """A block of rows for each comparison: ours first, then the peers."""
    for settings, others in (("like", ("scvaeit",)), ("default", tuple(peers.CAN))):
        if settings not in runs:
            continue
        ours = _median(runs[settings])
        for method in (settings, *(m for m in others if m in runs)):
            found = runs[method]
            goal = GOALS.get((settings, method, task))
            table.add(
                task=task,
                compared="like for like" if settings == "like" else "defaults",
                method=peers.NAMES.get(method, "mosaicvi"),
                minibatch=found[0].get("batch", peers.MINIBATCH.get(method)),
                epochs=found[0]["epochs"],
                s_per_epoch=_median(found),
                rounds=" ".join(f"{f['epoch_s']:.3g}" for f in found),
                peak_GiB=max(f["peak_gib"] for f in found),
                times_ours=None if method == settings else _median(found) / ours,
                goal=None if goal is None else f"≥ {goal:g}",
            )


def _median(found: list[dict[str, Any]]) -> float:
    return float(statistics.median(f["epoch_s"] for f in found))


if __name__ == "__main__":
    main()
