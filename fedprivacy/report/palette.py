"""What each entity looks like in every picture: colour, marker and hatch, told apart in grey too.

Colours are from Okabe and Ito's set for the colour-blind (jfly.uni-koeln.de/color), darkened
where a hue is used again for a mechanism of the same family.
"""

from __future__ import annotations

from dataclasses import dataclass

INK = "#222222"
FAINT = "#8A8A8A"
HAIRLINE = "#D5D5D5"


@dataclass(frozen=True)
class Look:
    """How an entity is drawn.

    Attributes:
        colour: of its lines and markers.
        marker: matplotlib's name of the marker.
        dash: matplotlib's line style.
    """

    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]] = "-"


_ALGORITHMS: dict[str, Look] = {
    "none": Look(INK, "D"),
    "dpsgd": Look("#0072B2", "o"),
    "svt": Look("#D55E00", "s"),
    "svt_flare28": Look("#A34700", "p"),
    "svt_exact": Look("#7A3600", "P"),
    "gaussian": Look("#009E73", "^"),
    "gaussian_clipped": Look("#006B4E", "v"),
    "percentile": Look("#B58900", "X"),
    "central_gaussian": Look("#CC79A7", "<"),
    "local_source": Look("#8F4A75", ">"),
    "release_gaussian": Look("#56B4E9", "h"),
    "stacked": Look("#5B5B5B", "*"),
}
_SITES = (
    Look("#6A51A3", "o", "-"),
    Look("#A6761D", "s", (0, (5, 1.5))),
    Look("#4B8A9B", "^", (0, (2, 1.2))),
    Look("#B0617A", "v", (0, (6, 1.5, 1.5, 1.5))),
    Look("#7A8B35", "D", (0, (1, 1))),
    Look("#6B6B6B", "P", (0, (8, 2))),
)
_REFERENCES: dict[str, Look] = {
    "fedavg": Look(INK, "", (0, (6, 2))),
    "central": Look("#555555", "", (0, (8, 2, 2, 2))),
    "local": Look("#777777", "", (0, (1.5, 1.5))),
}
_DARKER, _LIGHTER = 0.6, 0.6
CHANCE = Look("#9A9A9A", "", "-")


def algorithm_look(name: str) -> Look:
    """Look of an algorithm; one that is not known here is grey with a pentagon."""
    return _ALGORITHMS.get(name, Look("#5B5B5B", "p"))


def look_of(algorithm: str, federation: str) -> Look:
    """Look of a row; without protection it is that of the baseline, with a marker."""
    own = algorithm_look(algorithm)
    if algorithm != "none":
        return own
    baseline = reference_look(federation)
    return Look(baseline.colour, own.marker, baseline.dash)


def shaded(colour: str, place: int, of: int) -> str:
    """A colour from darker to lighter, so that ``of`` entities of one hue differ in grey too.

    Args:
        colour: ``#RRGGBB``; the one of a single entity.
        place: of the entity, from 0.
        of: how many share the colour.
    """
    if of == 1:
        return colour
    share = place / (of - 1)
    towards, weight = (
        (0, _DARKER * (1 - 2 * share)) if share < 0.5 else (255, _LIGHTER * (2 * share - 1))
    )
    parts = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{round(part + weight * (towards - part)):02X}" for part in parts)


def site_look(index: int) -> Look:
    """Look of the site at a position; sites keep their order in all results of a dataset."""
    return _SITES[index % len(_SITES)]


def reference_look(federation: str) -> Look:
    """Look of the baseline without protection in a federation."""
    return _REFERENCES.get(federation, _REFERENCES["fedavg"])
