"""Arguments and options that several commands take, and how ``NAME=VALUE`` is read."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

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
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Take features of the model that the data lack as not measured, and leave out others.",
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
