"""A page of HTML that needs nothing but itself: style, script and pictures are inside."""

from __future__ import annotations

import base64
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fedprivacy.report.canvas import DPI

_MAX_SVG, _PER_INCH = 500_000, 96


def text(words: object) -> str:
    """Words as HTML, whatever they contain."""
    return escape(str(words))


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(
    lines: Sequence[Mapping[str, str]],
    columns: Sequence[str] | None = None,
    values: Sequence[Mapping[str, float]] = (),
) -> str:
    """A table that can be sorted by any column; the words ``falsified`` stand out.

    Numbers sort before words, and infinite after all other numbers.

    Args:
        lines: one mapping of column to text for each line.
        columns: their order; None: as in the first line.
        values: of each line, the numbers to sort by where a text does not begin with its own.
    """
    if not lines:
        return ""
    names = list(columns or lines[0])
    head = "".join(
        f'<th scope="col"><button type="button">{text(name)}</button></th>' for name in names
    )
    numbers = values or [{}] * len(lines)
    body = "".join(
        f"<tr>{''.join(_cell(line.get(name, ''), own.get(name)) for name in names)}</tr>"
        for line, own in zip(lines, numbers, strict=True)
    )
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(words: str, value: float | None) -> str:
    marked = ' class="bad"' if "falsified" in words else ""
    number = sort_value(words) if value is None else repr(value)
    sorted_by = "" if number is None else f' data-value="{number}"'
    return f"<td{marked}{sorted_by}>{text(words)}</td>"


_NUMBER = re.compile(r"(?:[<>]= )?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|[\s*%])")


def sort_value(words: str) -> str | None:
    """The number that a text begins with, as JavaScript reads it; None for other texts."""
    if words.startswith("infinite"):
        return "Infinity"
    found = _NUMBER.match(words)
    return found.group(1) if found else None


def figure(path: Path, caption: str) -> str:
    """A picture inside the page: the SVG file beside ``path``, or the PNG where that is large.

    Args:
        path: without its suffix.
        caption: what it shows, also for who cannot see it.
    """
    svg, png = path.with_name(path.name + ".svg"), path.with_name(path.name + ".png")
    small = svg.is_file() and svg.stat().st_size <= _MAX_SVG
    chosen, kind = (svg, "image/svg+xml") if small else (png, "image/png")
    data = base64.b64encode(chosen.read_bytes()).decode()
    wide = f"width:{_pixels(png)}px"
    image = f'<img alt="{text(caption)}" style="{wide}" src="data:{kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def _pixels(png: Path) -> int:
    """Width of a picture in the page's pixels, at which its texts are as large as meant."""
    from PIL import Image

    with Image.open(png) as image:
        wide: int = image.width
    return round(wide * _PER_INCH / DPI)


def markdown(source: str) -> str:
    """A page of Markdown as HTML, its headings below those of the sections."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(source)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"
    return str(parser.renderer.render(tokens, parser.options, {}))


def details(summary: str, body: str) -> str:
    """A part that opens on a click, and is open in print."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def preformatted(words: str) -> str:
    """Text with its own line breaks."""
    return f"<pre>{text(words)}</pre>"


def page(title: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page.

    Args:
        title: of the page.
        sections: anchor, heading and body of each; a section without a body is left out.
    """
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{text(name)}</a>' for anchor, name, _ in shown)
    body = "".join(
        f'<section id="{anchor}"><h2>{text(name)}</h2>{content}</section>'
        for anchor, name, content in shown
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_asset('report.css')}</style></head><body>"
        f"<h1>{text(title)}</h1><nav>{links}</nav>{body}"
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    folder = importlib.resources.files("fedprivacy.report") / "assets"
    return (folder / name).read_text(encoding="utf-8")


def shown(pictures: Mapping[str, Sequence[tuple[Path, str]]], key: str) -> str:
    """The pictures of one section, each with its caption."""
    return "".join(figure(path, caption) for path, caption in pictures.get(key, ()))
