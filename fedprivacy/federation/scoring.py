"""Held-out scores of a round, from the evidence that sites sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.data.base import FederatedData
from fedprivacy.metrics import evidence, recalls, score, secondary

_CHANCE_RECORDS = 4096


@dataclass(frozen=True)
class Evidence:
    """What one reply says about held-out records.

    Attributes:
        rows: ``(m, k)`` float32, see ``fedprivacy.metrics.evidence``.
        labels: ``(m,)`` true classes.
        parts: (site, number of its records), in the order of the rows.
    """

    rows: NDArray[np.float32]
    labels: NDArray[np.float32]
    parts: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RoundScore:
    """Scores after a round; None where a score is undefined.

    Attributes:
        value: the global score; without federation the mean of the sites' own models.
        chance: score of the trivial predictor on the same records.
        standard_error: of ``value``, only in the final round.
        per_site: by site, see ``ScoreBlock.per_site``.
        secondary: further metrics of the same evidence.
        per_class: recall of each class, only in the final round of a classification.
    """

    value: float | None
    chance: float
    standard_error: float | None
    per_site: Mapping[str, float | None]
    secondary: Mapping[str, float | None]
    per_class: Mapping[str, float | None] = field(default_factory=dict)


def score_round(
    metric: str, replies: Sequence[Evidence], *, local: bool, final: bool
) -> RoundScore:
    """Score a round.

    Federated or central: one model, scored on all records together and on each site's. Local:
    every reply is one site's own model on all sites' records.
    """
    if local:
        return _score_local(metric, replies, final)
    rows = np.concatenate([reply.rows for reply in replies])
    labels = np.concatenate([reply.labels for reply in replies])
    whole = score(metric, rows, labels, standard_error=final)
    per_site: dict[str, float | None] = {}
    start = 0
    for name, count in (part for reply in replies for part in reply.parts):
        part = slice(start, start + count)
        per_site[name] = score(metric, rows[part], labels[part], standard_error=False).value
        start += count
    return RoundScore(
        value=whole.value,
        chance=whole.chance,
        standard_error=whole.standard_error,
        per_site=per_site,
        secondary=_secondary(metric, rows, labels),
        per_class=recalls(metric, rows, labels) if final else {},
    )


def chance(data: FederatedData) -> float:
    """Score of the trivial predictor on all held-out records, where no model could be scored.

    Chance does not depend on predictions, so records go with logits of zero.
    """
    rows, labels = [], []
    for site in data.sites:
        for y in torch.split(site.test_y, _CHANCE_RECORDS):
            # A binary task has one logit; what a multiclass model has is one for each class.
            width = 1 if data.task == "binary" else data.n_classes
            logits = torch.zeros((len(y), width, *y.shape[1:]))
            rows.append(evidence(data.task, logits, y).numpy())
            labels.append(y.numpy() if y.ndim == 1 else np.zeros(len(y)))
    return score(data.metric, np.concatenate(rows), np.concatenate(labels)).chance


def _score_local(metric: str, replies: Sequence[Evidence], final: bool) -> RoundScore:
    names = [name for name, _ in replies[0].parts]
    scores = [score(metric, r.rows, r.labels, standard_error=final) for r in replies]
    values = [s.value for s in scores]
    errors = [s.standard_error for s in scores if s.standard_error is not None]
    seconds = [_secondary(metric, r.rows, r.labels) for r in replies]
    return RoundScore(
        value=_mean(values),
        chance=scores[0].chance,
        # The sites' models are scored on the same records, so their errors do not average out.
        standard_error=sum(errors) / len(errors) if errors else None,
        per_site=dict(zip(names, values, strict=True)),
        secondary={key: _mean([second[key] for second in seconds]) for key in seconds[0]},
        per_class=_mean_recalls(metric, replies) if final else {},
    )


def _mean_recalls(metric: str, replies: Sequence[Evidence]) -> dict[str, float | None]:
    each = [recalls(metric, reply.rows, reply.labels) for reply in replies]
    return {name: _mean([one[name] for one in each]) for name in each[0]}


def _secondary(
    metric: str, rows: NDArray[np.float32], labels: NDArray[np.float32]
) -> dict[str, float | None]:
    return {found.name: found.value for found in secondary(metric, rows, labels)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
