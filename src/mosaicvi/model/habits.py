"""Methods of other packages that mean the same here, and where the rest went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from mosaicvi.config.names import names_ours, with_modalities
from mosaicvi.errors import InputError
from mosaicvi.model.answers import Answers
from mosaicvi.model.names import METHODS


class _NamesOurs(type):
    """Of a class on which methods of other packages are looked for."""

    if not TYPE_CHECKING:  # what a checker knows is all there is

        def __getattr__(cls, name: str) -> Any:
            """Name ours where the method is one of another package."""
            raise AttributeError(_no_attribute(f"type object {cls.__name__!r}", name))


class Habits(Answers, metaclass=_NamesOurs):
    """Methods of other packages."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Name ours where the method is one of another package."""
            there = self.config.uni_block_names if "config" in vars(self) else ()
            raise AttributeError(_no_attribute(f"{type(self).__name__!r} object", name, there))

    @names_ours
    def get_normalized_expression(
        self,
        mdata: MuData | AnnData | None = None,
        *,
        modality: str | None = None,
        gene_list: Sequence[str] | None = None,
        indices: Sequence[int] | NDArray[Any] | None = None,
        library_size: float = 1.0,
        transform_batch: str | Sequence[str] | None = None,
        n_samples: int | None = None,
        batch_size: int = 512,
    ) -> pd.DataFrame:
        """Expected counts at one library, as scvi-tools names them: with a library of 1, shares.

        It is `get_imputed_values` with ``scale="counts"`` and ``library=library_size``.

        Parameters
        ----------
        mdata, indices, transform_batch, n_samples, batch_size
            As in `get_imputed_values`.
        modality
            Which; the first with counts where None.
        gene_list
            Names of features; all where None.
        library_size
            The library that each cell is given.

        Returns
        -------
        DataFrame (cells, features), float32; ``attrs["scale"]`` says what the values mean.

        Raises
        ------
        InputError
            If there are no counts.
        """
        if modality is None:
            aware = zip(self.config.uni_block_names, self.config.library_aware, strict=True)
            counts = [name for name, has_library in aware if has_library]
            if not counts:
                raise InputError(
                    "get_normalized_expression: no modality has counts; use get_imputed_values(modality=...)."
                )
            modality = counts[0]
        if isinstance(library_size, str):
            raise InputError(
                f"library_size: a number is needed, not {library_size!r}; "
                f"get_imputed_values(modality={modality!r}) gives counts at the library that is usual there."
            )
        return self.get_imputed_values(
            mdata,
            modality=modality,
            features=gene_list,
            indices=indices,
            transform_batch=transform_batch,
            n_samples=n_samples,
            scale="counts",
            library=library_size,
            batch_size=batch_size,
        )


def _no_attribute(owner: str, name: str, there: Sequence[str] = ()) -> str:
    here = f"; use {with_modalities(METHODS[name], there)}" if name in METHODS else ""
    return f"{owner} has no attribute {name!r}{here}"
