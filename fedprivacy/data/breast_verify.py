"""Whether the breast-density files on disk are complete and what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedprivacy.data.breast_generator import SIZES
from fedprivacy.data.breast_images import read_image
from fedprivacy.data.breast_layouts import LAYOUTS, ImageTable, index_files, leaks, read_table
from fedprivacy.data.files import mark_problems
from fedprivacy.errors import DataError

NAME = "breast_density"
CHALLENGE_SITES = 3
MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Place:
    """A folder that may hold files, their layout, and how many images belong there if known."""

    folder: Path
    layout: str
    images: int | None = None


def verify(root: Path, source: str) -> list[str]:
    """Problems of the files below ``root`` (``dataset.root``); empty when they are sound.

    Checks that every image of the index is there and readable (datalists: square float32 with
    one or three channels; values in [0, 1]), that grades are 0 to 3 or A to D, that the challenge
    has its three sites and no patient on two sides of the split or at two sites; synthetic: also
    the number of images. Whatever sizes and layouts are there are checked.
    """
    if source == "real":
        places = [Place(root / "real" / NAME, layout) for layout in LAYOUTS]
    else:
        base = root / "synthetic" / NAME
        places = [
            Place(base / size_folder(size, layout), layout, scale.images)
            for size, scale in SIZES.items()
            for layout in LAYOUTS
        ]
    present = [place for place in places if _has_index(place)]
    if not present:
        where = root / source / NAME
        way = f"fedprivacy data {'download' if source == 'real' else 'generate'} {NAME}"
        return [f"{where} holds neither datalists nor train.csv: run `{way}`"]
    marked = mark_problems(root / "real" / NAME) if source == "real" else []
    return [*marked, *(problem for place in present for problem in _verify_place(place))]


def size_folder(size: str, layout: str) -> str:
    """Folder of a generated size: the challenge's layout has the plain name."""
    return size if layout == "datalist" else f"{size}_{layout}"


def _has_index(place: Place) -> bool:
    try:
        return bool(index_files(place.folder, place.layout))
    except DataError:
        return False


def _verify_place(place: Place) -> list[str]:
    try:
        table = read_table(place.folder, place.layout)
    except DataError as error:
        return [str(error)]
    found = list(_index_problems(place, table))
    damaged = [problem for path in table.paths for problem in _image_problems(path)]
    if len(damaged) > MAX_PROBLEMS_SHOWN:
        rest = len(damaged) - MAX_PROBLEMS_SHOWN
        damaged = [*damaged[:MAX_PROBLEMS_SHOWN], f"and {rest} more images with problems"]
    return found + damaged


def _index_problems(place: Place, table: ImageTable) -> Iterator[str]:
    sites = set(table.groups.tolist())
    if table.layout == "datalist":
        yield from leaks(table)
        if len(sites) != CHALLENGE_SITES:
            yield f"{place.folder} has datalists of {len(sites)} sites, not {CHALLENGE_SITES}"
    if len(set(table.paths)) != len(table.paths):
        yield f"{place.folder}: the index names some images twice"
    if place.images is not None and len(table.paths) != place.images:
        yield f"{place.folder} has {len(table.paths)} graded images, not {place.images}"


def _image_problems(path: Path) -> Iterator[str]:
    try:
        read_image(path)
    except DataError as error:
        yield str(error)
