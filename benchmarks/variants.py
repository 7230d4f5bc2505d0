"""Settings of ours that are compared, each with a name; a row of the ablation adds to the one before it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

Parameters = dict[str, Any]
# "hand", "aware" and "peaks" stand for what depends on the mosaic.
ROWS: dict[str, Parameters] = {
    "published": {"preset": "published", "beta_modal": "hand"},
    "balanced": {"beta_modal": "auto"},
    "library": {"library_aware": "aware"},
    "peaks": {"peaks": "counts"},
    "layer": {"norm": "layer"},
    "decoder": {"encode_covariates": False},
    "gamma": {"gamma": 20.0, "unbiased_mmd": True},
    "nomask": {"decode_mask": False, "gamma": 0.0},
}
MEANING = {
    "published": "published",
    "balanced": "+ weights of modalities balanced",
    "library": "+ library-aware counts",
    "peaks": "+ peaks as Poisson counts, library-aware",
    "layer": "+ layer norm",
    "decoder": "+ covariates only in the decoder",
    "gamma": "+ gamma = 20, unbiased",
    "nomask": "+ no mask embedding in the decoder, gamma = 0",
    "default": "our defaults",
}


def chosen(said: str) -> dict[str, Parameters]:
    """Parameters of each variant; a row of the table has those of all rows above it."""
    rows: dict[str, Parameters] = {"default": {}}
    so_far: Parameters = {}
    for name, more in ROWS.items():
        so_far = so_far | more
        rows[name] = so_far
    out = {}
    for one in filter(None, (s.strip() for s in said.split(","))):
        name, *changes = one.split(":")
        if name not in rows:
            raise SystemExit(f"--variants: unknown {name!r}; use {', '.join(MEANING)}")
        out[one] = rows[name] | dict(map(_change, changes))
    return out


def _change(said: str) -> tuple[str, Any]:
    name, equals, value = said.partition("=")
    if not equals:
        raise SystemExit(f"--variants: {said!r}; give PARAMETER=VALUE")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return name, value


def suits(variant: str, mosaic: Any) -> bool:
    """Whether a variant differs from the row before it on such a mosaic."""
    likelihoods = [m.likelihood for m in mosaic.modalities]
    if variant == "peaks":
        return "Poisson" in likelihoods
    one_of_values = len(likelihoods) == 1 and likelihoods[0] == "Gaussian"
    return not (one_of_values and variant in ("balanced", "library"))


def for_mosaic(parameters: Parameters, mosaic: Any) -> tuple[Any, Parameters]:
    """The mosaic as the variant reads it, and the parameters with what depends on it filled in."""
    from benchmarks.tasks import hand_weights
    from mosaicvi import likelihoods

    rest = dict(parameters)
    if rest.pop("peaks", None) == "counts":
        mosaic = _as_registered(mosaic)
    elif rest.get("preset") == "published":
        mosaic = mosaic.as_published()
    aware = {m.name: likelihoods.get(m.likelihood).counts for m in mosaic.modalities}
    if rest.get("library_aware") == "aware":
        rest["library_aware"] = aware
    if rest.get("beta_modal") == "hand":
        rest["beta_modal"] = hand_weights(mosaic)
    return mosaic, rest


def _as_registered(mosaic: Any) -> Any:
    """The mosaic with its likelihoods as the user's own word, which the published preset leaves alone."""
    registry = mosaic.registry
    setup = dataclasses.replace(registry.setup, likelihoods=dict(registry.likelihoods))
    return dataclasses.replace(mosaic, registry=dataclasses.replace(registry, setup=setup))
