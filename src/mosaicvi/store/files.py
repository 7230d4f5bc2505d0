"""Outputs that are whole or absent.

Everything is written under a temporary name in the folder of the output, flushed to the disk, and
renamed. A kill or a full disk leaves the old file or folder as it was.

A file is replaced by one rename. A folder needs two names to change places: where the system can
exchange them in one step (Linux ``renameat2``), that is used. Elsewhere the old folder is first set
aside as ``.NAME.mosaicvi-old`` and the new one renamed into place; a kill between the two leaves the
old folder whole under that name, where `find_directory` looks for it and from where the next
`atomic_directory` puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaicvi.errors import InputError
from mosaicvi.store.temporaries import remove, sweep, temporary_name

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
}
_NOREPLACE, _EXCHANGE = 1, 2


def shown(path: Path) -> str:
    """Return a path as it can stand in a one-line message."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output file that could not be written at the end of the work.

    Raises
    ------
    InputError
        The file exists and `overwrite` is false, it is a folder or a device, or its folder is
        missing or not writable.
    """
    status = _check_place(path)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{shown(path)} is a folder; name a file")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise InputError(f"{shown(path)} is not a regular file; name another output")
    if not overwrite:
        raise _exists(path)


def check_output_directory(path: Path, *, overwrite: bool, holds: Collection[str] | None = None) -> None:
    """Refuse an output folder that could not be written at the end of the work.

    Parameters
    ----------
    path
        The folder to be.
    overwrite
        Whether an existing folder may be replaced.
    holds
        The names that such a folder holds; one with any other entry is not replaced.

    Raises
    ------
    InputError
        The folder exists and may not be replaced, or the one around it is missing or not writable.
    """
    _check_place(path)
    found = find_directory(path)
    if not os.path.lexists(found):
        return
    if not found.is_symlink() and not found.is_dir():
        raise InputError(f"{shown(path)} is a file; name a folder")
    if not overwrite:
        raise _exists(path)
    if holds is not None:
        _check_strangers(found, holds)


@contextmanager
def atomic_path(final: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all.

    A symlink at `final` is itself replaced; what it points to is left alone.

    Parameters
    ----------
    final
        The file to be.
    overwrite
        Whether an existing file may be replaced.

    Yields
    ------
    A path in the same folder with the same suffix, which does not exist yet. It becomes `final`
    when the block ends without an error, and is removed otherwise.

    Raises
    ------
    InputError
        See `check_output`; or the disk is full, and what was there before is unchanged.
    """
    final = Path(final)
    check_output(final, overwrite=overwrite)
    sweep(final.parent)
    temporary = temporary_name(final)
    with explain_full_disk(final):
        try:
            yield temporary
            _sync(temporary)
            _publish(temporary, final, overwrite=overwrite)
        except BaseException:
            remove(temporary)
            raise
        _sync(final.parent)


@contextmanager
def atomic_directory(
    final: Path, *, overwrite: bool = False, holds: Collection[str] | None = None
) -> Iterator[Path]:
    """Write a folder whole or not at all.

    An existing folder is replaced only if every entry in it is one of `holds`, so that a wrong
    path never costs other files.

    Parameters
    ----------
    final
        The folder to be.
    overwrite
        Whether an existing folder may be replaced.
    holds
        The names that such a folder holds; by default those of the new one.

    Yields
    ------
    An empty folder next to `final`. It takes the place of `final` when the block ends without an
    error, and is removed otherwise.

    Raises
    ------
    InputError
        See `check_output_directory`; or the disk is full, and what was there before is unchanged.
    """
    final = Path(final)
    check_output_directory(final, overwrite=overwrite, holds=holds)
    sweep(final.parent)
    recover_directory(final)
    temporary = temporary_name(final)
    with explain_full_disk(final):
        try:
            temporary.mkdir()
            yield temporary
            _sync_tree(temporary)
            if overwrite and os.path.lexists(final):
                _check_strangers(final, os.listdir(temporary) if holds is None else holds)
                _swap(temporary, final)
            else:
                _publish(temporary, final, overwrite=False)
                _sync(final.parent)
        finally:
            remove(temporary)


def find_directory(final: Path) -> Path:
    """Return where a folder written by `atomic_directory` is now: `final`, or set aside by a killed swap."""
    aside = _aside(final)
    for _ in range(3):
        if os.path.lexists(final):
            return final
        if os.path.isdir(aside):
            return aside
    return final


def recover_directory(final: Path) -> None:
    """Finish or undo a swap by two renames that was killed."""
    aside = _aside(final)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(final):
        remove(aside)
    else:
        os.rename(aside, final)
        _sync(final.parent)


def remove_directory(path: Path) -> None:
    """Remove a folder so that a kill never leaves part of it under its own name."""
    if os.path.lexists(path):
        remove(_aside(path))
    temporary = temporary_name(path)
    os.rename(find_directory(path), temporary)
    _sync(path.parent)
    remove(temporary)


def _check_place(path: Path) -> os.stat_result | None:
    """Check the folder around an output; return what is at its name now, if anything."""
    if path.name in ("", ".."):
        raise InputError(f"{shown(path)} is no name for an output")
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{shown(path)}: the folder {shown(folder)} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{shown(path)}: the folder {shown(folder)} is not writable; choose another one")
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be an output: {error.strerror}") from error


def _exists(path: Path) -> InputError:
    return InputError(f"{shown(path)} exists; pass overwrite=True or choose another name")


def _check_strangers(folder: Path, holds: Collection[str]) -> None:
    """Refuse to replace a folder that holds more than the new one would."""
    if folder.is_symlink():
        return
    strangers = sorted(set(os.listdir(folder)) - set(holds))
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise InputError(
            f"{shown(folder)} also holds {strangers[0]!r}{more} and is not replaced; choose another folder"
        )


@contextmanager
def explain_full_disk(final: Path) -> Iterator[None]:
    """Turn the errors of a full disk, whoever raises them, into one clear line."""
    try:
        yield
    except Exception as error:
        reason = _full_disk(error)
        if reason is None or isinstance(error, InputError):
            raise
        raise InputError(
            f"{shown(final)} could not be written: {reason}; free space there or choose another folder "
            "(what was there before is unchanged)"
        ) from error


def _full_disk(error: BaseException | None) -> str | None:
    """Find a full disk in a chain of errors: HDF5 and safetensors only say so in their text."""
    while error is not None:
        for number, reason in _FULL.items():
            if isinstance(error, OSError) and error.errno == number:
                return reason
            if os.strerror(number) in str(error):
                return reason
        error = error.__cause__ or error.__context__
    return None


def _publish(temporary: Path, final: Path, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, final)
    elif not _renameat2(temporary, final, _NOREPLACE):
        if os.path.lexists(final):
            raise _exists(final)
        os.rename(temporary, final)


def _swap(temporary: Path, final: Path) -> None:
    """Put a new folder in the place of the old one; afterwards `temporary` is the old one or gone."""
    if _renameat2(temporary, final, _EXCHANGE):
        _sync(final.parent)
        return
    aside = _aside(final)
    os.rename(final, aside)
    try:
        os.rename(temporary, final)
    except BaseException:
        os.rename(aside, final)
        raise
    _sync(final.parent)
    remove(aside)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.mosaicvi-old")


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename in one step without replacing, or exchange two names; false where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    here = ctypes.c_int(-100)
    if function(here, os.fsencode(source), here, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    if number == errno.EEXIST:
        raise _exists(target)
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))
