"""The words a privacy number is stated in."""

from __future__ import annotations

from typing import Literal

Unit = Literal["record", "patient", "site"]
Neighbouring = Literal["zero_out", "add_remove", "replace_one"]
View = Literal["server_updates", "aggregate", "final_model"]

UNITS: tuple[Unit, ...] = ("record", "patient", "site")
NEIGHBOURING: tuple[Neighbouring, ...] = ("zero_out", "add_remove", "replace_one")
VIEWS: tuple[View, ...] = ("server_updates", "aggregate", "final_model")
