"""Peak memory of intervals of all cells and genes, written to one file, and of learning what they need.

A simulated mosaic of RNA and accessibility, as sparse as real ones, of which a third of the cells did not
measure RNA. `train` also fits the read-out and the spreads of values, which are saved with the model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.common import Table, child_env, last_line, run, say
from benchmarks.memory import START

COLUMNS = ("cells", "genes", "what", "peak_GiB", "limit", "within", "seconds", "output_GiB")
LIMIT = 2.0  # GiB
NOTE = """\
train: mosaicvi train DATA --batch-key batch --output MODEL, with a read-out and spreads of values.
impute: mosaicvi impute MODEL DATA --modality rna --interval 0.9 --output FILE, of all cells."""
MAKE = "import sys; from benchmarks.tasks import simulated_sparse; \
simulated_sparse(int(sys.argv[1]), genes=int(sys.argv[2]), peaks=int(sys.argv[3])).write_h5mu(sys.argv[4])"


def main() -> None:
    parser = common.parser(__doc__, "interval_memory")
    parser.add_argument("--cells", type=int, help="[60000; 600 with --quick]")
    parser.add_argument("--genes", type=int, help="[20000; 200 with --quick]")
    parser.add_argument("--epochs", type=int, default=1, help="of the training [%(default)s]")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for the data, the model and the output")
    options = parser.parse_args()
    common.begin(options)
    cells = options.cells or (600 if options.quick else 60_000)
    genes = options.genes or (200 if options.quick else 20_000)
    table = Table(name="intervals", title="Peak memory of intervals", columns=COLUMNS, note=NOTE)
    with tempfile.TemporaryDirectory(prefix="mosaicvi-intervals-", dir=options.scratch) as folder:
        data, model, output = (Path(folder) / name for name in ("data.h5mu", "model", "intervals.h5mu"))
        # apart, as a child begins with the memory of the process that starts it
        _step([sys.executable, "-c", MAKE, cells, genes, genes // 4, data], Path(folder))
        train = ["train", data, "--batch-key", "batch", "--output", model, "--accelerator", "cpu", "--quiet"]
        impute = [
            "impute",
            model,
            data,
            "--modality",
            "rna",
            "--interval",
            "0.9",
            "--output",
            output,
            "--quiet",
        ]
        for what, args in (
            ("train", [*train, "--max-epochs", options.epochs]),
            ("impute", [*impute, "--no-accuracy"]),
        ):
            child = _step([sys.executable, "-c", START, *args], Path(folder))
            table.add(
                cells=cells,
                genes=genes,
                what=what,
                peak_GiB=child.peak_gib,
                limit=LIMIT,
                within=child.peak_gib < LIMIT,
                seconds=child.seconds,
                output_GiB=output.stat().st_size / common.GIB if output.exists() else None,
            )
            say(f"{what}: {child.peak_gib:.2f} GiB")
    common.show("interval_memory", [table], options)


def _step(args: list[object], folder: Path) -> common.Child:
    """A process that has to end well."""
    child = run(args, folder / "log", env=child_env(ours=True))
    if not child.ok:
        raise SystemExit(last_line(child.said))
    return child


if __name__ == "__main__":
    main()
