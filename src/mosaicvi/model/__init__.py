"""MosaicVI: what a user holds. It registers, trains, answers and saves by calling the stations.

`state` is what it holds; the methods are in `registering`, `training`, `answers`, `drawing`, `bounding`,
`comparing`, `trust`, `labelling`, `reference`, `saving` and `growing`, by what they do; `habits` and `names`
are for users of other packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from anndata import AnnData
from mudata import MuData

from mosaicvi.config import NetworkConfig, check_names
from mosaicvi.config.arguments import check_network, whole
from mosaicvi.config.names import names_ours
from mosaicvi.data.mosaic import Mosaic
from mosaicvi.errors import FEWER_FEATURES, InputError, memory_for
from mosaicvi.fit.build import build_network
from mosaicvi.model.bounding import Bounding
from mosaicvi.model.drawing import Drawing
from mosaicvi.model.growing import Growing
from mosaicvi.model.habits import Habits
from mosaicvi.model.labelling import Labelling
from mosaicvi.model.names import in_our_names
from mosaicvi.model.reference import Referring
from mosaicvi.model.registering import Registering, registered
from mosaicvi.model.training import Training
from mosaicvi.model.trust import Trusting

__all__ = ["MosaicVI"]


class MosaicVI(Registering, Training, Habits, Drawing, Bounding, Trusting, Labelling, Referring, Growing):
    """One model of a mosaic: a common latent space, and imputed values for what was not measured.

    Parameters
    ----------
    data
        A MuData or AnnData that was given to `setup_mudata` or `setup_anndata`, or the `Mosaic`
        which these return.
    preset
        ``"default"``, or ``"published"`` for the exact behaviour of the published implementation.
    seed
        Decides the first weights.
    **parameters
        Any field of `NetworkConfig`, such as ``dim_latent=20`` or ``beta_kl=1``. What is left out is
        filled in from the data. ``n_latent`` is another name of `dim_latent`; ``n_hidden`` and ``n_layers``
        are the width and number of hidden layers, `dimensions`.

    Raises
    ------
    InputError
        If the data were not registered, or a parameter is unknown or does not fit.

    Examples
    --------
    >>> mdata = mosaicvi.read("mosaic.h5mu")
    >>> mosaicvi.MosaicVI.setup_mudata(mdata, batch_key="batch")
    >>> model = mosaicvi.MosaicVI(mdata)
    >>> model.train()
    >>> mdata.obsm["X_mosaicvi"] = model.get_latent_representation()
    """

    @names_ours
    def __init__(
        self,
        data: MuData | AnnData | Mosaic,
        *,
        preset: Literal["default", "published"] = "default",
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        mosaic = registered(data)
        if preset == "published":
            mosaic = mosaic.as_published()
        seed = whole("seed", seed)
        names = [m.name for m in mosaic.modalities]
        config = _network_config(mosaic, preset, in_our_names(parameters, names))
        with memory_for("making the network", FEWER_FEATURES):
            net = build_network(mosaic, config, seed=seed, guess=preset != "published")
        self._take(mosaic, config, net)
        self._reads_out = self._aligns = preset != "published"

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.net.parameters())
        trained = f"trained for {len(self._rows)} epochs" if self.is_trained else "not trained"
        return (
            f"MosaicVI with {n:,} weights, latent width {self.config.dim_latent}, {trained}, "
            f"engine {self.net.engine()}\n{self.mosaic!r}"
        )


def _network_config(mosaic: Mosaic, preset: str, parameters: Mapping[str, Any]) -> NetworkConfig:
    """Parameters with what the mosaic says; one that is of the wrong kind is named."""
    check_names(parameters)
    parameters = check_network(parameters)
    try:
        return NetworkConfig.for_mosaic(mosaic, preset=preset, **parameters)
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError):
        for name, value in parameters.items():
            try:
                NetworkConfig.for_mosaic(mosaic, preset=preset, **{name: value})
            except InputError:
                continue
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(f"{name}: {value!r} is of the wrong kind ({reason}).") from None
        raise
