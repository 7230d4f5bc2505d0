"""What in an antibody's name is the protein: without vendor, clone, barcode and spelling."""

from __future__ import annotations

import re

PREFIX = re.compile(r"(?:adt|prot|protein|ab|antibody|anti[-_. ](?:human|mouse|rat)|anti|hu|hums)[-_.: ]+")
SUFFIX = re.compile(
    r"[-_. ]+(?:[acgt]{6,}|total[-_ ]?seq[-_ ]?[abcd]?\d*|adt|prot|protein|ab|antibody)$|\s*\([^()]*\)$"
)
SEPARATORS = re.compile(r"[-_. ]+")
GREEK = str.maketrans({"\u03b1": "a", "\u03b2": "b", "\u03b3": "g", "\u03b4": "d"})

_CLONES = (
    "ucht1 okt3 hit3a sk7 rpat4 okt4 sk3 l200 sk1 rpat8 okt8 hit8a hib19 sj25c1 2h7 l27 3g8 m5e2 63d3 "
    "ncam162 51h11 hcd56 hi100 uchl1 hi30 2d1 bc96 ma251 a019d5 g043h7 fn50 l78 cd282 l3074 ebv6 "
    "eh122h7 j105 29e2a3 mih1 c3984a a15153g bni3 hcd40 5c3 shcl1 shcl3 bly6 icrf44 m170 581 8g12 "
    "anc281 l161 aer37 201a 6h6 9f5 44a l243 w632 g466 tu36 b731 cb16 hpmk1 11c1 p3015 y182a wm53 "
    "hi10a hi98 h4a3 mt271 bu32 ml5 hip1 hib22"
)
CLONES = frozenset(_CLONES.split())
"""Widespread clones of antibodies against human proteins, without separators."""


def adt_key(name: str) -> str:
    """An antibody's name without what is not the protein.

    ``CD4_GTCCAGGC``, ``anti-CD4``, ``CD4_TotalSeqB``, ``adt_CD4``, ``CD4 (RPA-T4)`` and ``Hu.CD4-RPA.T4`` are
    all ``cd4``: prefixes (adt, prot, ab, anti, anti-human, Hu), barcodes, TotalSeq, words in parentheses and
    widespread clones are removed, then separators and case. Nothing is removed that would leave no name.
    """
    key = name.strip().lower().translate(GREEK)
    before = ""
    while key != before:
        before = key
        key = PREFIX.sub("", key, count=1) if PREFIX.match(key) else key
        key = _without_clone(SUFFIX.sub("", key)) or before
    # CD3-1 must not become CD31, which is another protein.
    key = re.sub(r"(?<=\d)[-_. ]+(?=\d)", "/", key)
    return SEPARATORS.sub("", key) or name


def _without_clone(key: str) -> str:
    """``cd4-rpa.t4`` → ``cd4``; clones are written ``RPA-T4``, ``RPA.T4`` or ``RPAT4``."""
    words = SEPARATORS.split(key)
    for n_words in (3, 2, 1):
        if len(words) > n_words and "".join(words[-n_words:]) in CLONES:
            return "-".join(words[:-n_words])
    return key
