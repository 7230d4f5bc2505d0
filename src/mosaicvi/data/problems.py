"""Every message about input that cannot be used, in one place; ``docs/input-errors.md`` is this table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of problem.

    Attributes
    ----------
    text
        What the user reads, with named places to fill in; it names the thing and the remedy.
    cause
        What lies behind it.
    remedy
        What to do, at more length than the message says it.
    """

    text: str
    cause: str
    remedy: str


PROBLEMS: dict[str, Problem] = {
    "missing": Problem(
        text="{name}: no such file or folder; check the path",
        cause="Nothing is at this path.",
        remedy="Check spelling and working folder.",
    ),
    "empty": Problem(
        text="{name}: the file is empty; copy or download it again",
        cause="The file has no content: a transfer or a program that wrote it stopped.",
        remedy="Copy, download or write it again.",
    ),
    "foreign": Problem(
        text="{name}: not a format that is read here ({what}); "
        "give h5mu, h5ad, zarr, 10x .h5, a 10x mtx folder, or a csv, tsv or parquet table",
        cause="Neither the content nor the suffix belongs to a known format.",
        remedy="Convert it, e.g. R objects with `zellkonverter` or `MuDataSeurat` to h5ad or h5mu.",
    ),
    "damaged": Problem(
        text="{name}: cannot be read to its end ({reason}); "
        "it is truncated, damaged or not what its name says: copy or download it again",
        cause="The format is known, but reading it failed.",
        remedy="Copy or download it again; compare sizes or checksums with the source.",
    ),
    "outside": Problem(
        text="{name}: {where} takes its values from outside of the file, {what}; "
        "such files are not read: copy it into one whole, e.g. with h5repack or cp -rL",
        cause="HDF5, and links in a zarr folder, can point to any file of the machine; "
        "what came by mail must not.",
        remedy="Read it where it was made and write it again, or copy it with `h5repack` (zarr: `cp -rL`).",
    ),
    "circle": Problem(
        text="{name}: {where} is a link to nothing or in a circle; write the file again without links",
        cause="A link inside the HDF5 file or zarr folder leads to a group above it, or nowhere.",
        remedy="Remove the link, or write the file again.",
    ),
    "too-many-objects": Problem(
        text="{name}: {where} is one of more groups and arrays than any dataset has; "
        "write the file again without uns",
        cause="The file holds hundreds of thousands of objects, or a group in a group in a group ….",
        remedy="Remove what is not data, usually from `uns`.",
    ),
    "absurd": Problem(
        text="{name}: {where} would take {size}, of which next to nothing is stored; "
        "it is damaged or not what its name says: copy or download it again",
        cause="An array says that it is a thousand times larger than what the file holds of it.",
        remedy="Look at its shape; copy or download it again.",
    ),
    "sparse": Problem(
        text="{name}: {what} is no sound sparse matrix: {fault}; "
        "copy the file again, or build the matrix again from rows, columns and values",
        cause="The arrays of a sparse matrix contradict each other: a damaged or edited file.",
        remedy="Copy or download the file again, or build the matrix anew.",
    ),
    "memory": Problem(
        text="{name}: there is not enough memory to read it ({reason}); "
        "free some, or write a file with fewer cells or features",
        cause="The data are larger than the memory that is free.",
        remedy="Use a larger machine, or leave out cells or features.",
    ),
    "long-line": Problem(
        text="{name}: its first line is longer than {most}, or not text; "
        "a table begins with a line of names: copy or download it again",
        cause="The file is no table, though its name says so.",
        remedy="Look at its first line, e.g. with `zcat FILE | head -c 200`.",
    ),
    "extra": Problem(
        text="{name}: reading {format} needs the package {package}; pip install 'mosaicvi[{extra}]'",
        cause="An optional package is not installed.",
        remedy="Install the extra that the message names.",
    ),
    "folder": Problem(
        text="{name}: the folder holds no 10x matrix and no zarr store; "
        "give the folder with matrix.mtx, barcodes.tsv and features.tsv (each may end in .gz)",
        cause="The folder is one too high, one too low, or something else.",
        remedy="Give the folder that holds `matrix.mtx(.gz)`, or the file inside.",
    ),
    "mtx-part": Problem(
        text="{name}: {part} is missing beside {matrix}; "
        "a 10x folder holds matrix.mtx, barcodes.tsv and features.tsv or genes.tsv (each may end in .gz)",
        cause="A 10x folder is incomplete.",
        remedy="Copy the missing file from the same run; files of one run share one prefix.",
    ),
    "mtx-shape": Problem(
        text="{name}: the matrix has {n_features} features and {n_cells} cells, but the names are "
        "{feature_names} and {cell_names}; the files are of different runs or one is truncated",
        cause="The three files of a 10x folder do not belong together.",
        remedy="Copy all three files from one run again.",
    ),
    "orientation": Problem(
        text="{name}: cannot tell whether rows are cells or features; "
        "say orientation='cells' or orientation='features' (what the rows are)",
        cause="Neither the header of the first column nor the names tell cells from features.",
        remedy="State the orientation, or head the first column `cell` or `feature`.",
    ),
    "table-shape": Problem(
        text="{name}: no table of names and numbers; "
        "it needs a line of names, then lines of a name and its numbers, "
        "separated by comma, tab or semicolon",
        cause="The table has no rows or no columns of values, or another separator.",
        remedy="Write it with a header line and the names in the first column.",
    ),
    "not-number": Problem(
        text="{name}: column {column!r} holds {value!r}, which is no number; "
        "if it is an annotation, "
        "choose the columns of numbers by a pattern, columns=r'{pattern}'; leave missing values empty or NA",
        cause="A table has text among its values, often columns of annotations before the numbers.",
        remedy="Choose the columns of numbers by a regular expression; the others become annotations.",
    ),
    "no-names": Problem(
        text="{name}: its first column, {column!r}, holds numbers such as {value}, no names; "
        "put the names of the rows into the first column, and a header above it",
        cause="The names of the rows were lost when the table was written, or stand in another file.",
        remedy="Write the table again with its row names (R: `row.names=TRUE`; pandas: `index=True`).",
    ),
    "pattern": Problem(
        text="{name}: columns={pattern!r} is no regular expression ({reason}); write one such as '^S'",
        cause="Brackets or signs in a regular expression do not match.",
        remedy="Put a backslash before signs that stand for themselves.",
    ),
    "no-columns": Problem(
        text="{name}: columns={pattern!r} matches none of its columns; there are: {columns}",
        cause="The regular expression is found in no header.",
        remedy="Write one that is found in the headers of the columns of numbers.",
    ),
    "no-names-from": Problem(
        text="{name}: no column {column!r} to name its features by; there are: {columns}",
        cause="The features have no such annotation, or `columns` makes it one of the values.",
        remedy="Name one of those listed; of a table, choose the columns of numbers by `columns`.",
    ),
    "long-twice": Problem(
        text="{name}: it is a long table, a line for each value, in which a {cell!r} has several values "
        "of one {feature!r}; keep one line for each pair",
        cause="Replicates, or assays of one name on several panels.",
        remedy="Keep one line for each, or name the features by a column that tells them apart.",
    ),
    "loom-names": Problem(
        text="{name}: {where} of this loom has no names among {names}; there are: {there}; rename one",
        cause="A loom names cells and genes by attributes, whose own names are free.",
        remedy="Rename the attribute, or write the data as h5ad.",
    ),
    "archive": Problem(
        text="{name}: this is an archive; unpack it ({how}) and give what is inside",
        cause="Several files were packed into one.",
        remedy="Unpack it.",
    ),
    "genomes": Problem(
        text="{name}: it holds several genomes; choose genome={example!r} (there are: {genomes})",
        cause="Cells of two species were sequenced together, and each has a matrix of its own.",
        remedy="Name one of those listed.",
    ),
    "no-genome": Problem(
        text="{name}: it has no genome {genome!r}; there are: {genomes}",
        cause="The genome that was asked for is not in the file.",
        remedy="Name one of those listed.",
    ),
    "duplicate-cells": Problem(
        text="{name}: cell names that occur more than once{where}: {names}; rename them",
        cause="Two cells have one name, so modalities cannot be aligned by name.",
        remedy="Rename them, e.g. by adding the sample to the barcode; read samples as separate datasets.",
    ),
    "duplicate-features": Problem(
        text="{name}: feature names that occur more than once{where}: {names}; "
        "rename them, or read with duplicates='number'",
        cause="Two features have one name, so that a value cannot be attributed.",
        remedy="Rename them, use unique ids as names, or let them be numbered (`A`, `A-1`).",
    ),
    "option": Problem(
        text="{name} is {value!r}; choose {choices}",
        cause="An option has a value that does not exist.",
        remedy="Choose one of those listed.",
    ),
    "path-twice": Problem(
        text="{name}: given more than once; give each file once",
        cause="Two paths lead to the same file, so that its cells would count twice.",
        remedy="Give each file once.",
    ),
    "nothing": Problem(
        text="combine: no datasets given; give a mapping of dataset name to data or path",
        cause="The mapping is empty.",
        remedy="Give at least one dataset.",
    ),
    "dataset-name": Problem(
        text="{name}: a dataset or modality name must be text, not empty and without '/'; rename it",
        cause="The name becomes a column and a group in the file, where `/` separates folders.",
        remedy="Rename it.",
    ),
    "kind": Problem(
        text="{name}: {kind} is no dataset; "
        "give an AnnData, a MuData, a dict of modality name to AnnData, or a path",
        cause="An object of another type was given.",
        remedy="Wrap it in an AnnData with named cells and features.",
    ),
    "axis": Problem(
        text="{name}: a MuData with axis={axis} shares features, not cells; combine needs axis=0",
        cause="The MuData joins datasets of the same features, not modalities of the same cells.",
        remedy="Give its entries as separate datasets.",
    ),
    "no-cells": Problem(
        text="{name}: {modality} has no {what}; remove the modality or the filter that emptied it",
        cause="A matrix without rows or columns.",
        remedy="Remove the modality, or look at the filter that emptied it.",
    ),
    "no-x": Problem(
        text="{name}: {modality} has no X; say layers={{{modality!r}: ...}} (there are: {layers})",
        cause="The data are in a layer.",
        remedy="Name the layer.",
    ),
    "no-layer": Problem(
        text="{name}: {modality} has no layer {layer!r}; there are: {layers}",
        cause="The layer that was asked for does not exist in this dataset.",
        remedy="Name one that all datasets have, or that of one dataset: `layers={'<dataset>:rna': ...}`.",
    ),
    "raw-features": Problem(
        text="{name}: .raw of {modality} lacks features of X, or has them more than once: {names}; "
        "leave these out, or store the counts in a layer",
        cause="Features were renamed, made unique or added after the counts had been kept in `.raw`.",
        remedy="Leave the features out, or copy the counts into `layers` under the names of X.",
    ),
    "no-obsm": Problem(
        text="{name}: obsm has no {key!r}; there are: {keys}",
        cause="The matrix that was asked for does not exist.",
        remedy="Name one of those listed.",
    ),
    "obsm-of-mudata": Problem(
        text="from_obsm: these data name their modalities already; "
        "give an AnnData with the matrix in its obsm",
        cause="The file is a MuData, whose modalities are what is read.",
        remedy="Leave the option out, or move the matrix into a modality of its own.",
    ),
    "too-few-counts": Problem(
        text="{name}: no cell has {least} counts in {modality}, the most is {most}; lower min_counts={{...}}",
        cause="The cut is above all cells, or the values are no counts.",
        remedy="Look at the sums that `mosaicvi inspect` shows, and choose a lower cut.",
    ),
    "zeros-panels": Problem(
        text="{name}: zeros of {modality} cannot be marked as missing by batch, "
        "as its panels are others: {panels}; mark them in varm['measured'] yourself",
        cause='`varm["measured"]` describes panels that are not the batches.',
        remedy="Set `varm['measured']` to False where nothing was measured.",
    ),
    "changed": Problem(
        text="{name}: it was written again while its values were in use; register the data again",
        cause="Values stay on disk, and the file or store has changed since it was registered.",
        remedy="Start again with the data as they are now; write other data under another name.",
    ),
    "by-columns": Problem(
        text="{name}: the values are stored by columns (CSC), so that cells cannot be read one by one; "
        "store them by rows, X = X.tocsr(), or set in_memory=True",
        cause="Values are to stay on disk, but a cell's are spread over the whole file.",
        remedy="Write the matrix as CSR, or let it be read into memory.",
    ),
    "x-type": Problem(
        text="{name}: X of {modality} holds {dtype}, not numbers; store numbers",
        cause="The matrix is of text or of objects.",
        remedy="Convert it to a numeric matrix.",
    ),
    "infinite": Problem(
        text="{name}: {modality} has infinite values, first in feature {feature!r}; "
        "set them to NaN if they are missing",
        cause="A division by zero or a logarithm of zero before saving.",
        remedy="Correct them, or set them to NaN (missing).",
    ),
    "sparse-nan": Problem(
        text="{name}: {modality} is a sparse matrix with NaN; "
        "store missing entries in a dense matrix: X = X.toarray()",
        cause="In a sparse matrix what is not stored is a zero, so a missing entry is easily lost.",
        remedy="Make it dense before, or drop the NaN if they mean zero.",
    ),
    "no-modality": Problem(
        text="{name}: cells without any modality: {names}; remove them",
        cause="A cell is in `obs` but in no modality.",
        remedy="Remove them: `mdata[np.any([mdata.obsm[m] for m in mdata.mod], axis=0)]`.",
    ),
    "column": Problem(
        text="{name}: obs has a column {column!r} already; choose another {option}",
        cause="combine would write over a covariate of yours.",
        remedy="Choose another `dataset_key` or `name_key`, or rename the column.",
    ),
    "column-name": Problem(
        text="{name}: the column {column!r} of {where} cannot be stored in a file; "
        "rename it to text without '/'",
        cause="Columns are stored as groups of a file, where `/` separates folders.",
        remedy="Rename the column.",
    ),
    "panel-type": Problem(
        text="{name}: varm['measured'] of {modality} is no table of True and False, features x panels; "
        "store a DataFrame of bool",
        cause="`measured` must say for every feature and every named panel whether it was measured.",
        remedy="Store a boolean DataFrame whose columns name the panels.",
    ),
    "panel-key": Problem(
        text="{name}: varm['measured'] of {modality} names the panels {panels}, "
        "but which cell has which is not clear; say panel_key (a column of obs)",
        cause="No column of `obs`, or more than one, holds only names of panels.",
        remedy="Say `panel_key`, or record it in `uns['mosaicvi']['panel_key']`.",
    ),
    "panel-unknown": Problem(
        text="{name}: obs[{column!r}] names panels that varm['measured'] of {modality} lacks: {panels}; "
        "add them as columns or choose another panel_key",
        cause="Some cells belong to a panel that nobody described.",
        remedy="Add a column of True and False for each.",
    ),
    "panel-name": Problem(
        text="combine: the panel name {panel!r} arises twice; rename the dataset {name!r}",
        cause="Panels are named `<dataset>:<panel>`, and another dataset has that name.",
        remedy="Rename one of the datasets.",
    ),
    "pair-modality": Problem(
        text="{a} and {b} are the same cells, but both hold {modality!r}; give one of them, "
        "or say what each holds: modality={{{b!r}: 'adt'}}",
        cause="Two inputs of one library, or two tables of which neither says what it holds.",
        remedy="Leave out one of them, or name the modality of each.",
    ),
    "pair-name": Problem(
        text="pair: two datasets would be called {name!r}; give one of them another name",
        cause="Inputs of the same cells become one dataset, whose name another one has.",
        remedy="Choose another name.",
    ),
    "pair-nothing": Problem(
        text="pair: no two inputs have cells of the same names (such as {names}); rename the cells alike",
        cause="Nothing says which cell of one input is which of another.",
        remedy="Give cells the same names in all inputs, or leave `pair` out.",
    ),
    "no-overlap": Problem(
        text="combine: no feature of {modality} is in all of {names}; use join='outer', or match names",
        cause="With `join='inner'` nothing is left.",
        remedy="Use `join='outer'`, or `match` if the names are only written differently.",
    ),
    "log-negative": Problem(
        text="{name}: {modality} has negative values (the least is {least}), which have no logarithm; "
        "leave log2 out if they are logarithms already",
        cause="Logarithms were asked for of values that are logarithms, differences or z-scores.",
        remedy="Leave `log2` out, or give the intensities.",
    ),
    "no-such-modality": Problem(
        text="{option}: no dataset has a modality {modality!r}; there are: {modalities}",
        cause="An option names a modality that does not exist.",
        remedy="Use a name listed, or rename modalities with `rename`.",
    ),
    "rename-clash": Problem(
        text="{name}: rename gives two modalities the name {modality!r}; give them different names",
        cause="Two modalities of one dataset would become one.",
        remedy="Give them different names.",
    ),
    "batch-key": Problem(
        text="obs has no column {column!r}; there are: {columns}",
        cause="The batch column does not exist.",
        remedy="Use a name listed.",
    ),
}


def problem(key: str, /, **values: object) -> str:
    """The message of one kind of problem, on one line."""
    return " ".join(PROBLEMS[key].text.format(**values).split())


def listed(names: Iterable[object], *, most: int = 5) -> str:
    """The first names, and how many more there are."""
    every = [str(name) for name in names]
    if not every:
        return "none"
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def table() -> str:
    """All messages with cause and remedy, as a Markdown table."""
    rows = [
        f"| `{p.text.replace('{{', '{').replace('}}', '}')}` | {p.cause} | {p.remedy} |"
        for p in PROBLEMS.values()
    ]
    return "\n".join(["| message | cause | remedy |", "| --- | --- | --- |", *rows]) + "\n"
