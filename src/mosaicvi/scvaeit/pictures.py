"""The latent space in two dimensions, as scVAEIT draws it."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from mosaicvi.config.arguments import number, whole
from mosaicvi.errors import InputError
from mosaicvi.view.embedding import embedding
from mosaicvi.view.palette import categories, is_categorical
from mosaicvi.view.umap import layout, principal_components

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = ("components", "colors", "seed")
OF_SCANPY = ("palette", "size", "s", "title", "ncols", "ax", "frameon")
INSTEAD = {
    "save": "draw with show=False, and write ax.figure.savefig('latent.png') with the Axes that come back.",
    "return_fig": "take ax.figure of the Axes that come back.",
}


def draw(
    adata: AnnData,
    method: str,
    color: str | Sequence[str] | None,
    *,
    n_neighbors: int,
    show: bool,
    **how: Any,
) -> Axes | list[Axes]:
    """A picture for each column to colour by; the two dimensions stay in ``obsm``.

    Parameters
    ----------
    adata, method, color, n_neighbors, show
        As of `VAEIT`.
    **how
        Of scanpy's: `palette` (colours by name or in the order of the names, or a colour map), `size` or `s`,
        `title`, `ncols`, `ax`, `frameon`; of `mosaicvi.pl.embedding`: `components`, `colors`, `seed`.

    Raises
    ------
    InputError
        For a method or an argument that is not here.
    """
    import matplotlib.pyplot as plt

    if method not in ("UMAP", "PCA"):
        raise InputError(f"method: 'UMAP' or 'PCA', not {method!r}; for others give model.adata to scanpy.")
    _check_names(how)
    colors: list[str | None] = [color] if color is None or isinstance(color, str) else [*color] or [None]
    palette, ax, frameon = (how.pop(name, None) for name in ("palette", "ax", "frameon"))
    titles, n_across = _titles(how.pop("title", None), len(colors)), how.pop("ncols", None)
    own = {"size": how.pop("s", None)} | how
    own["size"] = None if own["size"] is None else number("size", own["size"])
    if ax is not None and len(colors) != 1:
        raise InputError(
            f"ax: one colour can be drawn there, not {len(colors)}; leave it out, or give one color."
        )
    shades = [own.pop("colors", None) if palette is None else _shades(adata, one, palette) for one in colors]
    key, z = f"X_{method.lower()}", adata.obsm["X_VAE"]
    if key not in adata.obsm:
        umap = method == "UMAP"
        adata.obsm[key] = layout(z, n_neighbors=n_neighbors)[0] if umap else principal_components(z)
    axes = [ax] if ax is not None else _canvas(len(colors), n_across)
    for one, title, shade, at in zip(colors, titles, shades, axes, strict=True):
        embedding(adata, color=one, basis=key, ax=at, colors=shade, **own)
        if title is not None:
            at.set_title(title, fontsize="medium", loc="left")
        if frameon is False:
            at.set_axis_off()
    if show:
        plt.show()
    return axes if len(axes) > 1 else axes[0]


def _check_names(how: Mapping[str, Any]) -> None:
    known = (*OURS, *OF_SCANPY)
    for name in how:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        nearest = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise InputError(
            f"{name}: visualize_latent does not know it; {INSTEAD.get(name, nearest)} All else is scanpy's, "
            "which finds the picture's coordinates: scanpy.pl.embedding(model.adata, basis='X_umap')."
        )


def _titles(title: str | Sequence[str] | None, n: int) -> list[str | None]:
    """A title for each of n pictures."""
    if title is None:
        return [None] * n
    titles: list[str | None] = [title] if isinstance(title, str) else [*title]
    if len(titles) != n:
        raise InputError(f"title: {len(titles)} for {n} pictures; give one for each color.")
    return titles


def _shades(adata: AnnData, color: str | None, palette: Any) -> dict[str, str] | None:
    """Colours by name, of a column of names, as scanpy takes them of its `palette`; None of numbers."""
    from matplotlib import colormaps
    from matplotlib.colors import is_color_like, to_hex

    if color is None or color not in adata.obs or not is_categorical(adata.obs[color]):
        return None
    names = categories(adata.obs[color])
    if isinstance(palette, str):
        if palette not in colormaps:
            raise InputError(f"palette: matplotlib has no colour map {palette!r}; take one such as 'tab20'.")
        steps = colormaps[palette]
        is_listed = steps.N < 256  # colours to be told apart, and not a gradient
        palette = [steps(i % steps.N if is_listed else i / max(1, len(names) - 1)) for i in range(len(names))]
    if isinstance(palette, Mapping):
        found = {str(name): shade for name, shade in palette.items()}
    else:
        found = dict(zip(names, itertools.cycle(list(palette)), strict=False))
    for name, shade in found.items():
        if not is_color_like(shade):
            raise InputError(f"palette: {shade!r}, for {name!r}, is no colour; take one such as '#0072B2'.")
    return {name: to_hex(shade) for name, shade in found.items()}


def _canvas(n: int, n_across: Any) -> list[Axes]:
    """Axes for n pictures, up to `n_across` side by side, all of them where None."""
    import matplotlib.pyplot as plt

    across = n if n_across is None else min(n, whole("ncols", n_across, least=1))
    down = math.ceil(n / across)
    size = (5.6 * across, 4.4 * down)
    _, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for spare in axes.flat[n:]:
        spare.remove()
    return list(axes.flat[:n])
