"""One set of colours for all pictures: blind-safe, told apart in print, a name always of the same colour."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pandas as pd

from mosaicvi.errors import InputError

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

Palette = str | Mapping[Any, Any] | Sequence[Any]  # a colour map, colours by name, or colours in order

# Okabe & Ito (2008), without black and with the yellow last: it is weak on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# Their order when there are many: dark and light take turns, so that grey prints differ as well.
SHADES = (1.0, 0.62, 1.38)

MISSING = "#C9C9C9"
INK = "#262626"
FAINT = "#ECECEC"
SEQUENTIAL = "viridis"
DIVERGING = "PuOr"

_MODALITIES = {
    "rna": "#0072B2",
    "gex": "#0072B2",
    "adt": "#E69F00",
    "protein": "#E69F00",
    "prot": "#E69F00",
    "atac": "#009E73",
    "peaks": "#009E73",
}
UNKNOWN = frozenset({"unknown", "nan", "none", "na", ""})


def categories(values: pd.Series) -> list[str]:
    """Known names in a column in the order of their colours: a categorical's own, else sorted."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = set(values.dropna().astype(str))
        names = [str(c) for c in values.cat.categories if str(c) in present]
    else:
        names = sorted(values.dropna().astype(str).unique(), key=_natural)
    return [n for n in names if n.lower() not in UNKNOWN]


def category_colors(names: Sequence[str]) -> dict[str, str]:
    """Colours of categories, by their position; beyond seven the hues return darker and lighter.

    Parameters
    ----------
    names
        All categories of a column, in the order of `categories`.
    """
    wheel = [_shaded(c, s) for s in SHADES for c in OKABE_ITO]
    if len(names) > len(wheel):
        extra = len(names) - len(wheel)
        wheel += [
            _hex(colorsys.hls_to_rgb(i * 0.618 % 1, (0.35, 0.6, 0.75)[i % 3], 0.55)) for i in range(extra)
        ]
    return dict(zip(names, wheel, strict=False))


def modality_colors(names: Iterable[str]) -> dict[str, str]:
    """Colours of modalities: RNA blue, proteins orange, accessibility green, others from what is left."""
    names = list(names)
    out = {n: _MODALITIES[n.lower()] for n in names if n.lower() in _MODALITIES}
    left = [c for c in OKABE_ITO if c not in out.values()] or list(OKABE_ITO)
    for i, name in enumerate(n for n in names if n not in out):
        out[name] = left[i % len(left)]
    return {n: out[n] for n in names}


def pattern_colors(names: Sequence[str]) -> dict[str, str]:
    """Colours of sets of modalities such as ``rna+adt``: single ones keep theirs, sets take what is left."""
    out = modality_colors(sorted({m for n in names for m in n.split("+")}))
    left = [c for c in category_colors([str(i) for i in range(21)]).values() if c not in out.values()]
    sets = [n for n in names if n not in out]
    return {n: out[n] if n in out else left[sets.index(n) % len(left)] for n in names}


def column_colors(values: pd.Series, *, pattern: bool = False) -> dict[str, str]:
    """Colours of the categories in a column of ``obs``, or with `pattern` of sets of modalities."""
    names = categories(values)
    return pattern_colors(names) if pattern else category_colors(names)


def chosen_colors(names: Sequence[str], palette: Palette) -> dict[str, str]:
    """Colours of categories that a user chose.

    Parameters
    ----------
    names
        All categories of a column, in the order of `categories`.
    palette
        Colours by name or in their order, or the name of a colour map: the first colours of one that is a
        list, and else from its one end to the other.

    Raises
    ------
    InputError
        There is no such colour or colour map.
    """
    from matplotlib.colors import is_color_like, to_hex

    if isinstance(palette, str):
        steps = color_map("palette", palette, such_as="tab20")
        ends = max(1, len(names) - 1)
        palette = [steps(i % steps.N if steps.N < 256 else i / ends) for i in range(len(names))]
    by_name = palette if isinstance(palette, Mapping) else dict(zip(names, cycle(palette), strict=False))
    for name, color in by_name.items():
        if not is_color_like(color):
            raise InputError(f"palette: {color!r}, for {name!r}, is no colour; take one such as '#0072B2'.")
    return {str(name): to_hex(color) for name, color in by_name.items()}


def color_map(argument: str, cmap: Any, *, such_as: str) -> Colormap:
    """A colour map of matplotlib by its name, or as it is.

    Raises
    ------
    InputError
        There is none of that name; `such_as` is one.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Colormap

    if isinstance(cmap, Colormap):
        return cmap
    if cmap not in list(colormaps):
        raise InputError(f"{argument}: matplotlib has no colour map {cmap!r}; take one such as {such_as!r}.")
    return colormaps[cmap]


def is_categorical(values: pd.Series) -> bool:
    """Whether a column is names rather than numbers."""
    return bool(values.dtype == bool or not pd.api.types.is_numeric_dtype(values))


def short(name: object, width: int = 28) -> str:
    """A name that fits, its end replaced by an ellipsis."""
    text = str(name)
    return text if len(text) <= width else text[: width - 1] + "…"


def _natural(name: str) -> list[tuple[int, float | str]]:
    """Sort key that puts lib2 before lib10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, float(p)) if p[0] in "0123456789" else (1, p) for p in parts]


def _shaded(color: str, factor: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    if factor > 1:
        light = 1 - (1 - light) / factor**1.6
    elif factor < 1:
        light *= factor
    return _hex(colorsys.hls_to_rgb(hue, light, saturation))


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * min(max(v, 0), 1)):02X}" for v in rgb)
