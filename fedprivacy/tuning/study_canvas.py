"""The page that pictures of a study are drawn on: title above, legend below, axes in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EDGE, _TITLE, _CAPTION, _AXIS = 0.1, 0.4, 0.2, 0.5
"""Inches: around the page, of the title, of a caption below it, and of the words of the x axis."""


def study_page(
    title: str, caption: str = "", *, height: float = 3.9, left: float = 0.65
) -> tuple[Figure, Any]:
    """A page and its axes, to be completed by ``set_legend``.

    Args:
        title: what the study is.
        caption: what else must be known to read the picture; empty: nothing.
        height: of the page, inches.
        left: of the axes, inches from the edge of the page.
    """
    width = 6.6
    figure = new_figure(width, height)
    top = 1 - (_TITLE + (_CAPTION if caption else 0.0)) / height
    axes = figure.add_axes((left / width, 0.3, 1 - (left + 0.2) / width, top - 0.3))
    figure.text(_EDGE / width, 1 - _EDGE / height, title, va="top", fontsize=9.5, color=INK)
    if caption:
        at = 1 - (_EDGE + 0.22) / height
        figure.text(_EDGE / width, at, caption, va="top", fontsize=7.5, color=INK)
    return figure, axes


def set_legend(figure: Figure, axes: Any, handles: Sequence[Any], columns: int = 3) -> None:
    """Put the legend at the foot of the page and let the axes reach down to it.

    Args:
        figure: of ``study_page``.
        axes: of ``study_page``.
        handles: entries of the legend.
        columns: of the legend.
    """
    legend = figure.legend(
        handles=list(handles), loc="lower left", ncol=columns, frameon=False, columnspacing=1.2,
        bbox_to_anchor=(0.0, 0.0),
    )  # fmt: skip
    inches = legend.get_window_extent(figure.canvas.get_renderer()).height / figure.dpi  # type: ignore[attr-defined]
    box = axes.get_position()
    bottom = (inches + _AXIS) / figure.get_figheight()
    axes.set_position((box.x0, bottom, box.width, box.y1 - bottom))
