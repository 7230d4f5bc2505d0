"""Peers side by side with ours: each in a process and a Python environment of its own.

The scripts that run them lie in `../shared/tools`, whose README says what to install for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import TOOLS, child_env, last_line, read_json, run, say, shown

# The tasks on which speed and memory are measured that each peer can do.
CAN = {
    "scvaeit": ("reap", "mop", "simulated"),
    "totalvi": ("reap",),
    "multivi": ("mop", "simulated"),
    "midas": ("reap", "mop", "simulated"),
}
NAMES = {
    "scvaeit": "scVAEIT",
    "totalvi": "totalVI",
    "multivi": "MultiVI",
    "midas": "MIDAS",
    "scarches": "scArches",  # which joins new cells to a model, and no more
}
MINIBATCH = {"scvaeit": 512, "totalvi": 256, "multivi": 128, "midas": 256}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer and the Python that has it installed."""

    key: str
    python: str

    @property
    def name(self) -> str:
        """As it is printed."""
        return NAMES[self.key]


# Modalities that each peer's script can read; totalVI also needs RNA in every cell.
READS = {
    "scvaeit": ({"rna", "adt"}, {"rna", "atac"}),
    "totalvi": ({"rna", "adt"},),
    "multivi": ({"rna", "atac"},),
    "midas": ({"rna", "adt"}, {"rna", "atac"}, {"rna", "adt", "atac"}),
}


def can_do(key: str, mosaic: Any, folder: Path, task: str) -> str:
    """Why a peer's script cannot do a task; empty if it can."""
    if not (folder / f"{task}.h5mu").exists():
        return "which reads one .h5mu"
    names = {m.name for m in mosaic.modalities}
    if names not in READS[key]:
        return f"which does not read {', '.join(sorted(names))}"
    if any(not m.panels.all() or m.entry_measured is not None for m in mosaic.modalities):
        return "which knows no panels"
    if key == "totalvi" and (mosaic.modality("rna").row_of_cell < 0).any():
        return "which needs RNA in every cell"
    return ""


def add_peers(out: argparse.ArgumentParser, *, epochs: int = 2, known: Collection[str] = tuple(CAN)) -> None:
    """Options that say which of the known peers to run."""
    out.add_argument(
        "--peer",
        action="append",
        default=[],
        type=partial(_peer, known=known),
        metavar="NAME=PYTHON",
        help=f"run {', '.join(known)} with its Python; may be repeated",
    )
    out.add_argument(
        "--peer-epochs", type=int, default=epochs, help="of each run of a peer [%(default)s]; see the docs"
    )
    out.add_argument("--tools", type=Path, default=TOOLS, metavar="DIR", help="folder of the peers' scripts")


def _peer(said: str, known: Collection[str]) -> Peer:
    key, equals, python = said.partition("=")
    if not equals or key not in known:
        raise argparse.ArgumentTypeError(f"{said!r}; give NAME=PYTHON with NAME one of {', '.join(known)}")
    found = shutil.which(python)
    if found is None:
        raise argparse.ArgumentTypeError(f"{said!r}: {python} is no program that can be run")
    return Peer(key=key, python=os.path.abspath(found))


class PeerRuns:
    """Runs peers on the tasks in one folder, and exports a task for those that need it, once.

    Parameters
    ----------
    tools
        Folder of the scripts.
    work
        A folder for what they write.
    epochs
        Of each run.
    """

    def __init__(self, tools: Path, work: Path, epochs: int) -> None:
        self.tools, self.work, self.epochs = tools.resolve(), work, epochs

    def exported(self, data: Path, task: str) -> Path | None:
        """A task as npz and csv, for peers that cannot read h5mu; None if that failed."""
        folder = self.work / f"export-{task}"
        if not folder.exists():
            say(f"{task}: exporting")
            script = self.tools / "export.py"
            args = [sys.executable, script, data.resolve(), task, folder]
            child = run(args, self.work / f"export-{task}.log", env=child_env(ours=True))
            if not child.ok:
                say(f"{task}: {shown(script)} failed: {last_line(child.said)}")
                shutil.rmtree(folder, ignore_errors=True)
                return None
        return folder

    def once(
        self, peer: Peer, data: Path, task: str, *, read: Callable[[Path], None] = lambda folder: None
    ) -> dict[str, Any] | None:
        """One run of a peer: what its time.json says, or None, with the reason on stderr.

        `read` is given the folder that it wrote, which is removed afterwards.
        """
        args = self._arguments(peer, data.resolve(), task)
        if args is None:
            return None
        out = self.work / f"{peer.key}-{task}"
        shutil.rmtree(out, ignore_errors=True)
        log = self.work / f"{peer.key}-{task}.log"
        child = run([a if a is not RUN_DIR else out for a in args], log, env=child_env(ours=False))
        if not child.ok or not (out / "time.json").exists():
            say(f"{task}: {peer.name} failed: {last_line(child.said)}")
            return None
        found = read_json(out / "time.json")
        read(out)
        shutil.rmtree(out, ignore_errors=True)  # imputed values, which may be gigabytes
        return found

    def _arguments(self, peer: Peer, data: Path, task: str) -> list[Any] | None:
        epochs = str(self.epochs)
        if peer.key == "scvaeit":
            folder = self.exported(data, task)
            script = self.tools / "peer_scvaeit.py"
            size = str(MINIBATCH["scvaeit"])
            return None if folder is None else [peer.python, script, folder, RUN_DIR, epochs, size]
        if peer.key == "midas":
            return [peer.python, self.tools / "peer_midas.py", data, task, RUN_DIR, epochs]
        return [peer.python, self.tools / "peer_scvi.py", peer.key, data, task, RUN_DIR, epochs]


RUN_DIR = object()  # stands for the folder of a run in its arguments
