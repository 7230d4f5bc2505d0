"""The network's parameters where the user leaves them open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mosaicvi import likelihoods
from mosaicvi.config.sizes import ModalitySizes


def usual_parameters(mods: Sequence[ModalitySizes], preset: str, *, equal: bool) -> dict[str, Any]:
    """What is filled in; `equal` widths on both sides, as a skip connection needs them."""
    published = preset == "published"
    many = sum(m.n_features for m in mods) > MANY_FEATURES
    embed: list[int] = []
    enc: list[int] = []
    dec: list[int] = []
    for m in mods:
        for size in m.block_sizes:
            several = len(m.block_sizes) > 1
            embed.append((2 if published else 1) if several else 32 if size > 500 else 16)
            width = 16 if several else 256 if size > 500 else 128 if size > 30 else 64
            dec.append(width if published or many else min(width, 192))
            enc.append(dec[-1] if published or several or equal else width // 2)
    return {
        "dim_block_embed": tuple(embed),
        "dim_block_enc": tuple(enc),
        "dim_block_dec": tuple(dec),
        "dimensions": (256,) if published else (128,),
        "dim_latent": 32,
        "beta_kl": 2.0 if published else 1.0,
        "beta_modal": (1.0,) * len(mods),
        "norm": "batch" if published else "layer",
        "encode_covariates": published,
        "decode_mask": True,
        "mask_by_cell": published,
        "p_feat": 0.2 if published else "uniform",
        "level_noise": 0.0 if published else LEVEL_NOISE,
        "unbiased_mmd": not published,
        "library_aware": tuple(not published and likelihoods.get(m.likelihood).counts for m in mods),
        "likelihood_share": (1.0,) * len(mods) if published else _likelihood_shares(mods, many=many),
    }


LEVEL_NOISE = 0.15  # more tells types apart better and mixes batches less (docs/ablations.md)
MANY_FEATURES = 8192  # more: minibatches have fewer cells, and it takes a wider decoder


def _likelihood_shares(mods: Sequence[ModalitySizes], *, many: bool) -> tuple[float, ...]:
    """A quarter of the features but at least 512, or 15 % but at least 300 where minibatches are large."""
    usual, fewest = (0.25, 512) if many else (0.15, 300)
    return tuple(max(usual, min(1.0, fewest / m.n_features)) for m in mods)
