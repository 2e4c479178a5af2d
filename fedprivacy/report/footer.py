"""The foot of a picture: its legend, and what its epsilons hold for."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#444444"
_ENTRY, _ENTRY_LINE = 1.72, 0.165
_CHARACTERS_PER_INCH, _TEXT_LINE = 17.5, 0.125
_MARGIN = 0.1


@dataclass(frozen=True)
class Footer:
    """A legend over a small print, as tall as they need.

    Attributes:
        handles: of the legend.
        text: small print; may be empty.
        width: of the picture, inches.
    """

    handles: tuple[Any, ...]
    text: str
    width: float

    @property
    def height(self) -> float:
        """Inches from the foot of the picture to the top of the legend."""
        lines = math.ceil(len(self.handles) / self._columns)
        return _MARGIN + self._text_height + _ENTRY_LINE * lines + 0.12

    @property
    def _columns(self) -> int:
        return min(len(self.handles), max(2, int(self.width / _ENTRY)))

    @property
    def _lines(self) -> list[str]:
        return textwrap.wrap(self.text, int(self.width * _CHARACTERS_PER_INCH))

    @property
    def _text_height(self) -> float:
        return _TEXT_LINE * len(self._lines) + (0.06 if self._lines else 0.0)

    def draw(self, figure: Figure) -> None:
        """Put both at the foot of the figure."""
        tall = figure.get_size_inches()[1]
        figure.text(
            0.5,
            _MARGIN / tall,
            "\n".join(self._lines),
            ha="center",
            va="bottom",
            fontsize=7.0,
            color=GREY,
        )
        figure.legend(
            handles=list(self.handles),
            loc="lower center",
            bbox_to_anchor=(0.5, (_MARGIN + self._text_height) / tall),
            ncol=self._columns,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.4,
            labelspacing=0.35,
            borderpad=0.1,
            borderaxespad=0.0,
        )
