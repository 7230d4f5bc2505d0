"""Whether an HDF5 file is what it seems: nothing outside it, no links in circles, no more than it stores."""

from __future__ import annotations

from pathlib import Path

import h5py

from mosaicvi.data.problems import problem
from mosaicvi.errors import InputError

MOST_OBJECTS, MOST_AGAIN = 200_000, 1000  # the second: groups reached by another name as well
DEEPEST = 50
LARGE = 1 << 30  # bytes in memory up to which no array is suspicious
MOST_PACKED = 1100  # times; deflate reaches 1,032


def check_contained(path: Path) -> None:
    """Refuse a file that reaches outside itself, or would take memory without end.

    Raises
    ------
    InputError
        It has external links, external storage or virtual datasets, links that lead in a circle, or arrays
        far larger than what is stored of them.
    """
    with h5py.File(path, "r") as file:
        waiting: list[tuple[h5py.Group, str, frozenset[object]]] = [(file, "", frozenset())]
        n_seen = n_again = 0
        seen: set[object] = set()
        while waiting:
            group, place, above = waiting.pop()
            above = above | {_identity(group)}
            n_again += _identity(group) in seen
            seen.add(_identity(group))
            for name in group:
                n_seen += 1
                where = f"{place}/{name}"
                if n_seen > MOST_OBJECTS or n_again > MOST_AGAIN or len(above) > DEEPEST:
                    raise InputError(problem("too-many-objects", name=path, where=where))
                child = _inside(path, group, name, where)
                if isinstance(child, h5py.Group):
                    if _identity(child) in above:
                        raise InputError(problem("circle", name=path, where=where))
                    waiting.append((child, where, above))


def check_size(path: Path, where: str, n_bytes: int, n_stored: int) -> None:
    """Refuse an array that says it is far larger than what is stored of it."""
    if n_bytes > LARGE and n_bytes > MOST_PACKED * n_stored:
        raise InputError(problem("absurd", name=path, where=where, size=f"{n_bytes / 1e9:,.0f} GB"))


def _identity(group: h5py.Group) -> tuple[int, int]:
    about = h5py.h5o.get_info(group.id)
    return about.fileno, about.addr


def _inside(path: Path, group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """What a name leads to, unless it is outside of the file; None for a type that holds no values."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise InputError(problem("outside", name=path, where=where, what=f"the file {link.filename!r}"))
    try:
        child = group[name]
    except (KeyError, OSError, RuntimeError) as error:
        if isinstance(link, h5py.SoftLink):
            raise InputError(problem("circle", name=path, where=where)) from error
        raise
    if isinstance(child, h5py.Dataset):
        if child.external:
            raise InputError(
                problem("outside", name=path, where=where, what=f"the file {child.external[0][0]!r}")
            )
        if child.is_virtual:
            raise InputError(
                problem("outside", name=path, where=where, what="other datasets (it is virtual)")
            )
        check_size(
            path, where, child.size * child.dtype.itemsize if child.shape else 0, child.id.get_storage_size()
        )
        return child
    return child if isinstance(child, h5py.Group) else None
