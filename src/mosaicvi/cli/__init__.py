"""The command line: `mosaicvi demo | inspect | combine | train | embed | impute | report`.

One file a command. `run` says how commands end, `data` reads and writes, `options` and `settings` hold
what several commands take.
"""

from __future__ import annotations

from mosaicvi.cli.run import main, run

__all__ = ["main", "run"]
