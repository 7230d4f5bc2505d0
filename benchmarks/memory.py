"""Peak memory of whole processes: training with the command line, and imputing everything to a file.

A figure is the largest resident set that the kernel saw (ru_maxrss): Python, torch, the data, the network,
its gradients and moments. Files that are only cached by the system do not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import common, peers
from benchmarks.common import Child, Table, child_env, last_line, run, say
from benchmarks.speed import task_folder

LIMITS = {("mop", "train"): 1.2, ("mop", "impute"): 1.5}  # GiB
COLUMNS = ("task", "what", "settings", "peak_GiB", "limit", "within", "seconds", "output_GiB")
NOTE = """\
train: mosaicvi train DATA --batch-key batch --output MODEL, as many epochs as said on top.
impute: mosaicvi impute MODEL DATA --output FILE, every modality of every cell, measured or not.
import: the same process with nothing to do, which is what Python and torch take by themselves."""
START = "import sys; from mosaicvi.cli import main; sys.argv[0] = 'mosaicvi'; sys.exit(main())"
IMPORT = "import mosaicvi.cli.app; from mosaicvi import MosaicVI"


def main() -> None:
    options = _options()
    common.begin(options)
    title = f"Peak memory, {options.epochs} epochs"
    table = Table(name="memory", title=title, columns=COLUMNS, note=NOTE)
    with tempfile.TemporaryDirectory(prefix="mosaicvi-memory-", dir=options.scratch) as folder:
        work = Path(folder)
        child = run([sys.executable, "-c", IMPORT], work / "import.log", env=child_env(ours=True))
        _add(table, "", "import", "", child)
        for task in common.tasks(options):
            data = task_folder(task, options, work) / f"{task}.h5mu"
            for preset in options.preset or ("default", "published"):
                _train_and_impute(table, task, preset, data, options, work)
            _peers(table, task, data.parent, options, work)
    common.show("memory", [table], options)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "memory")
    common.add_data(parser)
    peers.add_peers(parser)
    parser.add_argument("--epochs", type=int, help="of each training [5; 1 with --quick]")
    parser.add_argument("--preset", choices=("default", "published"), action="append", help="[both]")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for models and imputed files")
    options = parser.parse_args()
    if options.epochs is None:
        options.epochs = 1 if options.quick else 5
    if options.quick and options.preset is None:
        options.preset = ["default"]
    return options


def _train_and_impute(
    table: Table, task: str, preset: str, data: Path, options: argparse.Namespace, work: Path
) -> None:
    model, output = work / f"model-{task}-{preset}", work / f"imputed-{task}-{preset}.h5mu"
    train = ["train", data, "--batch-key", "batch", "--output", model, "--preset", preset, "--quiet"]
    child = _cli([*train, "--max-epochs", str(options.epochs), "--accelerator", "cpu"], work)
    if not _add(table, task, "train", preset, child):
        return
    child = _cli(["impute", model, data, "--output", output, "--quiet"], work)
    _add(table, task, "impute", preset, child, output)
    output.unlink(missing_ok=True)


def _cli(args: list[object], work: Path) -> Child:
    """One command of `mosaicvi` as a process."""
    return run([sys.executable, "-c", START, *args], work / "cli.log", env=child_env(ours=True))


def _add(table: Table, task: str, what: str, settings: str, child: Child, output: Path | None = None) -> bool:
    """A row; False, with the reason on stderr, if the process failed."""
    if not child.ok:
        say(f"{task}: {what} ({settings}) failed: {last_line(child.said)}")
        return False
    limit = LIMITS.get((task, what))
    table.add(
        task=task,
        what=what,
        settings=settings,
        peak_GiB=child.peak_gib,
        limit=limit,
        within=None if limit is None else child.peak_gib < limit,
        seconds=child.seconds,
        output_GiB=None if output is None else output.stat().st_size / common.GIB,
    )
    say(f"{task} {what} {settings}: {child.peak_gib:.2f} GiB")
    return True


def _peers(table: Table, task: str, data: Path, options: argparse.Namespace, work: Path) -> None:
    side = peers.PeerRuns(options.tools, work, options.peer_epochs)
    for peer in options.peer:
        found = side.once(peer, data, task) if task in peers.CAN[peer.key] else None
        if found is not None:
            for what, key in (("train", "peak_gib"), ("train and impute", "peak_all_gib")):
                table.add(task=task, what=what, settings=peer.name, peak_GiB=found[key])


if __name__ == "__main__":
    main()
