"""The test of the tests: one line of a module's source changed, which a check must notice."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Mutant:
    """One line of a module's source, changed.

    Attributes:
        fault: what is wrong with it.
        old: text that is in the source once.
        new: text in its place.
        caught_by: the check that must fail.
    """

    fault: str
    old: str
    new: str
    caught_by: str


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """A copy of the module with ``new`` in place of ``old``, which must be in its source once."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"the source has changed: {old!r}"
    copy = ModuleType("mutated")
    sys.modules["mutated"] = copy  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), "mutated", "exec"), copy.__dict__)
    finally:
        del sys.modules["mutated"]
    return copy
