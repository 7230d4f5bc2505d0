"""Mosaic: what was measured where, registered from a MuData or AnnData, which it never changes.

Shapes: n cells, n_m cells that have modality m, D_m features of it, P panels, C covariates.
Columns are kept in block order; `Features.order` leads back to the user's order.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config import COUNT_DISTRIBUTIONS, DISTRIBUTIONS, Distribution
from mosaicvi.data.transforms import TRANSFORMS, Transform, cell_scale
from mosaicvi.errors import InputError, MosaicWarning

_CHROMOSOME = re.compile(r"^(?P<chrom>[^:_-]+(?:[_.][^:-]+)?)[:_-](?P<start>\d+)[_-](?P<end>\d+)$")
MANY = 4  # names quoted in a message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """How a user's object is to be read; the arguments of `MosaicVI.setup_mudata`."""

    batch_key: str | None = None
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    likelihoods: Mapping[str, Distribution] = dataclasses.field(default_factory=dict)
    transforms: Mapping[str, Transform] = dataclasses.field(default_factory=dict)
    block_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()
    panel_key: str | None = None
    modalities: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """The columns of one modality, as a model must find them again.

    Attributes
    ----------
    names
        Feature names in block order, length D_m.
    order
        Position of each of them in the user's object at registration, shape (D_m,).
    blocks
        Block names, in order.
    sizes
        Features of each block.
    """

    names: tuple[str, ...]
    order: NDArray[np.int64]
    blocks: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """What a trained model remembers of its data, so that it can read other data the same way."""

    setup: Setup
    features: Mapping[str, Features]
    likelihoods: Mapping[str, Distribution]
    transforms: Mapping[str, Transform]
    categories: Mapping[str, tuple[str, ...]]
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    median_library: Mapping[str, float]
    measured_in: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        plain = dataclasses.asdict(self)
        for f in plain["features"].values():
            f["order"] = f["order"].tolist()
        return plain

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Registry:
        """Read what `to_dict` wrote."""
        lists = ("categorical_covariate_keys", "continuous_covariate_keys", "modalities")
        setup = Setup(**{k: tuple(v) if k in lists else v for k, v in d["setup"].items()})
        features = {
            k: Features(
                names=tuple(f["names"]),
                order=np.asarray(f["order"], np.int64),
                blocks=tuple(f["blocks"]),
                sizes=tuple(f["sizes"]),
            )
            for k, f in d["features"].items()
        }
        rest = {k: dict(d[k]) for k in ("likelihoods", "transforms", "centre", "spread", "median_library")}
        tuples = {k: {a: tuple(b) for a, b in d[k].items()} for k in ("categories", "measured_in")}
        return cls(setup=setup, features=features, **rest, **tuples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityData:
    """One modality of the mosaic, rows only for the cells that have it.

    Attributes
    ----------
    x
        Values (n_m, D_m): CSR float32, or dense float32 for Gaussian; what is missing is 0.
    entry_measured
        What was measured, entry by entry, (n_m, D_m); None when the panels say it all.
    row_of_cell
        Row of each cell, -1 where the cell lacks the modality, shape (n,).
    panels
        Boolean (P, D_m): what each panel measures.
    panel_of_row
        Panel of each row, shape (n_m,).
    library
        Sum of the measured values of each row, shape (n_m,).
    scale
        Scale of the transform of each row, shape (n_m,).
    whole
        Whether all values are whole numbers >= 0.
    """

    name: str
    features: Features
    likelihood: Distribution
    transform: Transform
    x: sp.csr_matrix | NDArray[np.float32]
    entry_measured: NDArray[np.bool_] | None
    row_of_cell: NDArray[np.int64]
    panels: NDArray[np.bool_]
    panel_of_row: NDArray[np.int64]
    library: NDArray[np.float32]
    scale: NDArray[np.float32]
    whole: bool

    @property
    def n_features(self) -> int:
        """Number of features, D_m."""
        return len(self.features.names)

    @property
    def n_cells(self) -> int:
        """Number of cells that have the modality, n_m."""
        return len(self.panel_of_row)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Features of each block."""
        return self.features.sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic:
    """A registered mosaic: modalities, covariates and names of n cells.

    Attributes
    ----------
    covariates
        One-hot batches and other categories, then standardised numbers, float32 (n, C).
    batch
        Batch of each cell, shape (n,), a position in ``registry.categories[batch_key]``.
    group
        Condition group of each cell, batch x measured modalities, from 1; shape (n,).
    """

    cells: pd.Index
    modalities: tuple[ModalityData, ...]
    covariates: NDArray[np.float32]
    batch: NDArray[np.int64]
    group: NDArray[np.int64]
    group_names: tuple[str, ...]
    registry: Registry

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    def modality(self, name: str) -> ModalityData:
        """One modality by name; `InputError` names those that exist."""
        for m in self.modalities:
            if m.name == name:
                return m
        raise InputError(f"No modality {name!r}; the model has {', '.join(m.name for m in self.modalities)}.")

    def nbytes(self) -> int:
        """Bytes of the values and of what is kept beside them for each cell."""
        total = self.covariates.nbytes + self.batch.nbytes + self.group.nbytes
        for m in self.modalities:
            parts = [m.x.data, m.x.indices, m.x.indptr] if sp.issparse(m.x) else [m.x]
            parts += [m.row_of_cell, m.panel_of_row, m.library, m.scale]
            total += sum(p.nbytes for p in parts) + (
                0 if m.entry_measured is None else m.entry_measured.nbytes
            )
        return int(total)

    def __repr__(self) -> str:
        lines = [f"Mosaic of {self.n_cells:,} cells"]
        for m in self.modalities:
            kind = f"{m.likelihood}, {len(m.block_sizes)} block{'s' if len(m.block_sizes) > 1 else ''}"
            lines.append(f"  {m.name}: {m.n_cells:,} cells x {m.n_features:,} features ({kind})")
        return "\n".join(lines)


def register(data: MuData | AnnData, setup: Setup, *, registry: Registry | None = None) -> Mosaic:
    """Read a MuData or AnnData into a `Mosaic`, checking everything that can be wrong with it.

    Parameters
    ----------
    data
        The user's object; it is not changed.
    setup
        How to read it.
    registry
        Of a trained model: data are then read as it was, and features must match by name.

    Raises
    ------
    InputError
        With every problem found, one per line.
    """
    mods = dict(data.mod) if isinstance(data, MuData) else {_only_name(setup, registry): data}
    problems: list[str] = []
    wanted = registry.features if registry else setup.modalities or tuple(mods)
    for name in wanted:
        if name not in mods and registry is None:
            problems.append(f"No modality {name!r} in the data; it has {', '.join(mods)}.")
    for mapping in ("layers", "likelihoods", "transforms", "block_keys"):
        for name in getattr(setup, mapping):
            if name not in mods and registry is None:
                problems.append(f"{mapping}: no modality {name!r} in the data; it has {', '.join(mods)}.")
    cells = pd.Index(data.obs_names)
    problems += _duplicates("obs_names", cells, "make them unique, for example with obs_names_make_unique()")
    if problems:
        raise InputError(problems)
    present = {name: mods[name] for name in wanted if name in mods}
    if not present:
        raise InputError(
            f"The data have none of the model's modalities ({', '.join(wanted)}); they have {', '.join(mods)}."
        )
    panel_key = setup.panel_key or _combined_panel_key(data) or setup.batch_key
    read: list[ModalityData] = []
    for name, a in present.items():
        try:
            read.append(_read_modality(name, a, data, cells, setup, panel_key, registry))
        except InputError as error:
            problems += error.problems
    try:
        covariates, batch, learned = _covariates(data, setup, registry)
    except InputError as error:
        problems += error.problems
    if not problems and registry is None:
        problems += _orphans(cells, read)
    if problems:
        raise InputError(problems)
    if registry is None:
        registry = _learn(setup, read, batch, learned)
    group, group_names = _groups(read, batch, registry)
    return Mosaic(
        cells=cells,
        modalities=tuple(read),
        covariates=covariates,
        batch=batch,
        group=group,
        group_names=group_names,
        registry=registry,
    )


def _only_name(setup: Setup, registry: Registry | None) -> str:
    if registry is not None:
        return next(iter(registry.features))
    return setup.modalities[0] if setup.modalities else "rna"


def _combined_panel_key(data: MuData | AnnData) -> str | None:
    note = data.uns.get("mosaicvi", {})
    key = note.get("panel_key") if isinstance(note, Mapping) else None
    return str(key) if key is not None and key in data.obs else None


def _duplicates(what: str, names: pd.Index, remedy: str) -> list[str]:
    twice = names[names.duplicated()].unique()
    return [f"{what}: {_quote(twice)} occur more than once; {remedy}."] if len(twice) else []


def _quote(names: Sequence[Any] | pd.Index) -> str:
    shown = ", ".join(repr(str(n)) for n in list(names)[:MANY])
    return shown + (f" and {len(names) - MANY:,} more" if len(names) > MANY else "")


def _orphans(cells: pd.Index, mods: Sequence[ModalityData]) -> list[str]:
    has = np.zeros(len(cells), bool)
    for m in mods:
        has |= m.row_of_cell >= 0
    if has.all():
        return []
    return [
        f"{int((~has).sum()):,} cells have no modality at all (such as {_quote(cells[~has])}); "
        "remove them: mdata = mdata[mdata.obs_names.isin(...)]."
    ]


# --- one modality -------------------------------------------------------------------------------


def _read_modality(
    name: str,
    a: AnnData,
    data: MuData | AnnData,
    cells: pd.Index,
    setup: Setup,
    panel_key: str | None,
    registry: Registry | None,
) -> ModalityData:
    if a.n_obs == 0 or a.n_vars == 0:
        raise InputError(f"Modality {name!r} has no {'cells' if a.n_obs == 0 else 'features'}; leave it out.")
    problems = _duplicates(f"{name}: var_names", a.var_names, "make them unique with var_names_make_unique()")
    problems += _duplicates(
        f"{name}: obs_names", a.obs_names, "make them unique with obs_names_make_unique()"
    )
    if problems:
        raise InputError(problems)
    if registry is None:
        features = _blocks(name, a, setup.block_keys.get(name))
        order = features.order
    else:
        features = registry.features[name]
        order = _match_features(name, a.var_names, features)
    x = _values(name, a, setup.layers.get(name), order)
    whole = _check_values(name, a, x)
    likelihood = registry.likelihoods[name] if registry else _likelihood(name, a, x, whole, features, setup)
    transform = registry.transforms[name] if registry else _transform(name, likelihood, whole, setup)
    _check_likelihood(name, a, x, likelihood)
    panels, panel_of_row = _panels(name, a, data, order, panel_key)
    row_of_cell = np.asarray(a.obs_names.get_indexer(cells), np.int64)
    x, entry = _drop_unmeasured(name, x, likelihood, panels, panel_of_row)
    if registry is None:
        _check_measured(name, a.var_names[order], panels, panel_of_row, entry)
    library, scale = _scales(x, entry, panels, panel_of_row, transform)
    if likelihood in COUNT_DISTRIBUTIONS and (library == 0).any():
        empty = a.obs_names[library == 0]
        warnings.warn(
            f"Modality {name!r}: {len(empty):,} cells have only zeros (such as {_quote(empty)}); they teach nothing.",
            MosaicWarning,
            stacklevel=4,
        )
    return ModalityData(
        name=name,
        features=features,
        likelihood=likelihood,
        transform=transform,
        x=x,
        entry_measured=entry,
        row_of_cell=row_of_cell,
        panels=panels,
        panel_of_row=panel_of_row,
        library=library,
        scale=scale,
        whole=whole,
    )


def _blocks(name: str, a: AnnData, key: str | None) -> Features:
    """One block per value of the user's column, per chromosome, or one for all."""
    if key is not None:
        if key not in a.var:
            raise InputError(f"{name}: no var column {key!r} for the blocks; it has {_quote(a.var.columns)}.")
        label = a.var[key].astype(str).to_numpy()
    else:
        found = [_CHROMOSOME.match(str(v)) for v in a.var_names]
        share = sum(f is not None for f in found) / len(found)
        label = np.array(
            [f["chrom"] if f and share > 0.9 else "other" if share > 0.9 else name for f in found]
        )
    blocks, code = np.unique(label, return_inverse=True)
    order = np.argsort(code, kind="stable").astype(np.int64)
    return Features(
        names=tuple(str(v) for v in a.var_names[order]),
        order=order,
        blocks=tuple(str(b) for b in blocks),
        sizes=tuple(int(s) for s in np.bincount(code)),
    )


def _match_features(name: str, var_names: pd.Index, features: Features) -> NDArray[np.int64]:
    order = np.asarray(var_names.get_indexer(pd.Index(features.names)), np.int64)
    missing = [f for f, o in zip(features.names, order, strict=True) if o < 0]
    extra = var_names.difference(pd.Index(features.names), sort=False)
    if missing or len(extra):
        parts = [f"lacks {_quote(missing)}"] if missing else []
        parts += [f"has {_quote(extra)} besides"] if len(extra) else []
        raise InputError(
            f"Modality {name!r} does not match the model's features: it {' and '.join(parts)}; "
            "give the features that the model was trained on."
        )
    return order


def _values(
    name: str, a: AnnData, layer: str | None, order: NDArray[np.int64]
) -> sp.csr_matrix | NDArray[np.float32]:
    if layer is not None and layer not in a.layers:
        raise InputError(f"{name}: no layer {layer!r}; it has {_quote(list(a.layers)) or 'none'}.")
    raw = a.X if layer is None else a.layers[layer]
    if raw is None:
        raise InputError(f"{name}: X is empty; name the layer with the values, layers={{{name!r}: ...}}.")
    identity = np.array_equal(order, np.arange(a.n_vars))
    if sp.issparse(raw):
        x = sp.csr_matrix(raw, dtype=np.float32)
        x = x if identity else sp.csr_matrix(x[:, order])
        if not x.has_canonical_format:
            x = x.copy() if x is raw or np.shares_memory(x.data, raw.data) else x
            x.sum_duplicates()
        return x
    dense = np.asarray(raw, np.float32)
    return dense if identity else dense[:, order]


def _check_values(name: str, a: AnnData, x: sp.csr_matrix | NDArray[np.float32]) -> bool:
    """Whether all values are whole and >= 0; raises on infinite ones."""
    values = x.data if sp.issparse(x) else x
    if sp.issparse(x) and np.isnan(values).any():
        raise InputError(
            f"{name}: a sparse matrix holds NaN; missing entries need a dense matrix: X.toarray()."
        )
    if np.isinf(values).any():
        raise InputError(f"{name}: {_where(a, x, np.isinf)} is infinite; remove or replace such values.")
    with np.errstate(invalid="ignore"):
        fine = (values >= 0) & (values == np.rint(values))
    return bool((fine | np.isnan(values)).all())


def _where(a: AnnData, x: sp.csr_matrix | NDArray[np.float32], bad: Any) -> str:
    """Name the first entry for which `bad` holds."""
    if sp.issparse(x):
        i = int(np.argmax(bad(x.data)))
        row, value = int(np.searchsorted(x.indptr, i, side="right") - 1), x.data[i]
    else:
        row, col = np.unravel_index(int(np.argmax(bad(x))), x.shape)
        value = x[row, col]
    return f"the value {value:g} of cell {str(a.obs_names[int(row)])!r}"


def _likelihood(
    name: str,
    a: AnnData,
    x: sp.csr_matrix | NDArray[np.float32],
    whole: bool,
    features: Features,
    setup: Setup,
) -> Distribution:
    said = setup.likelihoods.get(name)
    if said is not None:
        if said not in DISTRIBUTIONS:
            raise InputError(
                f"likelihoods: unknown {said!r} for {name!r}; use one of {', '.join(DISTRIBUTIONS)}."
            )
        return said
    if whole:
        return "Bernoulli" if len(features.sizes) > 1 and name not in setup.block_keys else "NB"
    if sp.issparse(x) and x.data.min(initial=0) >= 0:
        raise InputError(_looks_normalised(name, a))
    return "Gaussian"


def _looks_normalised(name: str, a: AnnData) -> str:
    layers = f" (it has {_quote(list(a.layers))})" if len(a.layers) else ""
    return (
        f"{name}: values are fractional, so they look normalised already, but counts are needed; "
        f"name the layer of raw counts, layers={{{name!r}: ...}}{layers}, or set likelihoods={{{name!r}: 'Gaussian'}}."
    )


def _transform(name: str, likelihood: Distribution, whole: bool, setup: Setup) -> Transform:
    said = setup.transforms.get(name)
    if said is not None:
        if said not in TRANSFORMS:
            raise InputError(
                f"transforms: unknown {said!r} for {name!r}; use one of {', '.join(TRANSFORMS)}."
            )
        return said
    if likelihood == "Bernoulli":
        return "binarize"
    return "log1p_cp10k" if likelihood in COUNT_DISTRIBUTIONS and whole else "none"


def _check_likelihood(
    name: str, a: AnnData, x: sp.csr_matrix | NDArray[np.float32], likelihood: Distribution
) -> None:
    if likelihood == "Gaussian":
        return
    values = x.data if sp.issparse(x) else x
    with np.errstate(invalid="ignore"):
        negative = bool((values < 0).any())
    if negative:
        raise InputError(
            f"{name}: {_where(a, x, lambda v: v < 0)} is negative, which {likelihood} cannot be; "
            f"name the layer of raw counts, layers={{{name!r}: ...}}, or set likelihoods={{{name!r}: 'Gaussian'}}."
        )


def _panels(
    name: str, a: AnnData, data: MuData | AnnData, order: NDArray[np.int64], panel_key: str | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What each panel measures (P, D_m) and the panel of each row (n_m,)."""
    if "measured" not in a.varm:
        return np.ones((1, a.n_vars), bool), np.zeros(a.n_obs, np.int64)
    table = a.varm["measured"]
    if not isinstance(table, pd.DataFrame):
        table = pd.DataFrame(np.asarray(table).reshape(a.n_vars, -1), index=a.var_names)
    if table.shape[1] == 1:
        return table.to_numpy(bool).T[:, order], np.zeros(a.n_obs, np.int64)
    obs = data.obs if panel_key in data.obs else a.obs
    if panel_key is None or panel_key not in obs:
        raise InputError(
            f"{name}: varm['measured'] has {table.shape[1]} panels; "
            "say which obs column names each cell's panel, panel_key=...."
        )
    label = obs[panel_key].reindex(a.obs_names).astype(str)
    panel_of_row = np.asarray(pd.Index(table.columns.astype(str)).get_indexer(pd.Index(label)), np.int64)
    if (panel_of_row < 0).any():
        unknown = label[panel_of_row < 0].unique()
        raise InputError(
            f"{name}: obs[{panel_key!r}] has {_quote(unknown)}, which are no columns of varm['measured'] "
            f"({_quote(table.columns)})."
        )
    return table.to_numpy(bool).T[:, order], panel_of_row


def _drop_unmeasured(
    name: str,
    x: sp.csr_matrix | NDArray[np.float32],
    likelihood: Distribution,
    panels: NDArray[np.bool_],
    panel_of_row: NDArray[np.int64],
) -> tuple[sp.csr_matrix | NDArray[np.float32], NDArray[np.bool_] | None]:
    """Keep measured values only; dense for Gaussian, else CSR."""
    if sp.issparse(x):
        if not panels.all():
            row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
            outside = ~panels[panel_of_row[row], x.indices]
            if (outside & (x.data != 0)).any():
                warnings.warn(
                    f"Modality {name!r}: {int(outside.sum()):,} values stand where varm['measured'] says that "
                    "nothing was measured; they are left out.",
                    MosaicWarning,
                    stacklevel=5,
                )
            if outside.any():
                x = x.copy()
                x.data[outside] = 0
                x.eliminate_zeros()
        if likelihood != "Gaussian":
            return x, None
        x = x.toarray()
    measured = panels[panel_of_row] & ~np.isnan(x)
    filled = np.where(measured, x, 0).astype(np.float32)
    if likelihood == "Gaussian":
        return filled, measured
    whole_panel = bool((measured == panels[panel_of_row]).all())
    return sp.csr_matrix(filled), None if whole_panel else measured


def _check_measured(
    name: str,
    names: pd.Index,
    panels: NDArray[np.bool_],
    panel_of_row: NDArray[np.int64],
    entry: NDArray[np.bool_] | None,
) -> None:
    seen = panels[np.unique(panel_of_row)].any(0) if entry is None else entry.any(0)
    if not seen.all():
        raise InputError(f"{name}: nobody measured {_quote(names[~seen])}; remove such features.")


def _scales(
    x: sp.csr_matrix | NDArray[np.float32],
    entry: NDArray[np.bool_] | None,
    panels: NDArray[np.bool_],
    panel_of_row: NDArray[np.int64],
    transform: Transform,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Library and transform's scale of each row, both (n_m,)."""
    total = np.asarray(x.sum(1, dtype=np.float64)).ravel()
    n_measured = panels.sum(1)[panel_of_row] if entry is None else entry.sum(1)
    mean_log = np.zeros_like(total)
    if transform == "clr":
        logs = x.log1p() if sp.issparse(x) else np.log1p(x)
        mean_log = np.asarray(logs.sum(1, dtype=np.float64)).ravel() / np.maximum(n_measured, 1)
    return np.maximum(total, 0).astype(np.float32), cell_scale(transform, total, mean_log)


# --- cells --------------------------------------------------------------------------------------


def _covariates(
    data: MuData | AnnData, setup: Setup, registry: Registry | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, dict[str, Any]]]:
    """Covariates (n, C), the batch of each cell (n,), and what was learned from the columns."""
    n = data.n_obs
    learned: dict[str, dict[str, Any]] = {"categories": {}, "centre": {}, "spread": {}}
    batch, columns, problems = np.zeros(n, np.int64), [], []
    if setup.batch_key is None:
        columns.append(np.ones((n, 1), np.float32))
    keys = ([setup.batch_key] if setup.batch_key else []) + list(setup.categorical_covariate_keys)
    for key in keys:
        try:
            values = _column(
                data, key, "batch_key" if key == setup.batch_key else "categorical_covariate_keys"
            )
        except InputError as error:
            problems += error.problems
            continue
        label = values.astype(str)
        categories = registry.categories[key] if registry else tuple(sorted(label.unique()))
        code = np.asarray(pd.Index(categories).get_indexer(pd.Index(label)), np.int64)
        if (code < 0).any():
            new = label[code < 0].unique()
            problems.append(
                f"obs[{key!r}] has {_quote(new)}, which the model has not seen; it knows {_quote(categories)}."
            )
            continue
        learned["categories"][key] = categories
        columns.append(np.eye(len(categories), dtype=np.float32)[code])
        batch = code if key == setup.batch_key else batch
    for key in setup.continuous_covariate_keys:
        try:
            values = _numbers(_column(data, key, "continuous_covariate_keys"), key)
        except InputError as error:
            problems += error.problems
            continue
        centre = registry.centre[key] if registry else float(values.mean())
        spread = registry.spread[key] if registry else float(values.std()) or 1.0
        learned["centre"][key], learned["spread"][key] = centre, spread
        columns.append(((values - centre) / spread)[:, None].astype(np.float32))
    if problems:
        raise InputError(problems)
    return np.concatenate(columns, axis=1), batch, learned


def _column(data: MuData | AnnData, key: str, argument: str) -> pd.Series:
    """An obs column, from the whole object or put together from its modalities."""
    if key in data.obs:
        values = data.obs[key]
    else:
        parts = [a.obs[key] for a in data.mod.values() if key in a.obs] if isinstance(data, MuData) else []
        if not parts:
            have = [c for c in data.obs.columns if ":" not in str(c)]
            raise InputError(f"{argument}: no obs column {key!r}; there are {_quote(have) or 'none'}.")
        joined = pd.concat([p.astype(object) for p in parts])
        values = joined[~joined.index.duplicated()].reindex(data.obs_names)
    if values.isna().any():
        bad = values.index[values.isna()]
        raise InputError(
            f"obs[{key!r}] is missing (NaN) for {len(bad):,} cells (such as {_quote(bad)}); "
            "fill it in, or remove those cells."
        )
    return values


def _numbers(values: pd.Series, key: str) -> NDArray[np.float64]:
    try:
        numbers = values.to_numpy(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"obs[{key!r}] does not hold numbers; name it in categorical_covariate_keys instead."
        ) from None
    if not np.isfinite(numbers).all():
        raise InputError(f"obs[{key!r}] holds infinite values; remove or replace them.")
    return numbers


def _groups(
    mods: Sequence[ModalityData], batch: NDArray[np.int64], registry: Registry
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Condition group of each cell, from 1: its batch and the modalities that it has."""
    has = np.stack([m.row_of_cell >= 0 for m in mods], axis=1)
    key = registry.setup.batch_key
    names = registry.categories[key] if key else ("all",)
    _, first, code = np.unique(np.c_[batch, has], axis=0, return_index=True, return_inverse=True)
    label = [
        f"{names[batch[i]]}: " + "+".join(m.name for m, h in zip(mods, has[i], strict=True) if h)
        for i in first
    ]
    return code.ravel().astype(np.int64) + 1, tuple(label)


def _learn(
    setup: Setup, mods: Sequence[ModalityData], batch: NDArray[np.int64], learned: dict[str, dict[str, Any]]
) -> Registry:
    names = learned["categories"].get(setup.batch_key, ("all",))
    measured_in = {m.name: tuple(names[b] for b in np.unique(batch[m.row_of_cell >= 0])) for m in mods}
    return Registry(
        setup=setup,
        features={m.name: m.features for m in mods},
        likelihoods={m.name: m.likelihood for m in mods},
        transforms={m.name: m.transform for m in mods},
        categories=learned["categories"],
        centre=learned["centre"],
        spread=learned["spread"],
        median_library={
            m.name: float(np.median(m.library[m.library > 0])) if (m.library > 0).any() else 1.0 for m in mods
        },
        measured_in=measured_in,
    )
