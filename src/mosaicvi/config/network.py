"""What a network is: the published parameters under their published names, and six of our own.

`NetworkConfig` is frozen, keyword-only and checked when it is built; `NetworkConfig.for_mosaic` fills in
what a registered mosaic already says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mosaicvi import likelihoods
from mosaicvi.config.defaults import usual_parameters
from mosaicvi.config.schedule import Schedule
from mosaicvi.config.sizes import Distribution, MosaicSizes
from mosaicvi.errors import InputError, nearest

PRESETS = ("default", "published")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes, weights and choices of one network.

    The first group has the names and meanings of the published implementation (scVAEIT;
    Du, Cai & Roeder, PNAS 2022); the last seven are ours.

    Parameters
    ----------
    dim_input_arr
        Features per modality.
    dim_block
        Features per block, in order; sums to the number of all features.
    dist_block
        Likelihood per block, by its name in `mosaicvi.likelihoods`.
    dim_block_embed
        Width of the mask's embedding per block.
    dim_block_enc, dim_block_dec
        Width of each block's first encoder and last decoder layer; 0 means no sub-network.
    block_names
        Modality of each block.
    uni_block_names
        Modality names, in order.
    dimensions
        Hidden widths of the encoder; the decoder mirrors them.
    dim_latent
        Latent width.
    beta_unobs
        Weight of masked entries in [0, 1]; visible ones weigh ``1 - beta_unobs``.
    beta_reverse
        Share of the reverse task in [0, 1]: predict the visible from the masked.
    beta_kl
        Weight of the KL term.
    beta_modal
        Weight of each modality's likelihood, or ``"auto"``: balanced in the first epochs.
    skip_conn
        Add the encoder's block output to the decoder's block layer.
    p_feat
        Probability of masking a single feature, or ``"uniform"``: drawn from 0 to 1 for each pattern.
    p_modal
        Probability of masking each whole modality; sums to 1.
    mean_vals, min_vals, max_vals
        Centre and bounds of the mean: a number, one per block, one per feature, or None for the
        bounds of the measured values. In the user's units.
    max_disp
        Upper clip of the dispersion (NB, ZINB) or the standard deviation (Gaussian, of standardised values).
    gamma
        Weight of the MMD term between condition groups, a number or a `Schedule`.
    library_aware
        Per modality: the mean of a count is the cell's library times a softmax over features.
    norm
        Norm of the hidden layers; the latent mean always has a batch norm.
    encode_covariates
        Whether the encoder sees the covariates as well as the decoder.
    decode_mask
        Whether the decoder sees the mask's embedding.
    unbiased_mmd
        Whether the MMD term is the unbiased estimate, a mean over pairs of groups by their size;
        otherwise the biased one, a sum over pairs.
    likelihood_share
        Per modality: share of its features, drawn anew in each step, whose likelihood a step of training
        computes and whose library it sums, in (0, 1]; the term counts as that of all.
    mask_by_cell
        Whether each cell's single masked features are drawn for it alone; otherwise a minibatch shares
        two patterns of them.
    level_noise
        Standard deviation, in logarithms, of what a step of training adds to the level of each feature in
        each batch where the encoder sees batches at one level.
    """

    dim_input_arr: tuple[int, ...]
    dim_block: tuple[int, ...]
    dist_block: tuple[Distribution, ...]
    dim_block_embed: tuple[int, ...]
    dim_block_enc: tuple[int, ...]
    dim_block_dec: tuple[int, ...]
    block_names: tuple[str, ...]
    uni_block_names: tuple[str, ...]
    dimensions: tuple[int, ...]
    dim_latent: int
    beta_unobs: float = 0.5
    beta_reverse: float = 0.0
    beta_kl: float = 2.0
    beta_modal: tuple[float, ...] | Literal["auto"] = ()
    skip_conn: bool = False
    p_feat: float | Literal["uniform"] = 0.2
    p_modal: tuple[float, ...] = ()
    mean_vals: tuple[float, ...] | None = None
    min_vals: tuple[float, ...] | None = None
    max_vals: tuple[float, ...] | None = None
    max_disp: float = 6.0
    gamma: Schedule = dataclasses.field(default_factory=lambda: Schedule(start=0.0))
    library_aware: tuple[bool, ...] = ()
    norm: Literal["layer", "batch"] = "layer"
    encode_covariates: bool = False
    decode_mask: bool = True
    unbiased_mmd: bool = True
    likelihood_share: tuple[float, ...] = ()
    mask_by_cell: bool = False
    level_noise: float = 0.0

    def __post_init__(self) -> None:
        n_mod, n_blk = len(self.uni_block_names), len(self.dim_block)
        _fill = object.__setattr__
        if self.beta_modal == ():
            _fill(self, "beta_modal", (1.0,) * n_mod)
        if not self.p_modal:
            _fill(self, "p_modal", (1.0 / n_mod,) * n_mod)
        if not self.library_aware:
            _fill(self, "library_aware", (False,) * n_mod)
        if not self.likelihood_share:
            _fill(self, "likelihood_share", (1.0,) * n_mod)
        for name, size, per in [
            ("dim_input_arr", n_mod, "modality"),
            ("p_modal", n_mod, "modality"),
            ("library_aware", n_mod, "modality"),
            ("likelihood_share", n_mod, "modality"),
            ("dist_block", n_blk, "block"),
            ("dim_block_embed", n_blk, "block"),
            ("dim_block_enc", n_blk, "block"),
            ("dim_block_dec", n_blk, "block"),
            ("block_names", n_blk, "block"),
        ]:
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != size:
                raise InputError(f"{name}: {size} values are needed, one per {per}; got {short(value)}.")
        self._check_blocks()
        self._check_numbers()

    def _check_blocks(self) -> None:
        if len(set(self.uni_block_names)) != len(self.uni_block_names):
            raise InputError(f"uni_block_names: a name occurs twice in {self.uni_block_names!r}.")
        for dist in self.dist_block:
            if dist not in likelihoods.names():
                known = ", ".join(likelihoods.names())
                raise InputError(f"dist_block: unknown distribution {dist!r}; use one of {known}.")
        order = [n for i, n in enumerate(self.block_names) if i == 0 or self.block_names[i - 1] != n]
        if tuple(order) != self.uni_block_names:
            raise InputError(
                f"block_names: the blocks must follow the modalities {self.uni_block_names!r} in order; "
                f"got {order!r}."
            )
        for name, size in zip(self.uni_block_names, self.dim_input_arr, strict=True):
            blocks = [d for d, b in zip(self.dim_block, self.block_names, strict=True) if b == name]
            if sum(blocks) != size:
                raise InputError(
                    f"dim_block: the blocks of {name!r} sum to {sum(blocks)}, but dim_input_arr says {size}."
                )
            dists = {d for d, b in zip(self.dist_block, self.block_names, strict=True) if b == name}
            if len(dists) > 1:
                raise InputError(
                    f"dist_block: the blocks of {name!r} differ ({', '.join(sorted(dists))}); use one."
                )
        if self.skip_conn and (self.dim_block_enc != self.dim_block_dec or 0 in self.dim_block_enc):
            raise InputError("skip_conn: needs dim_block_enc equal to dim_block_dec and no 0 in them.")
        for name, dist, aware in zip(
            self.uni_block_names, self.distributions, self.library_aware, strict=True
        ):
            if aware and not likelihoods.get(dist).counts:
                *others, last = (n for n in likelihoods.names() if likelihoods.get(n).counts)
                raise InputError(
                    f"library_aware: {name!r} is {dist}; only {', '.join(others)} and {last} have a library."
                )

    def _check_numbers(self) -> None:
        for name, low in _WIDTHS.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(_is_number(v) and v == int(v) and v >= low for v in values):
                raise InputError(f"{name}: whole numbers >= {low} are needed; got {short(value)}.")
        for name in ("beta_unobs", "beta_reverse"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1):
                raise InputError(f"{name}: must be in [0, 1], not {value!r}.")
        if self.p_feat != "uniform" and not (_is_number(self.p_feat) and 0 <= self.p_feat <= 1):
            raise InputError(f"p_feat: 'uniform' or a number in [0, 1], not {self.p_feat!r}.")
        if not (_is_number(self.beta_kl) and self.beta_kl >= 0):
            raise InputError(f"beta_kl: must be >= 0, not {self.beta_kl!r}.")
        if not (_is_number(self.max_disp) and self.max_disp > 0):
            raise InputError(f"max_disp: must be > 0, not {self.max_disp!r}.")
        if not (_is_number(self.level_noise) and self.level_noise >= 0):
            raise InputError(f"level_noise: must be >= 0, not {self.level_noise!r}.")
        p = self.p_modal
        if not all(_is_number(v) and v >= 0 for v in p) or not abs(sum(p) - 1) < 1e-6:
            raise InputError(f"p_modal: probabilities that sum to 1 are needed; got {p!r}.")
        share = self.likelihood_share
        if not all(_is_number(v) and 0 < v <= 1 for v in share):
            raise InputError(f"likelihood_share: shares in (0, 1] are needed; got {share!r}.")
        if self.norm not in ("layer", "batch"):
            raise InputError(f"norm: 'layer' or 'batch', not {self.norm!r}.")
        for name in ("skip_conn", "encode_covariates", "decode_mask", "unbiased_mmd", "mask_by_cell"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: True or False, not {getattr(self, name)!r}.")
        self._check_beta_modal()
        n, b = sum(self.dim_block), len(self.dim_block)
        for name in VALUES:
            value = getattr(self, name)
            if value is None:
                continue
            if len(value) not in (1, b, n):
                raise InputError(
                    f"{name}: give 1 value, {b} (one per block) or {n} (one per feature); got {len(value)}."
                )
            if not all(_is_number(v) for v in value):
                raise InputError(f"{name}: finite numbers are needed; got {short(value)}.")

    def _check_beta_modal(self) -> None:
        beta, n = self.beta_modal, len(self.uni_block_names)
        if beta == "auto":
            return
        if not isinstance(beta, tuple):
            raise InputError(f"beta_modal: 'auto' or one weight per modality, not {beta!r}.")
        if len(beta) != n:
            raise InputError(f"beta_modal: {n} values are needed, one per modality; got {beta!r}.")
        if not all(_is_number(b) and b >= 0 for b in beta):
            raise InputError(f"beta_modal: weights >= 0 are needed; got {beta!r}.")

    @property
    def distributions(self) -> tuple[Distribution, ...]:
        """Likelihood of each modality."""
        first = {
            name: dist for name, dist in reversed(list(zip(self.block_names, self.dist_block, strict=True)))
        }
        return tuple(first[name] for name in self.uni_block_names)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; `from_dict` reads it back."""
        plain = dataclasses.asdict(self)
        gamma = plain["gamma"]
        first = gamma.pop("first")
        if first:  # which older versions do not know
            gamma["first"] = list(first)
        for name in ("mask_by_cell", "level_noise"):  # which older versions do not know either
            if not plain[name]:
                del plain[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Read what `to_dict` wrote."""
        check_names(values)
        return cls(**{name: _frozen(name, value) for name, value in values.items()})

    @classmethod
    def for_mosaic(cls, mosaic: MosaicSizes, *, preset: str = "default", **parameters: Any) -> NetworkConfig:
        """Fill in what the mosaic says and what the user left open.

        Parameters
        ----------
        mosaic
            The registered data.
        preset
            ``"default"``, or ``"published"`` for the behaviour of the published implementation.
        **parameters
            Fields of this class. A scalar is repeated over blocks or modalities; ``beta_modal``, ``p_modal``,
            ``library_aware`` and ``likelihood_share`` may be a mapping from modality name.

        Raises
        ------
        InputError
            For an unknown name or a value that does not fit the mosaic, quoting it.
        """
        if preset not in PRESETS:
            raise InputError(f"preset: unknown {preset!r}; use one of {', '.join(PRESETS)}.")
        check_names(parameters)
        mods = mosaic.modalities
        names = tuple(m.name for m in mods)
        block_names = tuple(m.name for m in mods for _ in m.block_sizes)
        said: dict[str, Any] = {
            "dim_input_arr": tuple(m.n_features for m in mods),
            "dim_block": tuple(s for m in mods for s in m.block_sizes),
            "dist_block": tuple(m.likelihood for m in mods for _ in m.block_sizes),
            "block_names": block_names,
            "uni_block_names": names,
        }
        given = {k: _spread(k, v, names, block_names) for k, v in parameters.items()}
        for key, truth in said.items():
            if key in given and given[key] != truth:
                raise InputError(
                    f"{key}: {short(given[key])} does not fit the registered mosaic, which has "
                    f"{short(truth)}; {_SAID_BY_DATA.get(key, 'leave it out')}."
                )
        defaults = usual_parameters(mods, preset, equal=bool(given.get("skip_conn")))
        return cls(**(defaults | given | said))


def check_names(parameters: Mapping[str, Any]) -> None:
    """Raise `InputError` for a name that is not a field of `NetworkConfig`, with the nearest one."""
    known = [f.name for f in dataclasses.fields(NetworkConfig)]
    for name in parameters:
        if name not in known:
            raise InputError(f"Unknown parameter {name!r}; {nearest(name, known)}")


_SAID_BY_DATA = {
    "dim_block": "leave it out, and name the column of var with the blocks in block_keys={'rna': ...}",
    "dist_block": "leave it out, and say likelihoods={'rna': ...} when the data are registered",
}
PER_BLOCK = ("dim_block", "dist_block", "dim_block_embed", "dim_block_enc", "dim_block_dec", "block_names")
PER_MODALITY = (
    "dim_input_arr",
    "uni_block_names",
    "beta_modal",
    "p_modal",
    "library_aware",
    "likelihood_share",
)
VALUES = ("mean_vals", "min_vals", "max_vals")
_WIDTHS = {  # and the least that each may be
    "dim_block": 1,
    "dim_block_embed": 1,
    "dim_block_enc": 0,
    "dim_block_dec": 0,
    "dimensions": 1,
    "dim_latent": 1,
}


def _spread(name: str, value: Any, mods: tuple[str, ...], block_names: tuple[str, ...]) -> Any:
    """Repeat scalars, look up mappings by modality, and freeze lists and arrays."""
    if isinstance(value, Mapping) and name in PER_BLOCK + PER_MODALITY:
        unknown = sorted(set(value) - set(mods))
        if unknown:
            raise InputError(f"{name}: no modality {unknown[0]!r}; the mosaic has {', '.join(mods)}.")
        absent = [m for m in mods if m not in value]
        if absent:
            raise InputError(f"{name}: no value for modality {absent[0]!r}.")
        keys = mods if name in PER_MODALITY else block_names
        return tuple(value[m] for m in keys)
    scalar = np.ndim(value) == 0 and not isinstance(value, Mapping)
    if name in PER_BLOCK and scalar:
        return _frozen(name, [value] * len(block_names))
    if name in PER_MODALITY[2:] and scalar and not isinstance(value, str):
        return _frozen(name, [value] * len(mods))
    if name in VALUES and scalar and value is not None:
        return _frozen(name, [value])
    return _frozen(name, value)


def _frozen(name: str, value: Any) -> Any:
    """Tuples of plain Python numbers in place of lists and arrays, so that a config can be saved."""
    if name == "gamma":
        return Schedule.of(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        items = np.asarray(value).tolist() if isinstance(value, np.ndarray) else list(value)
        return tuple(v.item() if isinstance(v, np.generic) else v for v in items)
    plain = value.item() if isinstance(value, np.generic) else value
    return (plain,) if name == "dimensions" and isinstance(plain, int) else plain


def _is_number(value: object) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(values: Any) -> str:
    """Values as they are written, cut where they are long."""
    text = repr(values)
    return text if len(text) <= 80 else text[:77] + "..."
