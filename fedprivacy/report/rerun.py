"""What to type to run a cell again."""

from __future__ import annotations

import shlex

from fedprivacy.result import CellResult

FOLDER = "outputs/again/${now:%Y-%m-%d_%H-%M-%S}"
"""A new one each time: in the folder that it came from the cell is finished, and skipped."""

NOTE = (
    "Each command runs its cell alone, into a new folder below outputs/again that is named after "
    "the time, for example for fedprivacy report. If the sweep was given a --config-dir, give it "
    "here as well."
)
_WHERE = ("hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def command(cell: CellResult) -> str:
    """The cell as a single run: what a sweep file sets stays, its grids do not count.

    Within the sweep, the choices of one cell can fit several: a grid without an axis of the
    federation runs with every choice of one that has it.
    """
    kept = [item for item in cell.overrides if item.lstrip("+").partition("=")[0] not in _WHERE]
    where = ["hydra.mode=RUN", f"hydra.run.dir={FOLDER}/{cell.cell_id}"]
    return shlex.join(["fedprivacy", "run", *kept, *where])
