"""What commands say: results on stdout, all else on stderr."""

from __future__ import annotations

import re
import shlex
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


# Remedies are written for Python. Arguments become options, of the same name but for these,
_OPTION_OF = {
    "block_keys": "block-key",
    "checkpoint_dir": "checkpoint",
    "fdr_target": "fdr",
    "layers": "layer",
    "likelihoods": "likelihood",
    "modalities": "modality",
    "rounded": "round",
    "transforms": "transform",
}
_ARGUMENT = re.compile(
    r"(?<![\w(])(accelerator|batch_key|batch_size|block_keys|checkpoint_dir|columns|duplicates|from_obsm|genome|"
    r"join|layers|likelihoods|log2|match|min_counts|modalities|modality|names_from|orientation|overwrite|pair|"
    r"panel_key|resume|rounded|scale|transforms|zeros_missing)="
    r"(\{'[^']+': (?:'[^']+'|\d+|\.\.\.)\}|\{\.\.\.\}|\[(?:'[^']+'(?:, )?)+\]|r?'[^']*'|\.{3,4}|\w+)"
)
_HEAD = re.compile(
    r"^(delta|fdr_target|from_obsm|group1|group2|groupby|label_key|log2|min_counts|mode|rounded|"
    r"zeros_missing): "
)
# and these words others:
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
    (re.compile(r"train\(\.\.\., (checkpoint_dir='[^']+'), (resume=True)\)"), r"\1 \2"),
    (re.compile(r"call train\(\) first"), "train it first"),
    (re.compile(r"make them unique with var_names_make_unique\(\)"), "number them with --duplicates number"),
    (re.compile(r"make them unique.* with obs_names_make_unique\(\)"), "rename them"),
    (re.compile(r"set library_aware=False"), "set library_aware = false in the file of --config"),
    (re.compile(r"mdata = mosaicvi\.to_mudata\(data\);\s*"), ""),
    (
        re.compile(r"mdata\.mod\['([^']+)'\] = mdata\.mod\.pop\('([^']+)'\)"),
        r"mosaicvi combine ... --rename \2=\1 --output renamed.h5mu, and give what that writes",
    ),
    (re.compile(r"del data\.obsm\['[^']+'\] first, or (modalities=\[[^\]]+\]) of setup_mudata,"), r"\1"),
    (re.compile(r"; call mdata\.update\(\)"), "; read it into memory, --in-memory, which adds them"),
    (re.compile(r"MosaicVI\.prepare_query\(data, model, (layers=[^)]*)\)"), r"\1"),
    (re.compile(r"MosaicVI\.prepare_query\(data, model\)"), "--allow-missing"),
    (
        re.compile(r"MosaicVI\.prepare_query\(data, model, take_as=\{'([^']+)': \.\.\.\}\)"),
        r"--take-as \1=...",
    ),
    (
        re.compile(r"open it with the data that it was trained with, and save it again"),
        "name the data that it was trained with, mosaicvi map ... --reference REF.h5mu",
    ),
    (re.compile(r"batch_correction=False"), "--no-batch-correction"),
    (re.compile(r"transform_batch:"), "--as-batch:"),
    (re.compile(r"take_as:"), "--take-as:"),
    (re.compile(r"\blevel: above"), "--interval: above"),
    (re.compile(r"use mode='change', or no delta"), "use --mode change, or no --delta"),
    (re.compile(r"(--nproc-per-node \d+) your_script\.py"), r"\1 -m mosaicvi train ..."),
    (re.compile(r"[;:] mdata = mdata\[[^;]*$"), "."),
    (re.compile(r"set in_memory=True"), "add --in-memory"),
    (re.compile(r"in_memory=False"), "--on-disk"),
)


def _as_option(argument: re.Match[str]) -> str:
    """An argument of Python with its value, as an option."""
    value = argument[2]
    option = "--as" if argument[1] == "modality" and value[0] == "{" else _named(argument[1])
    if value in ("True", "False"):
        return option if value == "True" else option.replace("--", "--no-", 1)
    if value == "{...}":
        return option
    if value[0] == "[":
        return " ".join(f"{option} {shlex.quote(one)}" for one in re.findall(r"'([^']+)'", value))
    if value[0] == "{":
        key, _, of = value[1:-1].partition(": ")
        return f"{option} {_plain(key)}={_plain(of)}"
    return f"{option} {_plain(value)}"


def _named(argument: str) -> str:
    return f"--{_OPTION_OF.get(argument, argument).replace('_', '-')}"


def _plain(value: str) -> str:
    """A value as a shell takes it."""
    if value.startswith("..."):
        return "..."
    return shlex.quote(value.removeprefix("r")[1:-1]) if value.endswith("'") else value


# What only training decides, of no use to who has a model.
_OF_TRAINING = (
    (re.compile(r"(, as by [^;]*)?; del data\.obsm\[[^;]* leaves them out\."), "."),
    (re.compile(r"; [^;]*from_obsm=\{[^}]+\}\)? makes them a modality\."), "."),
)
WITH_MODEL = ("embed", "impute", "label", "compare", "map", "report")


def for_terminal(message: str) -> str:
    """One line, with the options of the command line in place of Python's arguments."""
    line = printable(" ".join(message.split()))
    if next(iter(OPTIONS.get()), "") in WITH_MODEL:
        for pattern, rest in _OF_TRAINING:
            line = pattern.sub(rest, line)
    for pattern, words in _IN_TERMINAL:
        line = pattern.sub(words, line)
    line = _ARGUMENT.sub(_as_option, _HEAD.sub(lambda head: f"{_named(head[1])}: ", line))
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
