"""What of a result a run holds: tags, parameters and metrics, computed from the result alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedprivacy.report.words import INFINITE, UNKNOWN, delta_text, epsilon_text, number_text
from fedprivacy.result import CellResult, RoundBlock

MetricPoint = tuple[str, int, float]
"""Key, step (the round) and finite value."""

DIGEST_TAG = "result.digest"
# What a number of privacy rests on, in words; and what only some cells have.
_STATED = ("direction", "accountant", "sampling", "worst_site", "assumptions")
_IF_ANY = ("reason", "derivation", "what_if")
# What MLflow's databases hold of a tag.
_TAG_LENGTH = 5000
_FORBIDDEN = re.compile(r"[^\w\-. :/]")


def run_name(result: CellResult) -> str:
    """``<algorithm> <schedule> <dataset> s<seed>``; a baseline also names its federation."""
    words = [result.algorithm, result.schedule, result.dataset]
    if result.federation != "fedavg":
        words.append(result.federation)
    return " ".join([*words, f"s{result.seed}"])


def tags(result: CellResult, sweep_id: str) -> dict[str, str]:
    """Everything that runs are searched, grouped and filtered by; values are text."""
    privacy = result.privacy or {}
    return {
        "sweep.id": sweep_id,
        "cell.id": result.cell_id,
        "algorithm": result.algorithm,
        "schedule": result.schedule,
        "dataset": result.dataset,
        "federation": result.federation,
        "seed": str(result.seed),
        "status": result.status,
        "private": _text(result.algorithm != "none"),
        "synthetic": _text(result.synthetic),
        "verdict": result.verdict or UNKNOWN,
        "privacy.epsilon": epsilon_text(result.privacy),
        "privacy.epsilon_protected": _protected_text(privacy),
        **{
            f"privacy.epsilon.{view}": epsilon_text(item)
            for view, item in (privacy.get("per_view") or {}).items()
        },
        "privacy.unit": privacy.get("unit") or UNKNOWN,
        "privacy.neighbouring": privacy.get("neighbouring") or UNKNOWN,
        "privacy.view": privacy.get("view") or UNKNOWN,
        "privacy.delta": delta_text(privacy["delta"]) if privacy.get("delta") else UNKNOWN,
        "privacy.randomness": privacy.get("randomness") or UNKNOWN,
        **{f"privacy.{key}": _words(privacy.get(key)) or UNKNOWN for key in _STATED},
        **{f"privacy.{key}": _words(privacy[key]) for key in _IF_ANY if privacy.get(key)},
        DIGEST_TAG: digest(result),
    }


def _protected_text(privacy: Mapping[str, Any]) -> str:
    """Epsilon of the protected rounds alone: a number, infinite, or none where there was none."""
    if privacy.get("epsilon_protected_infinite"):
        return INFINITE
    known = privacy.get("epsilon_protected")
    return "none" if known is None else number_text(known)


def digest(result: CellResult) -> str:
    """Sixteen hex digits that differ when a cell was run again.

    Taken from what is never equal in two runs, its timing above all, and not from the whole
    result: a later version of this program, whose results have more fields, must recognise it.
    """
    value = result.score.value if result.score else None
    marks = (result.cell_id, result.status, result.reason, value, dict(result.timing_s))
    text = json.dumps(marks, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def params(result: CellResult) -> dict[str, str]:
    """The meaning-bearing configuration, flattened to dotted keys."""
    return flat_params(result.config)


def flat_params(config: Mapping[str, Any]) -> dict[str, str]:
    """A nested configuration as a run holds it: text by dotted key."""
    return {_key(key): _text(value) for key, value in _flatten(config, "")}


def metrics(result: CellResult) -> list[MetricPoint]:
    """All finite metrics, at most one value for a key and step; step is the round.

    Infinite and undefined values are left out: stores turn them into other numbers. An epsilon
    that ends infinite has no value in the rounds before either: a store shows the last value that
    it got, so a finite early one would pass for the cell's. The final metrics of a cell have its
    last round as their step.
    """
    name = result.score.name if result.score else None
    infinite = _infinite(result)
    points: dict[tuple[str, int], float] = {}
    for block in result.rounds:
        for key, value in _of_round(block, name):
            if key not in infinite:
                _put(points, key, block.round, value)
    last = max((block.round for block in result.rounds), default=0)
    for key, value in _final(result):
        if key not in infinite:
            _put(points, key, last, value)
    return [(key, step, value) for (key, step), value in sorted(points.items())]


def _infinite(result: CellResult) -> set[str]:
    """Epsilons of which the whole cell has no finite value; that of the cell also if unknown."""
    privacy, found = result.privacy or {}, set()
    if privacy.get("infinite", True):
        found.add("privacy/epsilon")
    if privacy.get("epsilon_protected_infinite", False):
        found.add("privacy/epsilon_protected")
    return found


def _of_round(block: RoundBlock, name: str | None) -> Iterator[tuple[str, float | None]]:
    yield from _scores(name, block.score, block.score_per_site)
    for other, value in block.secondary.items():
        yield f"score/{other}", value
    yield "train/loss", block.loss
    yield "update/norm", block.update_norm
    yield "privacy/snr", block.snr
    yield "privacy/epsilon", block.epsilon
    yield "privacy/epsilon_protected", block.epsilon_protected


def _final(result: CellResult) -> Iterator[tuple[str, float | None]]:
    if result.score is not None:
        yield from _scores(result.score.name, result.score.value, result.score.per_site)
    privacy, audit = result.privacy or {}, result.audit or {}
    yield "privacy/epsilon", privacy.get("epsilon")
    yield "privacy/epsilon_protected", privacy.get("epsilon_protected")
    yield from _of_privacy(privacy)
    membership = audit.get("membership") or {}
    # Never one without the other: a bound says little beside a ceiling just above it.
    yield "audit/epsilon_lower", audit.get("epsilon_lower")
    yield "audit/ceiling", audit.get("ceiling")
    yield "audit/mia_auc", membership.get("auc")
    yield "audit/tpr_at_fpr_0.01", (membership.get("tpr_at_fpr") or {}).get("0.01")


def _of_privacy(privacy: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """What else is proved; caps of 1 and infinite epsilons say nothing and are left out."""
    yield "privacy/protected_share", privacy.get("protected_share")
    yield "privacy/exposed_releases", (privacy.get("exposed_releases") or {}).get("number")
    yield "privacy/coverage_records", privacy.get("coverage_records")
    if not privacy.get("infinite", True):
        yield "privacy/max_advantage", privacy.get("max_advantage")
        for rate, cap in (privacy.get("max_tpr_at_fpr") or {}).items():
            yield f"privacy/max_tpr_at_fpr_{rate}", cap
        yield "privacy/mu_gdp", privacy.get("mu_gdp")
        yield "privacy/mu_regret", privacy.get("mu_regret")
        for at, delta in (privacy.get("delta_profile") or {}).items():
            yield f"privacy/delta_at_epsilon/{at}", delta
        yield "privacy/epsilon_at_delta_1e-5", privacy.get("epsilon_at_delta_1e-5")
    for share, value in (privacy.get("epsilon_record_quantiles") or {}).items():
        yield f"privacy/epsilon_record_quantile/{share}", value
    for kind in ("per_unit", "per_view"):
        for name, item in (privacy.get(kind) or {}).items():
            yield f"privacy/{kind}/{name}/epsilon", item.get("epsilon")
    for site, item in (privacy.get("per_site") or {}).items():
        yield f"privacy/site/{site}/epsilon", item.get("epsilon")


def _scores(
    name: str | None, value: float | None, per_site: Mapping[str, float | None]
) -> Iterator[tuple[str, float | None]]:
    yield "score", value
    if name is not None:
        yield f"score/{name}", value
    for site, score in per_site.items():
        yield f"score/site/{site}", score


def _put(points: dict[tuple[str, int], float], key: str, step: int, value: float | None) -> None:
    if value is not None and math.isfinite(value):
        points[_key(key), step] = float(value)


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _text(value: Any) -> str:
    """As JSON writes it, but plain text without quotation marks."""
    return value if isinstance(value, str) else json.dumps(value)


def _words(value: Any) -> str:
    """A statement as one line that fits a tag; lists and values with names are told in order."""
    if isinstance(value, Mapping):
        value = [f"{key}: {item}" for key, item in value.items()]
    text = "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
    more = " ... (the whole is in result.json)"
    return text if len(text) <= _TAG_LENGTH else text[: _TAG_LENGTH - len(more)] + more


def _key(name: str) -> str:
    """A key that MLflow accepts: letters, digits and ``_ - . : /`` and the space."""
    return _FORBIDDEN.sub("_", name)
