"""Shared by the tests of reports: made-up results."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    """The factory beside this file; test folders are no packages, so it is loaded by path."""
    if "result_factory" not in sys.modules:
        path = Path(__file__).with_name("factory.py")
        spec = importlib.util.spec_from_file_location("result_factory", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["result_factory"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["result_factory"]


@pytest.fixture(scope="session")
def check_layout() -> Callable[[Any], None]:
    """``check_layout(figure)``: no text leaves the picture, covers another, or hides data."""
    return _check_layout


def _check_layout(figure: Any) -> None:
    figure.canvas.draw()
    whole = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    for words, box in boxes:
        inside = whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1
        inside &= whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1
        assert inside, f"{words!r} leaves the picture"
    for (words, one), (others, other) in combinations(boxes, 2):
        assert not one.shrunk(0.94, 0.8).overlaps(other.shrunk(0.94, 0.8)), (words, others)
    for legend in figure.legends:
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent()), "legend"


def _texts(figure: Any) -> list[Any]:
    """Every text that is drawn; ticks only where they lie in their axis' range."""
    found = [text for text in figure.texts if text.get_text()]
    found += [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        found += [text for text in axes.texts if text.get_text()]
        found += [axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            found += [label for at, label in ticks if low <= at <= high]
    if figure._suptitle is not None:
        found.append(figure._suptitle)
    return [text for text in dict.fromkeys(found) if text.get_visible() and text.get_text()]
