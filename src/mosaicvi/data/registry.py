"""How a mosaic is to be read, and what a model remembers of it.

Shapes: D_m features of modality m. Columns are kept in block order; `ModalityFeatures.order` leads back to
the user's order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicvi.config import Distribution
from mosaicvi.data.transforms import Transform
from mosaicvi.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """How a user's object is to be read; the arguments of `MosaicVI.setup_mudata`.

    Raises
    ------
    InputError
        If a column is named twice.
    """

    batch_key: str | None = None
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    likelihoods: Mapping[str, Distribution] = dataclasses.field(default_factory=dict)
    transforms: Mapping[str, Transform] = dataclasses.field(default_factory=dict)
    block_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()
    panel_key: str | None = None
    modalities: tuple[str, ...] = ()
    condition_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        covariates = [*self.categorical_covariate_keys, *self.continuous_covariate_keys]
        if self.batch_key is not None:
            covariates.append(self.batch_key)
        for what, names in (
            ("covariates", covariates),
            ("modalities", self.modalities),
            ("condition_keys", self.condition_keys),
        ):
            twice = [name for i, name in enumerate(names) if name in names[:i]]
            if twice:
                raise InputError(f"{what}: {twice[0]!r} is named more than once; name it once.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityFeatures:
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
        ModalityFeatures of each block.
    scaled
        Features by which a cell's values are brought to scale for the encoder, boolean (D_m,): those that a
        model knew before it grew; None for all.
    """

    names: tuple[str, ...]
    order: NDArray[np.int64]
    blocks: tuple[str, ...]
    sizes: tuple[int, ...]
    scaled: NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard:
    """What the network subtracts from each feature's values, and divides them by.

    Attributes
    ----------
    centre, spread
        Mean and standard deviation of the measured values, float64 (D_m,); a spread of 1 where there is none.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    def standardised(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Values on the network's scale, of raw ones (..., D_m)."""
        found: NDArray[np.float64] = (x - self.centre) / self.spread
        return found


# by modality, batch and feature, logarithms of how much more strongly it is stained
Levels: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]


def _level(of: Mapping[str, Any]) -> dict[str, float]:
    """A level as it was saved; an older version wrote of which share of it counts are divided by."""
    if set(of) == {"gaps", "share"}:
        return {str(feature): float(gap) * float(of["share"]) for feature, gap in of["gaps"].items()}
    return {str(feature): float(gap) for feature, gap in of.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registry:
    """What a trained model remembers of its data, so that it can read other data the same way.

    Attributes
    ----------
    features, likelihoods, transforms, whole, median_library
        By modality, as in `ModalityData`; the median is over the cells with a library above zero.
    categories
        Categories of each categorical column, in the order of their covariates.
    centre, spread
        Mean and standard deviation of each continuous column.
    measured_in
        Batches in which any cell has the modality.
    standards
        Of the modalities that the network sees standardised.
    files
        Datasets that were named otherwise than their file, and the end of its path.
    reading
        How files were read, as `mosaicvi.data.read.remembered` notes it.
    levels
        How strongly batches are stained that the model learnt when it grew, by modality and batch.
    panels
        By modality whose zeros were taken as missing, the features that each batch measured, (B, D_m).
    input_levels
        By modality, by how much the values of each batch in training lie above those of such cells in the
        others, logarithms (B, D_m), which the encoder sees values without; none in older models.
    """

    setup: Setup
    features: Mapping[str, ModalityFeatures]
    likelihoods: Mapping[str, Distribution]
    transforms: Mapping[str, Transform]
    whole: Mapping[str, bool]
    categories: Mapping[str, tuple[str, ...]]
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    median_library: Mapping[str, float]
    measured_in: Mapping[str, tuple[str, ...]]
    standards: Mapping[str, Standard]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reading: str = ""
    levels: Levels = dataclasses.field(default_factory=dict)
    panels: Mapping[str, NDArray[np.bool_]] = dataclasses.field(default_factory=dict)
    input_levels: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    @property
    def covariate_names(self) -> tuple[Hashable, ...]:
        """A name for each covariate, as columns stand in `Mosaic.covariates`."""
        whole: list[Hashable] = ["all"] if self.setup.batch_key is None else []
        each = [("category", key, name) for key, known in self.categories.items() for name in known]
        return (*whole, *each, *(("number", key) for key in self.centre))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Registry:
        """Read what `to_dict` wrote."""
        lists = ("categorical_covariate_keys", "continuous_covariate_keys", "modalities", "condition_keys")
        said: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in d["setup"].items()}
        features = {
            k: ModalityFeatures(
                names=tuple(f["names"]),
                order=np.asarray(f["order"], np.int64),
                blocks=tuple(f["blocks"]),
                sizes=tuple(f["sizes"]),
                scaled=None if f.get("scaled") is None else np.asarray(f["scaled"], bool),
            )
            for k, f in d["features"].items()
        }
        plain = ("likelihoods", "transforms", "whole", "centre", "spread", "median_library")
        rest: dict[str, Any] = {k: dict(d[k]) for k in plain}
        rest |= {k: {a: tuple(b) for a, b in d[k].items()} for k in ("categories", "measured_in")}
        standards = {
            name: Standard(**{field: np.asarray(part, np.float64) for field, part in of_modality.items()})
            for name, of_modality in d.get("standards", {}).items()  # older models have none
        }
        files = {str(name): str(file) for name, file in d.get("files", {}).items()}
        return cls(
            setup=Setup(**said),
            features=features,
            standards=standards,
            files=files,
            reading=str(d.get("reading", "")),
            levels={
                str(name): {str(batch): _level(of) for batch, of in batches.items()}
                for name, batches in d.get("levels", {}).items()
            },
            panels={str(name): np.asarray(table, bool) for name, table in d.get("panels", {}).items()},
            input_levels={
                str(name): np.asarray(table, np.float32) for name, table in d.get("input_levels", {}).items()
            },
            **rest,
        )
