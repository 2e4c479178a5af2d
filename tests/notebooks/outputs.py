"""Whether outputs of a notebook are those that were committed, but for digits that may differ.

Noise, masks and batches come from seeds, so that a fresh run gives the same numbers; another
processor rounds otherwise, which training carries on for a few rounds. Numbers may therefore be a
fiftieth, or a hundredth in absolute terms, from the committed ones; words may not differ at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RELATIVE, ABSOLUTE = 0.02, 0.01
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# Padding of columns follows the widths of numbers.
_SPACES = re.compile(r"[\s\-─=]{2,}|\s+|\\\n")


def differences(fresh: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between the code cells of two runs of a notebook, in words; empty: nothing."""
    found = []
    for place, (new, old) in enumerate(zip(fresh, kept, strict=True), start=1):
        mine, its = list(_said(new)), list(_said(old))
        if [kind for kind, _ in mine] != [kind for kind, _ in its]:
            found.append(f"cell {place} has {[k for k, _ in mine]}, committed {[k for k, _ in its]}")
            continue
        for (kind, now), (_, then) in zip(mine, its, strict=True):
            if (fault := _unlike(now, then)) is not None:
                found.append(f"cell {place}, {kind}: {fault}")
    return found


def _said(cell: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and text of each output; of a picture nothing but that it is there."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            if output["name"] == "stdout":
                yield "stdout", "".join(output["text"])
            continue
        data = output.get("data", {})
        if "image/png" in data:
            yield "image", ""
        elif "text/plain" in data:
            yield "text", "".join(data["text/plain"])


def _unlike(now: str, then: str) -> str | None:
    words, its = (_SPACES.split(_NUMBER.sub(" # ", text).strip()) for text in (now, then))
    words, its = ([word for word in split if word] for split in (words, its))
    if words != its:
        first = next((pair for pair in zip(words, its, strict=False) if pair[0] != pair[1]), None)
        return f"the words differ, first {first}" if first else "one has more words"
    for number, other in zip(_NUMBER.findall(now), _NUMBER.findall(then), strict=True):
        if not _near(float(number), float(other)):
            return f"{number} now, {other} committed"
    return None


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= max(ABSOLUTE, RELATIVE * abs(other))
