"""Quality of the latent space and of imputed values, beside baselines and peers, on a folder of mosaics.

Finds every task in the folder by its files, trains our defaults with several seeds, and imputes with the
nearest cells and a ridge regression in the same run. Without a folder of mosaics it takes simulated ones. A
simulated table of peptides, of which 30, 60 or 90 % is missing, comes on top.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import common, models, peers, quality_tables, records, variants
from benchmarks.common import say
from benchmarks.records import Record

MISSING = (0.3, 0.6, 0.9)
PEER_EPOCHS = 60


def main() -> None:
    options = _options()
    common.begin(options)
    if options.read:
        found = [record for path in options.read for record in records.read(path)]
        effort = "runs of " + ", ".join(path.name for path in options.read)
    else:
        found, effort = _run(options), _effort(options)
    common.show("quality", quality_tables.tables(found, effort), options)
    _keep(found, options)


def _keep(found: list[Record], options: argparse.Namespace) -> None:
    """Write every run by itself beside the tables."""
    if options.csv is not None:
        path = options.csv.with_stem(f"{options.csv.stem}-runs")
        common.write_csv(path, records.as_table(found), [common.command("quality")])


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "quality")
    parser.add_argument("--data", type=Path, default=common.DATA, metavar="DIR", help="folder of mosaics")
    parser.add_argument(
        "--task", action="append", metavar="NAME", help="of the folder; may be repeated [all]"
    )
    parser.add_argument(
        "--variants",
        metavar="A,B,…",
        help=f"of {', '.join(variants.MEANING)}, or NAME:PARAMETER=VALUE[:…] for other parameters [default]",
    )
    parser.add_argument("--seeds", type=int, help="how many [3; 1 with --quick]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    parser.add_argument("--batch-size", type=int, help="[as by default]")
    parser.add_argument(
        "--metrics", choices=("score", "scib"), default="score", help="scib adds those of scib-metrics"
    )
    parser.add_argument(
        "--time-to-quality",
        action="store_true",
        help="also train for 2, 4, 8, … epochs until each baseline and peer is reached, and note the seconds",
    )
    parser.add_argument("--scorer", type=Path, metavar="SCRIPT", help="score ours by this script")
    parser.add_argument("--no-peptides", action="store_true", help="leave out the table of peptides")
    parser.add_argument(
        "--from",
        dest="read",
        action="append",
        type=Path,
        metavar="FILE",
        help="run nothing; make the tables of the …-runs.csv of earlier runs; may be repeated",
    )
    models.add_models(parser)
    peers.add_peers(parser, epochs=PEER_EPOCHS)
    options = parser.parse_args()
    if options.variants is None:
        options.variants = "published,default" if options.quick else "default"
    if options.epochs is None and options.quick:
        options.epochs = 2
    if options.seeds is None:
        options.seeds = 1 if options.quick else 3
    if options.seeds < 1:
        parser.error("--seeds: at least 1")
    return options


def _run(options: argparse.Namespace) -> list[Record]:
    """All runs that were asked for."""
    import torch

    from benchmarks import made, mosaics, scib

    torch.set_num_threads(options.threads)
    if options.metrics == "scib" and (reason := scib.missing()):
        say(f"--metrics scib {reason}; left out")
        options.metrics = "score"
    chosen = variants.chosen(options.variants)
    found: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="mosaicvi-quality-") as folder:
        data, work = options.data, Path(folder)
        names = [] if options.quick else mosaics.find(data, options.task)
        if not names and (options.quick or not options.task):
            say("simulated mosaics" + ("" if options.quick else f": there are none in {common.shown(data)}"))
            data = work
            made.write_tasks(data, quick=options.quick)
            names = mosaics.find(data, options.task)
        for name in names:
            found += _mosaic(data, name, chosen, options, work)
            _keep(found, options)  # so that nothing is lost if a later one fails
        if not options.no_peptides:
            found += _peptides(chosen, options)
    if not found:
        raise SystemExit("nothing to run: name the folder of the mosaics with --data DIR")
    return found


def _mosaic(
    data: Path, name: str, chosen: dict[str, variants.Parameters], options: argparse.Namespace, work: Path
) -> Iterator[Record]:
    from benchmarks.mosaics import read_task
    from benchmarks.trials import Trial

    trial = Trial(read_task(data, name), options)
    yield from trial.baselines()
    side = peers.PeerRuns(options.tools, work, options.peer_epochs)
    for peer in options.peer:
        yield from trial.peer(peer, side)
    for variant, parameters in chosen.items():
        if variants.suits(variant, trial.task.mosaic):
            for seed in range(options.seeds):
                yield from trial.ours(variant, parameters, seed)


def _effort(options: argparse.Namespace) -> str:
    epochs = "as many epochs as by default" if options.epochs is None else f"{options.epochs} epochs"
    return f"{epochs}, {options.seeds} seed{'s' if options.seeds > 1 else ''}"


def _peptides(chosen: dict[str, variants.Parameters], options: argparse.Namespace) -> Iterator[Record]:
    """Runs on tables of which a share is missing."""
    from benchmarks import peptides
    from benchmarks.trials import trained

    size = {"samples": 60, "peptides": 24} if options.quick else {"samples": 1000, "peptides": 300}
    for missing in MISSING:
        made = peptides.peptide_table(missing, **size)
        task = f"{100 * missing:g}"
        simple = {"mean of the peptide": peptides.by_mean, "15 nearest samples": peptides.by_neighbours}
        for name, fill in simple.items():
            for score, value in peptides.errors(made, fill(made)).items():
                yield Record(part="peptides", task=task, by="baseline", method=name, score=score, value=value)
        mosaic = peptides.registered(made)
        for variant, parameters in chosen.items():
            if not variants.suits(variant, mosaic):
                continue
            for seed in range(options.seeds):
                model, seconds = trained(mosaic, parameters, seed, options)
                filled = model.get_imputed_values(modality="peptides").to_numpy(float)
                found = peptides.errors(made, filled) | {"seconds": seconds}
                say(f"peptides, {task} % missing, {variant}, seed {seed}: rmse {found['rmse']:.3f}")
                for score, value in found.items():
                    yield Record(
                        part="peptides",
                        task=task,
                        by="ours",
                        method=variants.MEANING.get(variant, variant),
                        seed=seed,
                        score=score,
                        value=value,
                    )


if __name__ == "__main__":
    main()
