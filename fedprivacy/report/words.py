"""The words and the order in which results are told, shared by tables, figures and tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedprivacy.result import CellResult

INFINITE = "infinite"
UNKNOWN = "unknown"
MISSING = "-"

ALGORITHMS = (
    "none",
    "dpsgd",
    "svt",
    "svt_flare28",
    "svt_exact",
    "gaussian",
    "gaussian_clipped",
    "percentile",
    "central_gaussian",
    "local_source",
    "release_gaussian",
    "stacked",
)
SCHEDULES = ("never", "every_round", "first_round", "every_nth", "last_round")
FEDERATIONS = ("fedavg", "central", "local")


def rank(order: Sequence[str], name: str) -> tuple[int, str]:
    """Sort key: known names in the given order, others after them by name."""
    return (order.index(name) if name in order else len(order), name)


def number_text(epsilon: float) -> str:
    """A finite epsilon in words: 8.181 is ``8.18``, 1036.9 is ``1037``, 0.00123 is ``0.0012``."""
    if epsilon >= 100:
        return f"{epsilon:.0f}"
    return f"{epsilon:.2f}" if epsilon >= 0.01 or epsilon == 0 else f"{epsilon:.2g}"


def delta_text(delta: float | None) -> str:
    """A delta in words: 1e-5 and not 1e-05."""
    if delta is None:
        return MISSING
    mantissa, _, exponent = f"{delta:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def epsilon_text(privacy: Mapping[str, Any] | None) -> str:
    """The proven epsilon: a number, ``infinite``, or ``unknown`` where a cell got none."""
    if privacy is None:
        return UNKNOWN
    if privacy.get("infinite", True) or privacy.get("epsilon") is None:
        return INFINITE
    return number_text(privacy["epsilon"])


def protected_text(privacy: Mapping[str, Any] | None) -> str:
    """Epsilon of the protected rounds alone with their share, for example ``2.22 (1/8 rounds)``."""
    if privacy is None:
        return UNKNOWN
    protected, rounds = privacy.get("protected_rounds") or 0, privacy.get("rounds") or 0
    if not protected:
        return MISSING
    if privacy.get("epsilon_protected_infinite") or privacy.get("epsilon_protected") is None:
        epsilon = INFINITE
    else:
        epsilon = number_text(privacy["epsilon_protected"])
    return f"{epsilon} ({protected}/{rounds} rounds)"


def dataset_text(dataset: str, synthetic: bool) -> str:
    """The dataset, never without the word synthetic where its records are made up."""
    return f"{dataset} (synthetic)" if synthetic else dataset


def dataset_title(dataset: str, synthetic: bool) -> str:
    """The same for the heading of a picture."""
    return f"{dataset} (synthetic stand-in)" if synthetic else f"{dataset} (real records)"


def schedule_text(result: CellResult) -> str:
    """The schedule; a cell without protection has none."""
    return MISSING if result.algorithm == "none" else result.schedule
