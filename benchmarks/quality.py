"""Quality of the embedding and of imputed values, setting by setting, over several seeds.

Trains on the real mosaics where they are, on a simulated one, and on a simulated table of peptides of which
30, 60 or 90 % is missing. Every variant is scored alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Table, say

Parameters = dict[str, Any]
MISSING = (0.3, 0.6, 0.9)
# Each row adds to the one before it. "hand", "aware" and "peaks" stand for what depends on the mosaic.
ROWS: dict[str, Parameters] = {
    "seed": {"preset": "seed", "beta_modal": "hand"},
    "balanced": {"beta_modal": "auto"},
    "library": {"library_aware": "aware"},
    "peaks": {"peaks": "counts"},
    "layer": {"norm": "layer"},
    "decoder": {"encode_covariates": False},
    "gamma": {"gamma": 20.0, "unbiased_mmd": True},
    "nomask": {"decode_mask": False, "gamma": 0.0},
}
MEANING = {
    "seed": "seed",
    "balanced": "+ weights of modalities balanced",
    "library": "+ library-aware counts",
    "peaks": "+ peaks as Poisson counts, library-aware",
    "layer": "+ layer norm",
    "decoder": "+ covariates only in the decoder",
    "gamma": "+ gamma = 20, unbiased",
    "nomask": "+ no mask embedding in the decoder, gamma = 0",
    "default": "our defaults",
}
SCORES = (
    "mix",
    "ari",
    "nmi",
    "knn_label",
    "transfer",
    "asw_label",
    "rna_r",
    "rna_r_all",
    "adt_r",
    "adt_rho",
    "adt_r_all",
    "auc_peak",
    "auc_cell",
    "auc",
)
NOTE = """\
Mean over seeds ± standard deviation. mix: neighbour mixing of groups; knn label: share of a cell's 15
neighbours with its label; transfer: labels from the other groups; r: correlation over hidden cells,
mean over features; rho: the same of ranks; r all: over all entries; auc: of hidden accessibility."""
PEPTIDE_NOTE = """\
Over entries that were measured and held out. RMSE in log intensity; r: correlation of what is left when each
peptide's mean is taken away."""


def main() -> None:
    options = _options()
    common.begin(options)
    import torch

    torch.set_num_threads(options.threads)
    variants = _variants(options.variants)
    raw = Table(name="runs", title="Every run", columns=("task", "variant", "seed", "score", "value"))
    tables = [_mosaics(variants, options, raw)] if common.tasks(options) else []
    if not options.no_peptides:
        tables.append(_peptides(variants, options, raw))
    common.show("quality", tables, options)
    if options.csv is not None:
        say(f"every run by itself: {options.csv.stem}-runs.csv")
        path = options.csv.with_stem(f"{options.csv.stem}-runs")
        common.write_csv(path, raw, [common.command("quality")])


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, "quality")
    common.add_data(parser)
    parser.add_argument(
        "--variants",
        default=None,
        metavar="A,B,…",
        help=f"of {', '.join(MEANING)}, or NAME:PARAMETER=VALUE[:…] for other parameters [all]",
    )
    parser.add_argument("--seeds", type=int, help="how many [3; 1 with --quick]")
    parser.add_argument("--epochs", type=int, help="of each training [the library's own; 2 with --quick]")
    parser.add_argument("--batch-size", type=int, help="[as by default]")
    parser.add_argument("--scorer", type=Path, metavar="SCRIPT", help="score real mosaics by this script")
    parser.add_argument("--no-peptides", action="store_true", help="leave out the table of peptides")
    options = parser.parse_args()
    if options.variants is None:
        options.variants = "seed,default" if options.quick else ",".join(MEANING)
    if options.epochs is None and options.quick:
        options.epochs = 2
    if options.seeds is None:
        options.seeds = 1 if options.quick else 3
    return options


# --- variants -------------------------------------------------------------------------------------


def _variants(said: str) -> dict[str, Parameters]:
    """Parameters of each variant; a row of the table has those of all rows above it."""
    rows: dict[str, Parameters] = {"default": {}}
    so_far: Parameters = {}
    for name, more in ROWS.items():
        so_far = so_far | more
        rows[name] = so_far
    out = {}
    for one in filter(None, (s.strip() for s in said.split(","))):
        name, *changes = one.split(":")
        if name not in rows:
            raise SystemExit(f"--variants: unknown {name!r}; use {', '.join(MEANING)}")
        out[one] = rows[name] | dict(map(_change, changes))
    return out


def _change(said: str) -> tuple[str, Any]:
    name, equals, value = said.partition("=")
    if not equals:
        raise SystemExit(f"--variants: {said!r}; give PARAMETER=VALUE")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return name, value


def _for_mosaic(parameters: Parameters, mosaic: Any) -> tuple[Any, Parameters]:
    """The mosaic as the variant reads it, and the parameters with what depends on it filled in."""
    from benchmarks.tasks import hand_weights
    from mosaicvi import likelihoods

    rest = dict(parameters)
    if rest.pop("peaks", None) == "counts":
        mosaic = _as_registered(mosaic)
    elif rest.get("preset") == "seed":
        mosaic = mosaic.as_published()
    aware = {m.name: likelihoods.get(m.likelihood).counts for m in mosaic.modalities}
    if rest.get("library_aware") == "aware":
        rest["library_aware"] = aware
    if rest.get("beta_modal") == "hand":
        rest["beta_modal"] = hand_weights(mosaic)
    return mosaic, rest


def _as_registered(mosaic: Any) -> Any:
    """The mosaic with its likelihoods as the user's own word, which the seed's preset leaves alone."""
    registry = mosaic.registry
    setup = dataclasses.replace(registry.setup, likelihoods=dict(registry.likelihoods))
    return dataclasses.replace(mosaic, registry=dataclasses.replace(registry, setup=setup))


def _trained(mosaic: Any, parameters: Parameters, seed: int, options: argparse.Namespace) -> Any:
    from mosaicvi import MosaicVI

    mosaic, rest = _for_mosaic(parameters, mosaic)
    model = MosaicVI(mosaic, seed=seed, **rest)
    return model.train(
        options.epochs, batch_size=options.batch_size, seed=seed, accelerator="cpu", progress=False
    )


# --- mosaics --------------------------------------------------------------------------------------


def _mosaics(variants: Mapping[str, Parameters], options: argparse.Namespace, raw: Table) -> Table:
    """A row for each mosaic and variant."""
    from benchmarks.scoring import real_task, scores, script_scores, simulated_task

    title = f"Embedding and imputed values, {_effort(options)}"
    table = Table(name="quality", title=title, columns=("task", "variant", *SCORES, "seconds"), note=NOTE)
    for name in common.tasks(options):
        real = name in common.REAL
        task = real_task(options.data, name) if real else simulated_task(quick=options.quick)
        by_script = options.scorer is not None and real

        def score(model: Any, task: Any = task, by_script: bool = by_script) -> dict[str, float]:
            return script_scores(options.scorer.resolve(), model, task) if by_script else scores(model, task)

        for variant, parameters in variants.items():
            if variant == "peaks" and not any(m.likelihood == "Poisson" for m in task.mosaic.modalities):
                continue
            found = _seeds(name, variant, parameters, task.mosaic, score, options, raw)
            shown = {k: _spread(v) for k, v in found.items() if k in (*SCORES, "seconds")}
            table.add(task=name, variant=MEANING.get(variant, variant), **shown)
    table.columns = [c for c in table.columns if any(c in row for row in table.rows)]
    return table


def _seeds(
    name: str,
    variant: str,
    parameters: Parameters,
    mosaic: Any,
    score: Callable[[Any], dict[str, float]],
    options: argparse.Namespace,
    raw: Table,
) -> dict[str, list[float]]:
    """Scores of every seed."""
    out: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        began = time.perf_counter()
        model = _trained(mosaic, parameters, seed, options)
        seconds = time.perf_counter() - began
        found = score(model) | {"seconds": seconds}
        for key, value in found.items():
            out[key].append(value)
            raw.add(task=name, variant=variant, seed=seed, score=key, value=value)
        say(f"{name}, {variant}, seed {seed}: trained in {seconds:.0f} s, {_brief(found)}")
    return out


def _effort(options: argparse.Namespace) -> str:
    epochs = "as many epochs as by default" if options.epochs is None else f"{options.epochs} epochs"
    return f"{epochs}, {options.seeds} seed{'s' if options.seeds > 1 else ''}"


def _brief(found: Mapping[str, float]) -> str:
    keys = ("mix", "ari", "knn_label", "rna_r", "adt_r", "auc_peak", "rmse")
    return ", ".join(f"{k} {found[k]:.3f}" for k in keys if k in found)


def _spread(values: list[float]) -> str | float:
    if len(values) < 2:
        return values[0]
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


# --- peptides -------------------------------------------------------------------------------------


def _peptides(variants: Mapping[str, Parameters], options: argparse.Namespace, raw: Table) -> Table:
    """A row for each share missing and method."""
    from benchmarks import peptides

    size = {"samples": 60, "peptides": 24} if options.quick else {"samples": 1000, "peptides": 300}
    title = "Simulated peptides, {samples} samples × {peptides}, ".format(**size) + _effort(options)
    columns = ("missing_%", "variant", "rmse", "r", "entries", "seconds")
    table = Table(name="peptides", title=title, columns=columns, note=PEPTIDE_NOTE)
    for missing in MISSING:
        made = peptides.peptide_table(missing, **size)
        simple = {"mean of the peptide": peptides.by_mean, "15 nearest samples": peptides.by_neighbours}
        for name, fill in simple.items():
            table.add(**{"missing_%": 100 * missing}, variant=name, **peptides.errors(made, fill(made)))
        mosaic = peptides.registered(made)

        def score(model: Any, made: Any = made) -> dict[str, float]:
            return peptides.errors(made, model.get_imputed_values(modality="peptides").to_numpy(float))

        for variant, parameters in variants.items():
            if variant in ("balanced", "library", "peaks"):
                continue  # one modality, and no counts
            found = _seeds(f"peptides-{missing:g}", variant, parameters, mosaic, score, options, raw)
            shown = {k: _spread(v) for k, v in found.items() if k != "entries"}
            table.add(
                **{"missing_%": 100 * missing},
                variant=MEANING.get(variant, variant),
                entries=found["entries"][0],
                **shown,
            )
    return table


if __name__ == "__main__":
    main()
