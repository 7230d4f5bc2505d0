"""How well features are imputed, kept with a model so that it can say so without its data.

Legend: D features of a modality, d of them that could be scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaicvi.config import NetworkConfig
from mosaicvi.infer.accuracy import CHANCE, FeatureAccuracy
from mosaicvi.infer.readout.views import Shown
from mosaicvi.store.parts import fitting_the_network, need

ENOUGH = 0.5  # of what a view shows of each modality has to be shown by cells that it is to speak for


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptAccuracy:
    """The accuracy of features from each view that hides some, by the cells that a model was trained on.

    Attributes
    ----------
    parts
        One for each view and modality that could be tested, and one of single entries.
    """

    parts: tuple[FeatureAccuracy, ...]

    def nearest(self, view: Shown, modality: str) -> FeatureAccuracy | None:
        """What speaks for cells that show a view: the part whose view is most like it, and shows no more.

        A part may show fewer modalities, and features that these cells lack; half at least of what it shows
        of each modality they have to show as well. None where there is no such part.
        """
        masks, best, found = view.features, 0.0, None
        for part in self.parts:
            if part.modality == modality and part.shown is not None:
                alike = _likeness(part.shown, masks)
                if alike > best:
                    best, found = alike, part
        return found

    def of_entries(self, modality: str) -> FeatureAccuracy | None:
        """That of single missing entries of a modality; None where it was not tested."""
        return next((p for p in self.parts if p.modality == modality and p.shown is None), None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values and arrays; `from_dict` reads it back."""
        return {"parts": [_plain(part) for part in self.parts]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], config: NetworkConfig) -> KeptAccuracy:
        """Read what `to_dict` wrote; `ValueError` and its like if it is not of this network."""
        sizes = dict(zip(config.uni_block_names, config.dim_input_arr, strict=True))
        return cls(parts=tuple(_part(one, sizes) for one in saved["parts"]))


def read_accuracy(saved: Mapping[str, Any], config: NetworkConfig, folder: Path) -> KeptAccuracy:
    """Read what `KeptAccuracy.to_dict` wrote.

    Parameters
    ----------
    saved
        The values.
    config
        The network that they belong to.
    folder
        Of the model, for the message.

    Raises
    ------
    ModelFileError
        They are damaged or of another network.
    """
    with fitting_the_network(folder, "its kept accuracy does not fit"):
        return KeptAccuracy.from_dict(saved, config)


def _likeness(shown: Shown, masks: Mapping[str, Any]) -> float:
    """Mean over the modalities of the cells of the share of features in common; 0 if it cannot speak."""
    total = 0.0
    for name, mask in shown.features.items():
        both = 0 if name not in masks else int((mask & masks[name]).sum())
        if both < ENOUGH * mask.sum():
            return 0.0
        total += both / int((mask | masks[name]).sum())
    return total / max(len(masks), 1)


def _plain(part: FeatureAccuracy) -> dict[str, Any]:
    plain = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    lacking = part.lacking if isinstance(part.lacking, int) else np.asarray(part.lacking)
    shown = None if part.shown is None else part.shown.features
    return plain | {"shown": shown, "lacking": lacking, "score": part.score.astype(np.float32)}


def _part(one: Mapping[str, Any], sizes: Mapping[str, int]) -> FeatureAccuracy:
    name, measure, held_out = str(one["modality"]), str(one["measure"]), one["held_out"]
    features, n_cells = (np.asarray(one[key], np.int64) for key in ("features", "n_cells"))
    score = np.asarray(one["score"], np.float64)
    need(features.ndim == 1 and features.shape == n_cells.shape == score.shape and measure in CHANCE)
    need(bool(((features >= 0) & (features < sizes[name])).all()) and len(set(features)) == len(features))
    need(bool((n_cells >= 0).all()) and bool(np.isfinite(score).all()))
    need(held_out is None or isinstance(held_out, bool))
    lacking = one["lacking"]
    if not isinstance(lacking, int):
        lacking = np.asarray(lacking, np.int64)
        need(lacking.shape == features.shape)
    return FeatureAccuracy(
        modality=name,
        view=str(one["view"]),
        shown=None if one["shown"] is None else Shown.from_dict(one["shown"], sizes),
        partial=bool(one["partial"]),
        lacking=lacking,
        features=features,
        score=score,
        measure=measure,
        n_cells=n_cells,
        held_out=held_out,
    )
