from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from fedprivacy.report.canvas import DPI, new_figure, save, style


def test_files_have_the_size_asked_for_and_equal_figures_make_equal_files(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        with style():
            figure = new_figure(3.0, 2.0)
            figure.add_axes((0.2, 0.2, 0.7, 0.7)).plot([1, 2], [3, 4])
            written.append(save(figure, tmp_path / name))
    (png, svg), (other_png, other_svg) = written
    with Image.open(png) as image:
        assert image.size == (3 * DPI, 2 * DPI)
    assert svg.read_text().startswith("<?xml")
    assert png.read_bytes() == other_png.read_bytes()
    assert svg.read_text() == other_svg.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "one.png",
        "one.svg",
        "two.png",
        "two.svg",
    }


def test_the_style_of_the_user_comes_back(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 31.0}):
        with style():
            assert matplotlib.rcParams["font.size"] == 8.0
        assert matplotlib.rcParams["font.size"] == 31.0


def test_nothing_is_registered_with_pyplot() -> None:
    from matplotlib._pylab_helpers import Gcf

    new_figure(1, 1)
    assert Gcf.get_num_fig_managers() == 0


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "one.png"
    old.write_bytes(b"old")
    figure = new_figure(1, 1)
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(figure, tmp_path / "one", ["png"])
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]
