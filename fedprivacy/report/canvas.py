"""Pictures without matplotlib's global state, written whole or not at all, equal for equal data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprivacy.report.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.edgecolor": "#8A8A8A",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "fedprivacy",
    "svg.fonttype": "path",
    "mathtext.default": "regular",
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block: our style, whatever the user's matplotlib is set to."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """A white figure of a size in inches, drawn by Agg; nothing is registered globally."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figure next to ``path`` with each format as its suffix; returns the files.

    The files hold no date, so that equal results make equal files.
    """
    written = []
    for kind in formats:
        target = path.with_name(f"{path.name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with replacing(target) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
        written.append(target)
    return written
