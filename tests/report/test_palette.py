from __future__ import annotations

from itertools import pairwise

from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle

from fedprivacy.report.palette import algorithm_look, reference_look, shaded, site_look
from fedprivacy.report.words import ALGORITHMS, FEDERATIONS


def test_every_algorithm_has_a_colour_and_a_marker_of_its_own() -> None:
    looks = [algorithm_look(name) for name in ALGORITHMS]
    assert len({to_rgb(look.colour) for look in looks}) == len(ALGORITHMS)
    assert len({look.marker for look in looks}) == len(ALGORITHMS)
    assert all(MarkerStyle(look.marker) for look in looks)


def test_sites_and_references_differ_in_more_than_colour() -> None:
    assert len({str(site_look(index).dash) for index in range(6)}) == 6
    assert len({str(reference_look(name).dash) for name in FEDERATIONS}) == len(FEDERATIONS)


def test_no_site_has_the_colour_of_an_algorithm() -> None:
    sites = {site_look(index).colour for index in range(6)}
    assert sites.isdisjoint({algorithm_look(name).colour for name in ALGORITHMS})


def test_entities_of_one_hue_grow_lighter() -> None:
    assert shaded("#0072B2", 0, 1) == "#0072B2"
    assert shaded("#0072B2", 1, 3) == "#0072B2"
    grey = [sum(to_rgb(shaded("#0072B2", place, 6))) for place in range(6)]
    assert all(b - a > 0.1 for a, b in pairwise(grey))
