"""Every score of every run, as a line of a file; the tables are made of these lines alone."""

from __future__ import annotations

import csv
import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from benchmarks.common import Table

Part = Literal["latent", "imputed", "peptides"]
By = Literal["ours", "baseline", "peer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One number.

    Attributes
    ----------
    part
        Which table it belongs to.
    modality
        Whose imputed values were scored; empty for the latent.
    by, method, seed
        Whose run it is.
    """

    part: Part
    task: str
    modality: str = ""
    by: By
    method: str
    seed: int = 0
    score: str
    value: float


COLUMNS = tuple(field.name for field in dataclasses.fields(Record))


def as_table(records: Iterable[Record]) -> Table:
    """The records as a table, for a file."""
    table = Table(name="runs", title="Every run", columns=COLUMNS)
    for record in records:
        table.add(**dataclasses.asdict(record))
    return table


def read(path: Path) -> list[Record]:
    """Records that were written as CSV; lines that begin with # are skipped."""
    with path.open(newline="") as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        if set(COLUMNS) - set(lines.fieldnames or ()):
            raise SystemExit(f"{path} holds no runs; name the file that ends in -runs.csv")
        found: list[dict[str, Any]] = list(lines)
    return [Record(**one | {"seed": int(one["seed"]), "value": float(one["value"])}) for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A score over seeds, and whether it is at least as good as that of every rival; None without a rival."""

    values: tuple[float, ...]
    won: bool | None = None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    def __float__(self) -> float:
        return self.mean

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        spread = f" ± {statistics.stdev(self.values):.3f}" if len(self.values) > 1 else ""
        return f"{self.mean:.3f}{spread}{'' if self.won is None else ' ✓' if self.won else ' ✗'}"
