"""The published parameters, as scripts give them, in the words of `MosaicVI`. Legend: D features."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicvi.config import NetworkConfig
from mosaicvi.config.arguments import given_by
from mosaicvi.config.layout import Layout, read_layout
from mosaicvi.config.network import PER_BLOCK, VALUES
from mosaicvi.errors import InputError, nearest

_FIELDS = [field.name for field in dataclasses.fields(NetworkConfig)]
KEYS = _FIELDS[: _FIELDS.index("library_aware")]  # from which on they are ours
APART = ["gamma", *(field.name for field in dataclasses.fields(Layout))]  # which the data say, and the epoch
DEFAULTS = {"gamma": 0.0, "dim_block_enc": 0, "dim_block_dec": 0}
# Patterns of what `MosaicVI` says, and what is said of it here.
WORDS = {
    r"^lr:": "learning_rate:",
    r"^dir_path:": "path_to_weights:",
    r"^categorical_covariate_keys:": "batches_cate:",
    r"^continuous_covariate_keys:": "batches_cont:",
    r"obs\['(\w+\[:, \d+\])'\]": r"\1",
    r"^early_stopping: train_size=.*": "test_size: it leaves no cell to validate; raise it.",
    r"name the layer of raw counts, .*": "give counts, or 'Gaussian' in dist_block.",
    r"set transforms=.*'binarize'.*": "give 0 and 1, such as 1.0 * (data > 0), or another dist_block.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A network as scVAEIT describes it.

    Attributes
    ----------
    config
        Everything that was given, and the defaults.
    layout
        Modalities and blocks.
    """

    config: SimpleNamespace
    layout: Layout

    def fill_in(self, network: NetworkConfig) -> None:
        """Put what the network made of what was not given into the config, where scripts look it up."""
        for name, value in vars(self.config).items():
            if value is None and name not in PER_BLOCK:
                setattr(self.config, name, getattr(network, name))

    def parameters(self, kept: NDArray[np.bool_]) -> dict[str, Any]:
        """Parameters of `MosaicVI` for the features that are kept (D,), without what the data say."""
        found = {k: v for k, v in vars(self.config).items() if k not in APART and v is not None}
        for name in found.keys() & PER_BLOCK:
            found[name] = self.layout.of_blocks(name, found[name], kept)
        for name in found.keys() & VALUES:
            found[name] = self.layout.of_features(name, found[name], kept)
        return found


def read_config(config: Any, *, n_features: int) -> Published:
    """Read the `config` of `VAEIT`: a dict or namespace, with arrays, lists or numbers.

    Raises
    ------
    InputError
        For a name that is not published, or sizes that do not add up.
    """
    given = given_by("config", config)
    for name in given:
        if name not in KEYS:
            raise InputError(f"config: unknown parameter {name!r}; {nearest(str(name), KEYS)}")
    layout = read_layout(given, n_features=n_features)
    filled = SimpleNamespace(**(dict.fromkeys(KEYS) | DEFAULTS | given | dataclasses.asdict(layout)))
    return Published(config=filled, layout=layout)
