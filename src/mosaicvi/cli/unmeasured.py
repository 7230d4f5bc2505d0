"""Features of which no cell has a value, as tables have some: nothing can be learned of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from mosaicvi.cli.say import warning
from mosaicvi.errors import quoted

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from mosaicvi.data.combine.assemble import Assembled


def unmeasured(data: AnnData | MuData, known: Mapping[str, Collection[str]] | None) -> dict[str, list[str]]:
    """Features of nothing but missing values, by modality; that of an AnnData is called ``""``.

    Parameters
    ----------
    data
        With values in memory.
    known
        Modality -> features of a model, which stay; of an AnnData those of all modalities.
    """
    from mosaicvi.data.read.files import parts_of

    found = {}
    for modality, part in parts_of(data).items():
        theirs: Collection[str] = (known or {}).get(modality, ())
        if known and not modality:
            theirs = {feature for features in known.values() for feature in features}
        empty = part.var_names[_is_empty(part)]
        names = [str(feature) for feature in empty if feature not in theirs]
        if names and len(names) < part.n_vars:
            found[modality] = names
    return found


def unmeasured_in_files(mosaic: Assembled) -> dict[str, list[str]]:
    """The same of values that stay in files, which are read once where they are arrays."""
    import numpy as np

    from mosaicvi.data.blocks import blocks

    found = {}
    for modality, values in mosaic.stored.items():
        if not values.is_dense:
            continue
        empty = np.ones(values.shape[1], bool)
        for _, block in blocks(values):
            empty &= np.isnan(np.asarray(block)).all(axis=0)
            if not empty.any():
                break
        if empty.any() and not empty.all():
            found[modality] = [str(feature) for feature in mosaic.mdata.mod[modality].var_names[empty]]
    return found


def assembled_without(mosaic: Assembled, names: Mapping[str, Collection[str]]) -> Assembled:
    """A mosaic without some features of each modality."""
    import numpy as np

    from mosaicvi.data.combine.assemble import Assembled

    stored = {
        modality: values.ordered(
            np.flatnonzero(~mosaic.mdata.mod[modality].var_names.isin([*names.get(modality, ())]))
        )
        for modality, values in mosaic.stored.items()
    }
    return Assembled(mdata=mudata_without(mosaic.mdata, names), stored=stored)


def without(data: AnnData | MuData, names: Mapping[str, Collection[str]]) -> AnnData | MuData:
    """The data without some features of each modality."""
    from anndata import AnnData

    if not isinstance(data, AnnData):
        return mudata_without(data, names)
    left_out = [feature for features in names.values() for feature in features]
    return data[:, ~data.var_names.isin(left_out)].copy()


def mudata_without(mdata: MuData, names: Mapping[str, Collection[str]]) -> MuData:
    """The same of a MuData."""
    import numpy as np
    from mudata import MuData

    from mosaicvi.data.read import mudata_as_it_is

    parts = dict(mdata.mod)
    for modality, features in names.items():
        part = parts[modality]
        parts[modality] = part[:, ~part.var_names.isin([*features])].copy()
    with mudata_as_it_is():
        out = MuData(parts)
        out.obs = mdata.obs.loc[out.obs_names].copy()
    at = mdata.obs_names.get_indexer(out.obs_names)
    kept = [~part.var_names.isin([*names.get(name, ())]) for name, part in mdata.mod.items()]
    left = np.flatnonzero(np.concatenate(kept))
    for place, rows in (("obsm", at), ("varm", left)):
        for key, values in getattr(mdata, place).items():
            getattr(out, place)[key] = values.iloc[rows] if hasattr(values, "iloc") else values[rows]
    for place, rows in (("obsp", at), ("varp", left)):
        for key, values in getattr(mdata, place).items():
            getattr(out, place)[key] = values[rows][:, rows]
    out.uns.update(mdata.uns)
    return out


def say(names: Mapping[str, Collection[str]]) -> None:
    """Say what is left out."""
    for modality, features in names.items():
        where = f"{modality}: " if modality else ""
        warning(
            f"{where}left out the features of which no cell has a value ({len(features):,}): "
            f"{quoted(features)}"
        )


def _is_empty(part: AnnData) -> NDArray[np.bool_]:
    """Which features have no value, neither in X nor in a layer, (D,)."""
    import numpy as np
    from scipy import sparse

    empty = np.ones(part.n_vars, bool)
    for values in (part.X, *part.layers.values()):
        if values is None:
            continue
        if sparse.issparse(values) or values.dtype.kind != "f":
            return np.zeros(part.n_vars, bool)
        empty &= np.isnan(values).all(axis=0)
    return empty
