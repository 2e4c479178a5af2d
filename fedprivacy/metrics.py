"""Scores of a model on held-out records, with the score of chance and a standard error.

A site turns logits into *evidence*, a few numbers per held-out record; a score is a function of
the evidence and labels of any set of records, so per-site and global scores need no second pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.errors import ConfigError

_BOOTSTRAP_RESAMPLES = 200
_CLASSIFICATION = frozenset({"binary", "multiclass"})

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """A score on held-out records.

    Attributes:
        name: the metric.
        value: None where it is undefined (no records, one class for auc) or where the model's
            output is not finite.
        chance: score of the trivial predictor on the same records; 0 without records.
        standard_error: sampling error of ``value`` over held-out records; None when not asked
            for or undefined.
    """

    name: str
    value: float | None
    chance: float
    standard_error: float | None


class Metric(Protocol):
    """A metric: larger is better."""

    tasks: frozenset[str]

    def chance(self, evidence: Floats, labels: Integers) -> float:
        """Score of the trivial predictor; at least one record."""
        ...

    def value(self, evidence: Floats, labels: Integers) -> float | None:
        """The score on finite evidence of at least one record; None where undefined."""
        ...

    def standard_error(self, evidence: Floats, labels: Integers) -> float | None:
        """Its sampling error; None where undefined."""
        ...


# ---------------------------------------------------------------------------- evidence


def evidence(task: str, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """What a score needs to know about each record, ``(m, k)`` float32 on the CPU.

    Args:
        task: ``binary``: k = 1, probability of class 1, of logits ``(m, 1)``.
            ``multiclass``: k = classes, their probabilities, of logits ``(m, classes)``.
            ``segmentation``: k = 3, soft Dice of the prediction, Dice of the empty mask and of
            the full mask, of logits ``(m, 2, *spatial)``.
        logits: output of the model.
        target: ``(m, *spatial)`` masks in {0, 1} for segmentation, unused otherwise.
    """
    logits = logits.detach().float()
    if task == "binary":
        rows = torch.sigmoid(logits)
    elif task == "multiclass":
        rows = torch.softmax(logits, dim=1)
    elif task == "segmentation":
        rows = _dice_evidence(torch.softmax(logits, dim=1), target.to(logits.device))
    else:
        raise ValueError(f"unknown task {task!r}")
    return rows.cpu()


def _dice_evidence(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice of predictions ``(m, 2, ...)``, the empty and the full mask: ``(m, 3)``."""
    truth = torch.stack((1 - target, target), dim=1).flatten(2).to(probability.dtype)
    probability = probability.flatten(2)
    empty = torch.zeros_like(truth)
    empty[:, 0] = 1
    masks = (probability, empty, empty.flip(1))
    return torch.stack([_soft_dice(mask, truth) for mask in masks], dim=1)


def _soft_dice(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """FLamby's Fed-IXI metric, mean over the channels of ``(m, channels, voxels)``: ``(m,)``."""
    overlap = (probability * truth).sum(2)
    size = (0.5 * (probability + truth)).sum(2)
    return torch.where(size == 0, torch.ones_like(size), overlap / (size + 1e-7)).mean(1)


# ---------------------------------------------------------------------------- scores


def score(
    metric: str, evidence: Floats, labels: NDArray[Any], *, standard_error: bool = False
) -> Score:
    """A score over held-out records.

    Args:
        metric: one of ``METRICS``.
        evidence: ``(m, k)`` as the function ``evidence`` makes it.
        labels: ``(m,)`` true classes 0, 1, ... of any dtype; unused by dice.
        standard_error: whether to compute the standard error as well, which costs more.

    Raises:
        KeyError: unknown metric.
        ValueError: lengths differ, a label is not a class, or auc of more than two classes.
    """
    measure = METRICS[metric]
    evidence, truth = np.asarray(evidence), np.asarray(labels).reshape(-1).astype(np.int64)
    if evidence.ndim != 2 or len(evidence) != len(truth):
        raise ValueError(f"evidence {evidence.shape} does not go with {len(truth)} labels")
    if not len(truth):
        return Score(metric, None, 0.0, None)
    if measure.tasks <= _CLASSIFICATION and not 0 <= truth.min() <= truth.max() < _classes(
        evidence
    ):
        raise ValueError(
            f"labels must be classes 0 to {_classes(evidence) - 1}, got {truth.min()} to "
            f"{truth.max()}"
        )
    chance = measure.chance(evidence, truth)
    value = measure.value(evidence, truth) if np.isfinite(evidence).all() else None
    error = None
    if standard_error and value is not None and len(truth) > 1:
        error = measure.standard_error(evidence, truth)
    # Every number of a result is strict JSON, even if a site sent nonsense.
    return Score(metric, value, chance if math.isfinite(chance) else 0.0, error)


def secondary(
    metric: str, evidence: Floats, labels: NDArray[Any], *, standard_error: bool = False
) -> tuple[Score, ...]:
    """Scores shown beside ``metric``: accuracy beside any other metric of a classification."""
    if metric == "accuracy" or not METRICS[metric].tasks <= _CLASSIFICATION:
        return ()
    return (score("accuracy", evidence, labels, standard_error=standard_error),)


def recalls(metric: str, evidence: Floats, labels: NDArray[Any]) -> dict[str, float | None]:
    """Share of the records of each class that is recognised, by ``0``, ``1``, ...

    None for a class without records and for evidence that is not finite; empty for segmentation.
    """
    if not METRICS[metric].tasks <= _CLASSIFICATION or not len(labels):
        return {}
    truth = np.asarray(labels).reshape(-1).astype(np.int64)
    sound = bool(np.isfinite(evidence).all())
    right = _predicted(np.asarray(evidence)) == truth
    found: dict[str, float | None] = {}
    for number in range(_classes(np.asarray(evidence))):
        own = truth == number
        found[str(number)] = float(right[own].mean()) if sound and own.any() else None
    return found


def check_metric_fits(metric: str, task: str) -> None:
    """Refuse a metric that a task has no evidence for.

    Raises:
        ConfigError: key ``dataset.metric``.
    """
    fitting = [name for name, measure in METRICS.items() if task in measure.tasks]
    if metric not in fitting:
        raise ConfigError(
            "dataset.metric",
            metric,
            f"{task} is scored by {' or '.join(fitting)}",
            f"dataset.metric={fitting[0]}" if fitting else "another dataset",
        )


def _classes(evidence: Floats) -> int:
    return max(2, int(evidence.shape[1]))


def _predicted(evidence: Floats) -> Integers:
    """Predicted class: the most probable one; class 1 of two where its probability is > 1/2."""
    if evidence.shape[1] == 1:
        return (evidence[:, 0] > 0.5).astype(np.int64)
    return np.asarray(np.argmax(evidence, axis=1), dtype=np.int64)


# ---------------------------------------------------------------------------- metrics


class Accuracy:
    """Share of right classes. Chance: the largest class of the held-out records."""

    tasks = _CLASSIFICATION

    def chance(self, evidence: Floats, labels: Integers) -> float:
        return float(np.bincount(labels).max() / len(labels))

    def value(self, evidence: Floats, labels: Integers) -> float:
        return float(np.mean(_predicted(evidence) == labels))

    def standard_error(self, evidence: Floats, labels: Integers) -> float:
        """Binomial (Wald): sqrt(p (1 - p) / m), 0 where all or none are right."""
        share = self.value(evidence, labels)
        return math.sqrt(share * (1 - share) / len(labels))


class Auc:
    """Area under the ROC curve of a binary task, ties counted half. Chance: 1/2."""

    tasks = frozenset({"binary"})

    def chance(self, evidence: Floats, labels: Integers) -> float:
        return 0.5

    def value(self, evidence: Floats, labels: Integers) -> float | None:
        positive, negative = _by_class(evidence, labels)
        if not len(positive) or not len(negative):
            return None
        return float(_share_below(positive, negative).mean())

    def standard_error(self, evidence: Floats, labels: Integers) -> float | None:
        """DeLong et al. 1988: from the variances of each record's placement in the other class.

        None where a class has fewer than two records.
        """
        positive, negative = _by_class(evidence, labels)
        if min(len(positive), len(negative)) < 2:
            return None
        variance = 0.0
        for one, other in ((positive, negative), (negative, positive)):
            variance += float(_share_below(one, other).var(ddof=1)) / len(one)
        return math.sqrt(variance)


def _by_class(evidence: Floats, labels: Integers) -> tuple[Floats, Floats]:
    """Probabilities of class 1 of the records of class 1 and of class 0."""
    if evidence.shape[1] != 1:
        raise ValueError(f"auc takes evidence (m, 1) of a binary task, got {evidence.shape}")
    return evidence[labels == 1, 0], evidence[labels == 0, 0]


def _share_below(ours: Floats, others: Floats) -> Floats:
    """Of each of ours, the share of others that are below it, equal ones counted half."""
    others, ours = np.sort(others), np.sort(ours)
    below = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
    return np.asarray(below / (2.0 * len(others)))


class Kappa:
    """Cohen's kappa with linear weights (Cohen 1968), for ordered classes. Chance: 0."""

    tasks = _CLASSIFICATION

    def chance(self, evidence: Floats, labels: Integers) -> float:
        return 0.0

    def value(self, evidence: Floats, labels: Integers) -> float | None:
        kappa = float(_linear_kappa(_confusion(evidence, labels)[None])[0])
        return kappa if math.isfinite(kappa) else None

    def standard_error(self, evidence: Floats, labels: Integers) -> float | None:
        """Bootstrap over records: 200 multinomial resamples of the confusion counts, seeded.

        None where kappa is undefined in more than half of the resamples.
        """
        counts = _confusion(evidence, labels)
        resampled = np.random.default_rng(0).multinomial(
            len(labels), counts.ravel() / len(labels), size=_BOOTSTRAP_RESAMPLES
        )
        kappas = _linear_kappa(resampled.reshape(-1, *counts.shape))
        kappas = kappas[np.isfinite(kappas)]
        if len(kappas) < _BOOTSTRAP_RESAMPLES / 2:
            return None
        return float(kappas.std(ddof=1))


def _confusion(evidence: Floats, labels: Integers) -> Integers:
    """Counts ``(classes, classes)``: true class by predicted class."""
    classes = _classes(evidence)
    cells = labels * classes + _predicted(evidence)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _linear_kappa(counts: Integers) -> Floats:
    """1 - observed / expected disagreement of counts ``(r, c, c)``: ``(r,)``; NaN undefined."""
    steps = np.arange(counts.shape[1])
    distance = np.abs(steps[:, None] - steps[None, :])
    total = counts.sum((1, 2))
    observed = (counts * distance).sum((1, 2)) * total
    expected = np.einsum("ri,ij,rj->r", counts.sum(2), distance, counts.sum(1))
    undefined = expected == 0
    ratio = observed / np.where(undefined, 1, expected)
    return np.asarray(np.where(undefined, np.nan, 1.0 - ratio))


class Dice:
    """Mean soft Dice over records. Chance: the better one of the empty and the full mask."""

    tasks = frozenset({"segmentation"})

    def chance(self, evidence: Floats, labels: Integers) -> float:
        return float(evidence[:, 1:].mean(0, dtype=np.float64).max())

    def value(self, evidence: Floats, labels: Integers) -> float:
        return float(evidence[:, 0].mean(dtype=np.float64))

    def standard_error(self, evidence: Floats, labels: Integers) -> float:
        """Standard deviation over records / sqrt(m)."""
        return float(evidence[:, 0].std(ddof=1, dtype=np.float64)) / math.sqrt(len(evidence))


METRICS: dict[str, Metric] = {
    "accuracy": Accuracy(),
    "auc": Auc(),
    "kappa": Kappa(),
    "dice": Dice(),
}
