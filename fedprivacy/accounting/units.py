"""The words a privacy number is stated in, and which of them contain which."""

from __future__ import annotations

from typing import Literal

Unit = Literal["record", "patient", "site"]
Neighbouring = Literal["zero_out", "add_remove", "replace_one"]
View = Literal["server_updates", "aggregate", "final_model"]

UNITS: tuple[Unit, ...] = ("record", "patient", "site")
"""From the finest to the coarsest: a site holds patients, a patient has records."""

NEIGHBOURING: tuple[Neighbouring, ...] = ("zero_out", "add_remove", "replace_one")

VIEWS: tuple[View, ...] = ("server_updates", "aggregate", "final_model")
"""From the strongest adversary to the weakest: each sees all that the next ones see."""


_ALIKE = frozenset({"zero_out", "add_remove"})


def alike(one: str, other: str) -> bool:
    """Whether numbers under two neighbouring relations mean the same.

    Of one record of a public number the empty record and the missing one do, see
    docs/how-we-count.md; another record in its place is another question.
    """
    return one == other or {one, other} <= _ALIKE


def view_contains(stronger: View, weaker: View) -> bool:
    """Whether an adversary with the first view sees all that one with the second sees."""
    return VIEWS.index(stronger) <= VIEWS.index(weaker)


def unit_contains(coarser: Unit, finer: Unit) -> bool:
    """Whether each of the finer units lies inside one of the coarser (a unit contains itself)."""
    return UNITS.index(coarser) >= UNITS.index(finer)
