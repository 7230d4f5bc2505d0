"""What is legal but suspicious in the values of a modality, and what to do about it.

For `register` and `inspect`. Nothing is decided here: each finding is a line that names the modality, what
it looks like, and a remedy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mosaicvi.data.counts import LOGARITHMS, USUALLY_COUNTS
from mosaicvi.data.looks import RAW_INTENSITY, Looks
from mosaicvi.data.problems import listed

TECHNICAL = {
    "multiplexing_capture": "hashtags of samples",
    "crispr_guide_capture": "guides",
    "antigen_capture": "barcodes of antigens",
    "custom": "custom barcodes",
}
HASHTAG = re.compile(r"(?i).*(hash.?tag|\bHTO|\bHTO[_-]?\d|CMO\d{3}|sample.?tag|hash\d).*")
Z_SCORES = "z-scores"
MANY_ZEROS = 0.5  # share of zeros above which fractions without negatives are normalised counts
SOME_ZEROS = 0.05  # the same of a sparse matrix
FEW_ZEROS = 0.01  # share of exact zeros that measurements other than counts hardly have
SURPRISE = 30.0  # cells that should have a feature, were it as frequent as in the other batches
SOME_EMPTY = 0.05  # share of a batch's cells without any value that is worth a word
DROPLET, MOSTLY = 10, 0.5  # counts below which a cell is hardly one, and the share of them that is alarming


def technical(modality: str) -> str | None:
    """What a modality of barcodes that tell nothing of a cell's state holds, or None."""
    return TECHNICAL.get(modality)


def hashtags(modality: str, names: pd.Index[str]) -> list[str]:
    """A note on hashtags among antibodies."""
    found = [str(name) for name in names if HASHTAG.fullmatch(str(name))]
    if not found or technical(modality):
        return []
    return [
        f"Modality {modality!r}: {listed(found)} look like hashtags of samples; "
        "as features they make cells of one sample neighbours. Leave them out of the data."
    ]


def scale(modality: str, found: Looks, *, counts_in: str | None) -> str | None:
    """What the values look like if they are neither counts nor logarithms, with a remedy; None for those.

    Parameters
    ----------
    modality
        Its name.
    found
        What its values look like.
    counts_in
        A layer with whole numbers, if there is one.
    """
    if not len(found.some) or (found.whole and np.median(found.some) < RAW_INTENSITY):
        return None
    looks = _looks(modality, found)
    if looks is None:
        return None
    if looks[0] == Z_SCORES and counts_in is None and modality.lower() not in USUALLY_COUNTS:
        return None
    what, remedy = looks
    if counts_in is not None:
        remedy = f"layers={{{modality!r}: {counts_in!r}}} takes the counts"
    return f"Modality {modality!r}: its values look like {what}; {remedy}."


def looks_sparse(found: Looks) -> bool:
    """Whether so many values are 0 as of normalised counts; what is stored sparse, mostly is."""
    n = found.shape[0] * found.shape[1]
    return n - found.n_nonzero > (MANY_ZEROS if found.is_dense else SOME_ZEROS) * n


def looks_log_normalised(found: Looks) -> bool:
    """Whether fractions without negatives may be logarithms of counts, some of which were 0."""
    n_zero = found.shape[0] * found.shape[1] - found.n_nonzero
    return found.least >= 0 and found.most < LOGARITHMS and n_zero > FEW_ZEROS * found.n_entries


def _looks(modality: str, found: Looks) -> tuple[str, str] | None:
    """What the values look like, and a remedy."""
    values = found.some
    least, most, middle = float(values.min()), float(values.max()), float(np.median(values))
    as_meant = f"likelihoods={{{modality!r}: 'Gaussian'}} says that they are meant as they are"
    if least < 0:
        if most > 1000 or least < -1000:
            return (
                "raw flow or mass cytometry",
                f"take arcsinh(x / 150), or x / 5 for masses, before; {as_meant}",
            )
        if abs(float(values.mean())) < 0.2 and 0.7 < float(values.std()) < 1.3:
            return Z_SCORES, f"give the values before scaling, counts if there are any; {as_meant}"
        return None
    sums = found.row_sum[found.row_sum > 0]
    if len(sums) > 1 and found.shape[1] > 1 and sums.std() < 1e-3 * sums.mean():
        return (
            f"counts that were normalised to {sums.mean():,.0f} a cell",
            f"give the counts before; {as_meant}",
        )
    if middle > RAW_INTENSITY:
        return (
            "raw intensities",
            f"take their logarithm, with zeros as missing: log2=[{modality!r}]; {as_meant}",
        )
    if looks_sparse(found) or most > 1000:
        has_fractions = float((values == np.rint(values)).mean()) < 0.98
        soup = "counts with fractions, as SoupX and CellBender write them"
        return (
            (soup, f"mosaicvi.to_mudata(data, rounded=[{modality!r}]) rounds them")
            if most > 30 and has_fractions
            else None
        )
    if _are_ratios(values):
        return (
            "ratios around 1",
            f"take their logarithm, with zeros as missing: log2=[{modality!r}]; {as_meant}",
        )
    if most <= 1:
        return "shares between 0 and 1, such as methylation", f"take log(x / (1 - x)) before; {as_meant}"
    return None


def _are_ratios(values: NDArray[np.float32]) -> bool:
    """Whether values lie around 1 as often at x as at 1 / x, and not as often at 1 + x as at 1 - x."""
    there = values[(values > 0) & np.isfinite(values)].astype(np.float64)
    if len(there) < 100 or len(there) < 0.95 * len(values):
        return False
    low, lower, middle, upper, high = np.log(np.quantile(there, (0.05, 0.25, 0.5, 0.75, 0.95)))
    is_symmetric = abs(low + high - 2 * middle) < 0.2 * (high - low)
    is_symmetric &= abs(lower + upper - 2 * middle) < 0.2 * (upper - lower)
    is_skewed = np.exp(high - middle) - 1 > 1.5 * (1 - np.exp(low - middle))
    return bool(abs(middle) < 0.25 and is_symmetric and is_skewed)


def zeros(
    modality: str,
    found: Looks,
    filled: NDArray[np.int64],
    names: pd.Index[str],
    batch: NDArray[np.int64],
    batches: Sequence[str],
) -> list[str]:
    """Notes on zeros that may mean that nothing was measured.

    Parameters
    ----------
    modality, found, names
        The modality, what its values (n_m, D_m) look like, and its features.
    filled
        Cells of each batch that have something other than 0 in each feature, (B, D_m).
    batch, batches
        Batch of each row (n_m,), and their names.
    """
    option = f"mosaicvi.to_mudata(data, zeros_missing=[{modality!r}], batch_key=...)"
    remedy = f"if they were not measured there, {option} takes such zeros as missing"
    notes = []
    if not found.whole:
        share = 1 - found.n_nonzero / max(found.shape[0] * found.shape[1], 1)
        there = found.some
        far = len(there) > 0 and float(there.min()) > 0.25 * float(np.median(there))
        if far and FEW_ZEROS < share < MANY_ZEROS:
            notes.append(
                f"Modality {modality!r}: {share:.0%} of its values are exactly 0, far from all others "
                f"({there.min():.3g} at least); {remedy}."
            )
        return notes
    if len(batches) < 2:
        return []
    n_of = np.bincount(batch, minlength=len(batches)).astype(float)
    empty = ~found.row_filled
    for b, name in enumerate(batches):
        if not n_of[b]:
            continue
        share = float(empty[batch == b].mean())
        others = float(empty[batch != b].mean()) if (batch != b).any() else 0.0
        if share > SOME_EMPTY and share > 5 * others:
            notes.append(
                f"Modality {modality!r}: {share:.0%} of the cells of batch {name!r} have nothing but zeros; "
                f"{remedy}."
            )
        rest = np.delete(filled, b, axis=0).sum(axis=0) / max(int((batch != b).sum()), 1)
        lost = (filled[b] == 0) & (rest * n_of[b] * (1 - share) > SURPRISE)
        if lost.any() and share < 1:
            notes.append(
                f"Modality {modality!r}: {int(lost.sum()):,} features are 0 in every cell of batch {name!r} "
                f"and frequent in others (such as {listed(names[lost], most=4)}); {remedy}."
            )
    return notes


def droplets(modality: str, found: Looks) -> list[str]:
    """A note on droplets without a cell, in counts of genes."""
    if modality not in ("rna", "gex") or min(found.shape) < 200 or not found.whole:
        return []
    sums = found.row_sum
    share = float((sums < DROPLET).mean())
    if share < MOSTLY:
        return []
    cut = 500 if float(np.quantile(sums, 0.99)) > 500 else DROPLET
    return [
        f"Modality {modality!r}: {share:.0%} of the cells have fewer than {DROPLET} counts, so most are "
        f"droplets without a cell; give the filtered matrix, "
        f"or mosaicvi.to_mudata(data, min_counts={{{modality!r}: {cut:d}}}) leaves them out."
    ]


def zero_or_one(modality: str, found: Looks, is_peak: bool) -> list[str]:
    """A note on whole numbers that are all 0 or 1, in a modality that is not known to be of peaks."""
    if is_peak or not found.whole or found.most != 1 or found.shape[1] < 50:
        return []
    return [
        f"Modality {modality!r}: all values are 0 or 1, but its features are not named as peaks "
        "(chr1:100-200); "
        f"likelihoods={{{modality!r}: 'Bernoulli'}} models them as present or absent."
    ]
