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


def claim_text(privacy: Mapping[str, Any] | None) -> str:
    """What an epsilon holds for: ``record, zero_out, server_updates, delta 1e-5``."""
    if not privacy:
        return MISSING
    about = [privacy.get(key) for key in ("unit", "neighbouring", "view")]
    return ", ".join(
        [*(str(word) for word in about if word), f"delta {delta_text(privacy.get('delta'))}"]
    )


def patient_text(privacy: Mapping[str, Any] | None) -> str:
    """Epsilon of one patient, where it is another than the headline; for example ``52.5``."""
    patient = ((privacy or {}).get("per_unit") or {}).get("patient")
    if not privacy or not patient or privacy.get("unit") == "patient":
        return ""
    own = epsilon_text(patient)
    return "" if own == epsilon_text(privacy) else own


def subjects(dataset: str, synthetic: bool) -> str:
    """What the records are of, in the plural; made-up ones are never called patients alone."""
    return f"{'made-up ' if synthetic else ''}{'events' if dataset == 'higgs' else 'patients'}"


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


def views_text(privacy: Mapping[str, Any] | None) -> str:
    """Epsilon, and beside it that of another view wherever one is finite and the other is not.

    For example ``infinite (aggregate: 4.38)``: noise that the server adds proves nothing against
    the server itself; or ``4.38 (server_updates: infinite)``.
    """
    text = epsilon_text(privacy)
    if privacy is None:
        return text
    views: Mapping[str, Mapping[str, Any]] = privacy.get("per_view") or {}
    infinite = bool(privacy.get("infinite", True))
    others = [
        f"{view}: {epsilon_text(item)}"
        for view, item in views.items()
        if view != privacy.get("view") and bool(item.get("infinite", True)) != infinite
    ]
    # Views go from the strongest to the weakest: the first finite one says most.
    beside = others[:1] if infinite else others[-1:]
    return f"{text} ({beside[0]})" if beside else text


def dataset_text(dataset: str, synthetic: bool) -> str:
    """The dataset, never without the word synthetic where its records are made up."""
    return f"{dataset} (synthetic)" if synthetic else dataset


def dataset_title(dataset: str, synthetic: bool) -> str:
    """The same for the heading of a picture."""
    return f"{dataset} (synthetic stand-in)" if synthetic else f"{dataset} (real records)"


def schedule_text(result: CellResult) -> str:
    """The schedule; a cell without protection has none."""
    return MISSING if result.algorithm == "none" else result.schedule


_ABOUT = ("neighbouring", "view", "delta", "randomness")


def varying(privacies: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What, besides the unit, must stand beside each epsilon because it is not the same for all.

    Compared among statements of the same unit; the unit itself always stands there.
    """
    return tuple(
        key
        for key in _ABOUT
        if any(
            one.get(key) != other.get(key)
            for one in privacies
            for other in privacies
            if one.get("unit") == other.get("unit")
        )
    )


def epsilon_label(privacy: Mapping[str, Any] | None, keys: Sequence[str] = ()) -> str:
    """Epsilon for a picture: ``ε = 8.18, record`` or ``ε infinite``."""
    if privacy is None:
        return f"ε {UNKNOWN}"
    text = epsilon_text(privacy)
    if text == INFINITE:
        return "ε infinite"
    words = [str(privacy.get("unit") or UNKNOWN), *(_word(privacy, key) for key in keys)]
    return f"ε = {text}, {', '.join(words)}"


def protected_label(privacy: Mapping[str, Any] | None, keys: Sequence[str] = ()) -> str:
    """Epsilon with that of the protected rounds: ``ε infinite; 2.22 over 1/8 rounds, record``."""
    if privacy is None or not privacy.get("protected_rounds"):
        return epsilon_label(privacy, keys)
    share = f"{privacy['protected_rounds']}/{privacy['rounds']} rounds"
    if epsilon_text(privacy) != INFINITE:
        return f"{epsilon_label(privacy, keys)}; protected {share}"
    inside = protected_text(privacy).partition(" ")[0]
    if inside == INFINITE:
        return f"ε infinite, also over the {share} protected"
    words = [str(privacy.get("unit") or UNKNOWN), *(_word(privacy, key) for key in keys)]
    return f"ε infinite; {inside} over {share}, {', '.join(words)}"


def about_epsilon(privacies: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: what all epsilons hold for, then what those of each unit hold for.

    What differs among epsilons of the same unit is left out: it stands beside each of them.
    """
    if not privacies:
        return ""
    keys = [key for key in _ABOUT if key not in varying(privacies)]
    by_unit = {str(privacy.get("unit") or UNKNOWN): privacy for privacy in privacies}
    shared = [k for k in keys if len({_word(p, k) for p in by_unit.values()}) == 1]
    parts = [", ".join(["ε: proven upper bound", *(_word(privacies[0], key) for key in shared)])]
    for unit, privacy in sorted(by_unit.items()):
        own = [_word(privacy, key) for key in keys if key not in shared]
        parts += [f"per {unit}: {', '.join(own)}"] if own else []
    return "; ".join(parts)


def _word(privacy: Mapping[str, Any], key: str) -> str:
    value = privacy.get(key)
    if key == "delta":
        return f"δ={delta_text(value)}"
    if key == "randomness":
        return "seeded noise (a simulation)" if value == "seeded" else f"{value or UNKNOWN} noise"
    return f"view {value}" if key == "view" else str(value or UNKNOWN)
