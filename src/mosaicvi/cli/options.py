"""Arguments and options that several commands take, and how ``NAME=VALUE`` is read."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mosaicvi.errors import InputError

Data = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...",
        help="Files or folders: .h5mu, .h5ad, .zarr, 10x .h5 or mtx folders, .csv, .tsv, .parquet. "
        "Several are combined into one mosaic.",
        show_default=False,
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `mosaicvi train` wrote.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings and errors.")]
As = Annotated[
    list[str] | None,
    typer.Option(
        "--as",
        metavar="[FILE=]NAME",
        help="What an .h5ad or table without feature types holds, such as `adt`. [default: rna]",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the files are to be read: what all commands that take data were told.

    Attributes
    ----------
    modality, layers, orientation, columns, names_from, duplicates, genome
        As in `mosaicvi.read` and `mosaicvi.combine`; some by file.
    pair, from_obsm, min_counts, rounded, log2, zeros_missing
        As in `mosaicvi.combine`.
    obs
        Tables of cells whose columns are added to ``obs``, see `mosaicvi.cli.sheet.Sheet`.
    on_disk
        Whether values stay in their files; None for those that do not fit into memory.
    layers_if_there, obsm_if_there
        What a model remembers of `layers` and `from_obsm`, for those data that have them.
    dataset_in_names
        Whether the cells that a model was trained on were called by their dataset, as these then are.
    names_if_there
        Whether a model remembers `names_from`, for those files that have the column.
    """

    modality: str | dict[str, str] | None
    layers: dict[str, str]
    orientation: str | dict[str, str] | None
    columns: str | dict[str, str] | None
    names_from: str | dict[str, str] | None
    duplicates: str
    genome: str | None
    pair: bool | None
    from_obsm: dict[str, str]
    min_counts: dict[str, float]
    rounded: list[str]
    log2: list[str]
    zeros_missing: list[str]
    obs: Sequence[Path] = ()
    on_disk: bool | None = None
    layers_if_there: Mapping[str, str] = field(default_factory=dict)
    obsm_if_there: Mapping[str, str] = field(default_factory=dict)
    dataset_in_names: bool = False
    names_if_there: bool = False


class Duplicates(StrEnum):
    """What to do with feature names that occur more than once."""

    error = "error"
    number = "number"


def _reading(
    as_: As = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE:]MOD=LAYER", help="Layer with the values, such as rna=counts, or rna=raw for .raw."
        ),
    ] = None,
    from_obsm: Annotated[
        list[str] | None,
        typer.Option(metavar="[FILE:]MOD=KEY", help="A modality in obsm, such as adt=protein_counts."),
    ] = None,
    pair: Annotated[
        bool | None,
        typer.Option(
            "--pair/--no-pair",
            help="Inputs whose names of cells agree are the same cells, or not; `GSM1=rna.csv GSM1=adt.csv` "
            "names what they become.",
        ),
    ] = None,
    orientation: Annotated[
        list[str] | None, typer.Option(metavar="[FILE=]cells|features", help="Of tables: what the rows are.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE=]PATTERN",
            help="Of tables: the columns of numbers, a regular expression; others are annotations.",
        ),
    ] = None,
    names_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE=]COLUMN",
            help="Name features by this annotation, such as `Gene names`; of several between ; the first.",
        ),
    ] = None,
    obs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.csv",
            help="A table of samples or cells, names first, whose columns are added to obs; may be repeated, "
            "the lines of all count.",
        ),
    ] = None,
    duplicates: Annotated[
        Duplicates, typer.Option(help="Feature names that occur twice: an error, or number them.")
    ] = Duplicates.error,
    genome: Annotated[
        str | None, typer.Option(help="Of 10x files with several genomes: which to take.")
    ] = None,
    min_counts: Annotated[
        list[str] | None,
        typer.Option(metavar="[MOD=]N", help="Leave out cells with smaller sums, such as 500. [MOD: rna]"),
    ] = None,
    round_: Annotated[
        list[str] | None,
        typer.Option("--round", metavar="MOD", help="Round fractional counts (SoupX, CellBender)."),
    ] = None,
    log2: Annotated[
        list[str] | None,
        typer.Option(
            "--log2", metavar="MOD", help="Take the logarithms of raw intensities; zeros are missing."
        ),
    ] = None,
    zeros_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD", help="Take zeros that mean nothing was measured as missing."),
    ] = None,
) -> Reading:
    """Options of all commands that take data."""
    counts = {}
    for text in min_counts or ():
        name, _, number = text.rpartition("=")
        try:
            counts[name or "rna"] = float(number)
        except ValueError:
            raise InputError(
                f"--min-counts {text}: write a number, for example --min-counts rna=500"
            ) from None
    rows = one_or_mapping(orientation, "--orientation")
    for value in rows.values() if isinstance(rows, dict) else [rows]:
        if value not in (None, "cells", "features"):
            raise InputError(f"--orientation {value}: write cells or features")
    return Reading(
        modality=one_or_mapping(as_, "--as"),
        layers=mapping(layer, "--layer"),
        from_obsm=mapping(from_obsm, "--from-obsm"),
        pair=pair,
        orientation=rows,
        columns=one_or_mapping(columns, "--columns"),
        names_from=one_or_mapping(names_from, "--names-from"),
        obs=obs or (),
        duplicates=duplicates.value,
        genome=genome,
        min_counts=counts,
        rounded=round_ or [],
        log2=log2 or [],
        zeros_missing=zeros_missing or [],
    )


def reads_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading, in place of its argument ``reading``."""
    own = inspect.signature(command, eval_str=True).parameters
    ours = inspect.signature(_reading, eval_str=True).parameters

    def with_options(**given: Any) -> None:
        command(reading=_reading(**{name: given.pop(name) for name in ours}), **given)

    kept = [p for name, p in own.items() if name != "reading"]
    merged = [*(p for p in kept if p.name not in LAST), *ours.values(), *(p for p in kept if p.name in LAST)]
    merged = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in merged]
    with_options.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in merged}
    with_options.__doc__ = command.__doc__
    return with_options


LAST = ("overwrite", "quiet")  # options that stand at the end of every help
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Take features of the model that the data lack as not measured, and leave out others.",
    ),
]
TakeAs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=CATEGORY",
        help="What cells of a category that the model has not seen, or of none, are taken as: decoded as of "
        "it, and encoded without the protein levels of that batch. [default: decoded with the mean of all "
        "that the model knows, proteins brought to the level of the reference]",
    ),
]
Unlabeled = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE", help="Value of that column that is no label; may be repeated. [default: unknown]"
    ),
]
OnDisk = Annotated[
    bool | None,
    typer.Option(
        "--on-disk/--in-memory",
        help="Leave the values of .h5ad, .h5mu and .zarr in their files, or bring them into memory. "
        "[default: into memory if they fit into half of what is free]",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Cells at a time; it does not change the answers.", min=1)]


def mapping(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """Read ``NAME=VALUE`` pairs.

    Raises
    ------
    InputError
        A pair has no ``=``, or a name comes twice.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise InputError(
                f"{option} {pair}: write it as NAME=VALUE, for example {option} {_EXAMPLE[option]}"
            )
        if name in found:
            raise InputError(f"{option} {pair}: {name!r} was given {found[name]!r} already; give it once")
        found[name] = value
    return found


_EXAMPLE = {
    "--layer": "rna=counts",
    "--likelihood": "rna=NB",
    "--transform": "adt=clr",
    "--block-key": "atac=chromosome",
    "--rename": "prot=adt",
    "--as": "donor1=adt",
    "--panel-key": "donor1=site",
    "--match": "adt=adt",
    "--from-obsm": "adt=protein_counts",
    "--orientation": "a.csv=cells",
    "--columns": "a.csv=^S",
    "--names-from": "a.csv=Genes",
    "--take-as": "batch=donor1",
}


def one_or_mapping(values: Sequence[str] | None, option: str) -> str | dict[str, str] | None:
    """Read one value for all, or ``NAME=VALUE`` pairs."""
    if not values:
        return None
    if len(values) == 1 and "=" not in values[0]:
        return values[0]
    return mapping(values, option)


def by_name(choice: str | dict[str, str] | None, datasets: Mapping[str, Path]) -> str | dict[str, str] | None:
    """Choices by dataset, which may be called by its file as well."""
    if not isinstance(choice, dict):
        return choice
    names = {str(path): name for name, path in datasets.items()}
    names |= {path.name: name for name, path in datasets.items()}
    return {names.get(key, key) if key not in datasets else key: value for key, value in choice.items()}


def command_again(*more: str) -> str:
    """The command of this process, with more options."""
    arguments = [a for a in sys.argv[1:] if a not in more]
    return shlex.join(["mosaicvi", *arguments, *more])
