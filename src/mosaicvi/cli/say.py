"""What commands say: results on stdout, all else on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from mosaicvi.errors import InputError, printable
from mosaicvi.ranks import place

OPTIONS: ContextVar[Mapping[str, frozenset[str]]] = ContextVar("OPTIONS", default=MappingProxyType({}))
"""Each command's options, that of this process first; empty outside of the command line."""


def _repeated(option: str, names: str) -> str:
    return " ".join(f"{option} {name.strip()[1:-1]}" for name in names.split(","))


def _as_option(argument: re.Match[str]) -> str:
    return f"--{argument[1].replace('_', '-')}: "


# Remedies are written for Python; the terminal has other names for the same things.
_IN_TERMINAL = (
    (re.compile(r"mosaicvi\.to_mudata\(data, (\w+=[\[{][^\]}]*[\]}])(?:, batch_key=\.\.\.)?\)"), r"\1"),
    (
        re.compile(r"note the column of obs that does, data\.uns\['mosaicvi'\] = \{'panel_key': \.\.\.\}"),
        "name the column of obs that does, mosaicvi combine --panel-key ..., and give what that writes",
    ),
    (re.compile(r"(?:: X = |: |, X = )X\.(?:toarray|tocsr)\(\)"), ""),
    (re.compile(r", mdata\.obs\['[^']+'\] = \.\.\."), ""),
    (re.compile(r"mosaicvi\.read_mudata\(\.\.\.\)\.write\(\.\.\.\)"), "mosaicvi combine --output data.h5mu"),
    (re.compile(r"open (the data|them) with in_memory=True"), r"read \1 into memory, --in-memory"),
    (re.compile(r", or, to ask a model for some cells of the data that it knows, .* indices=\."), "."),
    (re.compile(r"train\(\.\.\., checkpoint_dir='([^']+)', resume=True\)"), r"--checkpoint \1 --resume"),
    (re.compile(r"call train\(\) first"), "train it first"),
    (re.compile(r"make them unique with var_names_make_unique\(\)"), "number them with --duplicates number"),
    (re.compile(r"make them unique.* with obs_names_make_unique\(\)"), "rename them"),
    (re.compile(r"set library_aware=False"), "set library_aware = false in the file of --config"),
    (re.compile(r"; call mdata\.update\(\)"), "; read it into memory, --in-memory, which adds them"),
    (re.compile(r"MosaicVI\.prepare_query\(data, model, layers=\{'([^']+)': \.\.\.\}\)"), r"--layer \1=..."),
    (re.compile(r"layers=\{'([^']+)': \.\.\.\}"), r"--layer \1=..."),
    (re.compile(r"layers=\{'([^']+)': '([^']+)'\}"), r"--layer \1=\2"),
    (re.compile(r"MosaicVI\.prepare_query\(data, model\)"), "--allow-missing"),
    (
        re.compile(r"MosaicVI\.prepare_query\(data, model, take_as=\{'([^']+)': \.\.\.\}\)"),
        r"--take-as \1=...",
    ),
    (re.compile(r"likelihoods=\{'([^']+)': \.\.\.\}"), r"--likelihood \1=..."),
    (re.compile(r"likelihoods=\{'([^']+)': '([^']+)'\}"), r"--likelihood \1=\2"),
    (re.compile(r"modalities=\[((?:'[^']+'(?:, )?)+)\]"), lambda m: _repeated("--modality", m[1])),
    (re.compile(r"zeros_missing=\['([^']+)'\]"), r"--zeros-missing \1"),
    (re.compile(r"rounded=\['([^']+)'\]"), r"--round \1"),
    (re.compile(r"from_obsm=\{'([^']+)': '([^']+)'\}"), r"--from-obsm \1=\2"),
    (re.compile(r"min_counts=\{'([^']+)': (\d+)\}"), r"--min-counts \1=\2"),
    (re.compile(r"min_counts=\{\.\.\.\}"), "--min-counts"),
    (re.compile(r"modality=\{'([^']+)': '([^']+)'\}"), r"--as \1=\2"),
    (re.compile(r"orientation='(\w+)'"), r"--orientation \1"),
    (re.compile(r"duplicates='(\w+)'"), r"--duplicates \1"),
    (re.compile(r"columns=r?'([^']*)'"), r"--columns '\1'"),
    (re.compile(r"log2=\['([^']+)'\]"), r"--log2 \1"),
    (re.compile(r"names_from='([^']+)'"), r"--names-from '\1'"),
    (re.compile(r"genome='([^']+)'"), r"--genome \1"),
    (re.compile(r"pair=True"), "--pair"),
    (re.compile(r"pair=False"), "--no-pair"),
    (re.compile(r"block_keys=\{'([^']+)': \.\.\.\}"), r"--block-key \1=..."),
    (re.compile(r"transforms=\{'([^']+)': '([^']+)'\}"), r"--transform \1=\2"),
    (re.compile(r"panel_key=\.{3,4}"), "--panel-key ..."),
    (re.compile(r"^(label_key|groupby|group1|group2|mode|delta): "), _as_option),
    (re.compile(r"^(zeros_missing|min_counts|from_obsm|log2): "), _as_option),
    (re.compile(r"^rounded: "), "--round: "),
    (re.compile(r"^fdr_target: "), "--fdr: "),
    (re.compile(r"use mode='change', or no delta"), "use --mode change, or no --delta"),
    (re.compile(r"batch_key=\.{3,4}"), "--batch-key ..."),
    (re.compile(r"batch_key=(\w+)"), r"--batch-key \1"),
    (re.compile(r"batch_size=(\w+)"), r"--batch-size \1"),
    (re.compile(r"batch_key='([^']+)'"), r"--batch-key \1"),
    (re.compile(r"transform_batch:"), "--as-batch:"),
    (re.compile(r"\blevel: above"), "--interval: above"),
    (re.compile(r"scale='(\w+)'"), r"--scale \1"),
    (re.compile(r"checkpoint_dir=\.{3,4}"), "--checkpoint ..."),
    (re.compile(r"resume=True"), "--resume"),
    (re.compile(r"accelerator='(\w+)'"), r"--accelerator \1"),
    (re.compile(r"(--nproc-per-node \d+) your_script\.py"), r"\1 -m mosaicvi train ..."),
    (re.compile(r"[;:] mdata = mdata\[[^;]*$"), "."),
    (re.compile(r"--overwrite \(overwrite=True\)"), "--overwrite"),
    (re.compile(r"join='(\w+)'"), r"--join \1"),
    (re.compile(r"set in_memory=True"), "add --in-memory"),
    (re.compile(r"in_memory=False"), "--on-disk"),
)


# What only training decides, of no use to who has a model.
_OF_TRAINING = (
    (re.compile(r"(, as by from_obsm=\{[^}]+\})?; modalities=\[[^\]]+\] leaves them out\."), "."),
    (re.compile(r"; from_obsm=\{[^}]+\} makes them a modality\."), "."),
)
WITH_MODEL = ("embed", "impute", "label", "compare", "map", "report")


def for_terminal(message: str) -> str:
    """One line, with the options of the command line in place of Python's arguments."""
    line = printable(" ".join(message.split()))
    if next(iter(OPTIONS.get()), "") in WITH_MODEL:
        for pattern, rest in _OF_TRAINING:
            line = pattern.sub(rest, line)
    for pattern, option in _IN_TERMINAL:
        line = pattern.sub(option, line)
    return _OPTION.sub(_with_its_command, line)


def _with_its_command(option: re.Match[str]) -> str:
    """An option that this command lacks, after the name of one that has it."""
    having = [command for command, there in OPTIONS.get().items() if option[0] in there]
    is_ours = not having or having[0] == next(iter(OPTIONS.get()))
    return option[0] if is_ours else f"mosaicvi {having[0]} {option[0]}"


_OPTION = re.compile(r"(?<![\w-])(?<!mosaicvi \w{5} )(?<!mosaicvi \w{7} )--[a-z][a-z0-9-]+")


def error(message: str) -> None:
    """Print one problem as one line."""
    _line("error: ", "bold red", message)


def warning(message: str) -> None:
    """Print one warning as one line."""
    _line("warning: ", "bold yellow", message)


def note(message: str, *, quiet: bool = False) -> None:
    """Print a line about the work, unless it should be quiet, or another process says it."""
    if not quiet and place().is_first:
        Console(stderr=True).print(Text(message), soft_wrap=True)


def _line(start: str, style: str, message: str) -> None:
    if not _is_ours(message):
        return
    Console(stderr=True).print(Text.assemble((start, style), for_terminal(message)), soft_wrap=True)


def _is_ours(message: str) -> bool:
    """Whether this process is to say what all of several may want to say."""
    try:
        if place().size == 1:
            return True
    except InputError:
        return True
    from mosaicvi.ranks.meeting import says

    return says(message)


def next_steps(commands: Iterable[str], *, quiet: bool = False) -> None:
    """Print what one may run next."""
    if quiet or not place().is_first:
        return
    console = Console(stderr=True)
    console.print(Text("Next:", style="bold"))
    for command in commands:
        console.print(Text(f"  {command}"), soft_wrap=True)


@contextmanager
def progress(description: str, total: int, *, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal or not place().is_first
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        yield bar, bar.add_task(description, total=total)
