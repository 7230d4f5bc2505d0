"""`mosaicvi embed`: a model and data -> the latent of each cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicvi.cli.data import (
    H5AD,
    H5MU,
    Loaded,
    add_note,
    as_anndata,
    check_data_output,
    check_h5ad_fits,
    write,
)
from mosaicvi.cli.for_model import load_for, load_model, prepared
from mosaicvi.cli.options import (
    AllowMissing,
    BatchSize,
    Data,
    Model,
    OnDisk,
    Overwrite,
    Quiet,
    Reading,
    TakeAs,
    mapping,
    reads_data,
)
from mosaicvi.cli.parts import Cells, cells_of, own_share
from mosaicvi.cli.say import note
from mosaicvi.ranks import place
from mosaicvi.store.files import atomic_path, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mosaicvi.model import MosaicVI

KEY = "X_mosaicvi"
PIECE = 1 << 16  # cells that are written together


@reads_data
def command(
    reading: Reading,
    model: Model,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="An .h5mu or .h5ad with the data, or a .csv.", show_default=False
        ),
    ],
    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD", help="What the encoder may see; may be repeated. [default: all]"),
    ] = None,
    umap: Annotated[
        bool, typer.Option("--umap", help='Add two dimensions to look at, obsm["X_umap"].')
    ] = False,
    cells: Cells = None,
    take_as: TakeAs = None,
    allow_missing: AllowMissing = False,
    batch_size: BatchSize = 1024,
    on_disk: OnDisk = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write the latent of each cell into obsm["X_mosaicvi"] of a copy of the data.

        mosaicvi embed model mosaic.h5mu --output embedded.h5mu --umap
        mosaicvi embed model query.h5ad --output query_embedded.h5ad
        mosaicvi embed model mosaic.h5mu --modality rna --output rna_only.csv
        mosaicvi embed model mosaic.h5mu --cells 2/8 --output part2.csv

    A cell's latent depends on that cell alone. Output and input may be the same file, with `--overwrite`.
    """
    import numpy as np
    import pandas as pd

    from mosaicvi.data.stored.names import plain

    check_data_output(output, overwrite=overwrite, suffixes=(H5MU, H5AD, ".csv"))
    reading = replace(reading, on_disk=on_disk)
    loaded = load_for(
        model,
        data,
        reading,
        take_as=mapping(take_as, "--take-as"),
        quiet=quiet,
        names_on_disk=not umap,
    )
    check_h5ad_fits(output, loaded)
    trained = load_model(model, prepared(model, loaded) if allow_missing else loaded, quiet=quiet)
    chosen = cells_of(cells, trained.mosaic.n_cells)
    latent = _latent(trained, np.arange(trained.mosaic.n_cells)[chosen], modality, batch_size)
    if not place().is_first:
        return
    if output.suffix.lower() == ".csv":
        names = [f"z{i + 1}" for i in range(latent.shape[1])]
        of_cells = trained.mosaic.cells[chosen]
        with atomic_path(output, overwrite=overwrite) as temporary, temporary.open("w") as file:
            for first in range(0, len(latent), PIECE):
                some = slice(first, first + PIECE)
                table = pd.DataFrame(latent[some], index=plain(of_cells[some]), columns=names)
                table.rename_axis("cell").to_csv(file, header=not first)
    else:
        is_aligned = trained.alignment() is not None
        _write(
            loaded, chosen, latent, output, model=model, aligned=is_aligned, umap=umap, overwrite=overwrite
        )
    note(f"Wrote {shown(output)}: {latent.shape[0]:,} cells × {latent.shape[1]}", quiet=quiet)


def _latent(
    trained: MosaicVI, cells: NDArray[np.int64], modalities: list[str] | None, batch_size: int
) -> NDArray[np.float32]:
    """Latent of the cells; of several processes the first has it of all, and the others of their share."""
    import numpy as np
    import torch

    group, _, own = own_share(cells)
    latent = np.asarray(
        trained.get_latent_representation(indices=own, modalities=modalities or None, batch_size=batch_size)
    )
    return latent if group is None else group.rows_to_first(torch.from_numpy(latent)).numpy()


def _write(
    loaded: Loaded,
    cells: slice,
    latent: NDArray[np.float32],
    output: Path,
    *,
    model: Path,
    aligned: bool,
    umap: bool,
    overwrite: bool,
) -> None:
    said = {"model": str(model), "latent": "aligned" if aligned else "as encoded"}
    if loaded.names_on_disk and output.suffix.lower() == H5MU:
        from mosaicvi.infer.embedded import write_embedded

        mdata = loaded.as_mudata()
        add_note(mdata, said)
        with atomic_path(output, overwrite=overwrite) as temporary:
            write_embedded(temporary, mdata, cells, latent, KEY)
        return
    loaded = loaded.with_names()
    out = as_anndata(loaded.original) if output.suffix.lower() == H5AD else loaded.as_mudata()
    if len(latent) < out.n_obs:
        out = out[cells].copy()
    out.obsm[KEY] = latent
    add_note(out, said)
    if umap:
        from mosaicvi.view.umap import umap as lay_out

        lay_out(out)
    write(out, output, overwrite=overwrite)
