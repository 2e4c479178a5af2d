from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from fedprivacy.errors import ConfigError
from fedprivacy.metrics import METRICS, Score, check_metric_fits, evidence, score, secondary
from fedprivacy.training.losses import soft_dice


def _binary(seed: int, m: int, ties: bool = False) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, m)
    logits = rng.normal(labels * 0.8, 1.0)
    if ties:
        logits = np.round(logits)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)[:, None], labels


def _graded(seed: int, m: int, classes: int = 4) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, m)
    logits = rng.normal(size=(m, classes)) - 0.6 * np.abs(np.arange(classes) - labels[:, None])
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32), labels


def _bootstrap_error(metric: str, rows: NDArray, labels: NDArray, resamples: int = 400) -> float:
    rng = np.random.default_rng(1)
    draws = (rng.integers(0, len(labels), len(labels)) for _ in range(resamples))
    values = [score(metric, rows[draw], labels[draw]).value for draw in draws]
    return float(np.std([value for value in values if value is not None], ddof=1))


# ---------------------------------------------------------------------------- evidence


def test_evidence_of_classes_is_their_probability() -> None:
    logits = torch.tensor([[0.0], [2.0]], dtype=torch.float64, requires_grad=True)
    rows = evidence("binary", logits, torch.tensor([0, 1]))
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    torch.testing.assert_close(rows, torch.tensor([[0.5], [0.880797]]))
    rows = evidence("multiclass", torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
    torch.testing.assert_close(rows, torch.tensor([[0.090031, 0.244728, 0.665241]]))


def test_evidence_of_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="regression"):
        evidence("regression", torch.zeros(1, 1), torch.zeros(1))


def _dice_by_voxels(probability: list[list[float]], mask: list[int]) -> float:
    """FLamby's soft Dice of one record, voxel by voxel: probability[channel][voxel]."""
    per_channel = []
    for channel in (0, 1):
        truth = [float(voxel == channel) for voxel in mask]
        overlap = sum(p * t for p, t in zip(probability[channel], truth, strict=True))
        size = sum(0.5 * (p + t) for p, t in zip(probability[channel], truth, strict=True))
        per_channel.append(1.0 if size == 0 else overlap / (size + 1e-7))
    return sum(per_channel) / 2


def test_dice_evidence_equals_a_loop_over_voxels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 2, 3, 4, 5, generator=generator)
    masks = torch.randint(0, 2, (4, 3, 4, 5), generator=generator)
    masks[2], masks[3] = 0, 1
    rows = evidence("segmentation", logits, masks)
    assert rows.shape == (4, 3)
    for row, logit, mask in zip(rows.tolist(), logits.double(), masks, strict=True):
        probability = torch.softmax(logit, 0).flatten(1).tolist()
        voxels = mask.flatten().tolist()
        zeros, ones = [0.0] * len(voxels), [1.0] * len(voxels)
        expected = [
            _dice_by_voxels(probability, voxels),
            _dice_by_voxels([ones, zeros], voxels),
            _dice_by_voxels([zeros, ones], voxels),
        ]
        assert row == pytest.approx(expected, abs=1e-6)


def test_dice_of_certain_and_right_predictions_is_one() -> None:
    masks = torch.zeros(3, 2, 2, 2, dtype=torch.int64)
    masks[1] = 1
    masks[2, 0] = 1
    logits = 200.0 * torch.stack((1 - masks, masks), dim=1)
    assert evidence("segmentation", logits, masks)[:, 0].tolist() == pytest.approx([1, 1, 1])


def test_dice_agrees_with_the_training_loss() -> None:
    logits, masks = torch.randn(3, 2, 4, 4, 4), torch.randint(0, 2, (3, 4, 4, 4))
    value = score("dice", evidence("segmentation", logits, masks).numpy(), np.zeros(3)).value
    assert value == pytest.approx(1 - float(soft_dice(logits, masks)), abs=1e-5)


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("m", [5, 60, 2400])
def test_auc_equals_sklearn(m: int, ties: bool) -> None:
    rows, labels = _binary(m, m, ties)
    assert score("auc", rows, labels).value == pytest.approx(roc_auc_score(labels, rows[:, 0]))
    assert score("auc", rows, labels).chance == 0.5


@pytest.mark.parametrize("m", [7, 300])
@pytest.mark.parametrize("classes", [3, 4])
def test_kappa_and_accuracy_equal_sklearn(m: int, classes: int) -> None:
    rows, labels = _graded(m, m, classes)
    predicted = rows.argmax(1)
    kappa = cohen_kappa_score(labels, predicted, weights="linear", labels=range(classes))
    assert score("kappa", rows, labels).value == pytest.approx(kappa)
    assert score("kappa", rows, labels).chance == 0.0
    assert score("accuracy", rows, labels).value == pytest.approx(accuracy_score(labels, predicted))


def test_binary_accuracy_and_kappa_cut_at_one_half() -> None:
    rows, labels = _binary(3, 200)
    predicted = (rows[:, 0] > 0.5).astype(int)
    assert score("accuracy", rows, labels).value == pytest.approx((predicted == labels).mean())
    assert score("kappa", rows, labels).value == pytest.approx(cohen_kappa_score(labels, predicted))


def test_labels_may_come_as_floats() -> None:
    rows, labels = _graded(0, 50)
    for metric in ("accuracy", "kappa"):
        assert score(metric, rows, labels.astype(np.float32)) == score(metric, rows, labels)


def test_chance_of_accuracy_is_the_largest_class() -> None:
    rows = np.full((5, 3), 1 / 3, dtype=np.float32)
    assert score("accuracy", rows, np.array([2, 0, 2, 1, 2])).chance == pytest.approx(0.6)


def test_chance_of_dice_is_the_better_mask_over_all_records() -> None:
    rows = np.array([[0.9, 0.1, 0.6], [0.7, 0.6, 0.3]], dtype=np.float32)
    result = score("dice", rows, np.zeros(2), standard_error=True)
    assert result.value == pytest.approx(0.8)
    assert result.chance == pytest.approx(0.45)
    assert result.standard_error == pytest.approx(0.1)


# ---------------------------------------------------------------------------- errors


def test_error_is_left_out_unless_asked_for() -> None:
    rows, labels = _binary(0, 50)
    assert score("auc", rows, labels).standard_error is None


def test_error_of_accuracy_is_binomial() -> None:
    rows = np.array([[0.9], [0.9], [0.9], [0.1]], dtype=np.float32)
    result = score("accuracy", rows, np.ones(4), standard_error=True)
    assert result.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


@pytest.mark.parametrize("ties", [False, True])
def test_error_of_auc_agrees_with_the_bootstrap(ties: bool) -> None:
    rows, labels = _binary(2, 300, ties)
    ours = score("auc", rows, labels, standard_error=True).standard_error
    assert ours == pytest.approx(_bootstrap_error("auc", rows, labels), rel=0.12)


def test_error_of_auc_equals_delong_written_out() -> None:
    rows, labels = _binary(5, 40, ties=True)
    positive, negative = rows[labels == 1, 0], rows[labels == 0, 0]
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negative] for p in positive])
    variance = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    ours = score("auc", rows, labels, standard_error=True).standard_error
    assert ours == pytest.approx(variance**0.5)


def test_error_of_kappa_agrees_with_a_bootstrap_over_records() -> None:
    rows, labels = _graded(2, 250)
    ours = score("kappa", rows, labels, standard_error=True).standard_error
    assert ours == pytest.approx(_bootstrap_error("kappa", rows, labels), rel=0.15)
    assert ours == score("kappa", rows, labels, standard_error=True).standard_error


# ---------------------------------------------------------------------------- edges


def _edge_cases() -> dict[str, tuple[str, NDArray, NDArray]]:
    column, row = np.float32([[0.2], [0.7], [0.6]]), np.float32([[0.7, 0.2, 0.1]])
    graded = np.repeat(row, 3, axis=0)
    return {
        "auc-one-class": ("auc", column, np.ones(3)),
        "auc-one-record": ("auc", column[:1], np.ones(1)),
        "auc-one-of-a-class": ("auc", column, np.array([0, 1, 1])),
        "kappa-one-class": ("kappa", graded, np.zeros(3)),
        "kappa-one-record": ("kappa", row, np.zeros(1)),
        "accuracy-one-record": ("accuracy", row, np.zeros(1)),
        "dice-one-record": ("dice", row, np.zeros(1)),
        **{
            f"{metric}-no-record": (metric, np.zeros((0, 1), np.float32), np.zeros(0))
            for metric in METRICS
        },
    }


UNDEFINED = {"auc-one-class", "auc-one-record", "kappa-one-class", "kappa-one-record"}


@pytest.mark.parametrize("name", _edge_cases())
def test_edges_are_none_and_never_nan(name: str) -> None:
    metric, rows, labels = _edge_cases()[name]
    result = score(metric, rows, labels, standard_error=True)
    assert (result.value is None) == (name in UNDEFINED or name.endswith("no-record"))
    assert result.standard_error is None
    json.dumps([result.value, result.chance], allow_nan=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_output_that_is_not_finite_has_no_score(metric: str, bad: float) -> None:
    rows, labels = _binary(0, 20) if metric in ("auc", "accuracy") else _graded(0, 20, 3)
    expected = score(metric, rows, labels)
    rows[3, 0] = bad
    result = score(metric, rows, labels, standard_error=True)
    assert result == Score(metric, None, expected.chance, None)


def test_chance_that_is_not_finite_is_zero() -> None:
    rows = np.full((2, 3), np.nan, dtype=np.float32)
    assert score("dice", rows, np.zeros(2)) == Score("dice", None, 0.0, None)


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1]])
def test_labels_that_are_no_class_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="classes 0 to 2"):
        score("accuracy", np.full((3, 3), 1 / 3), np.array(labels))


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="does not go with 2 labels"):
        score("auc", np.zeros((3, 1)), np.zeros(2))


def test_auc_of_many_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="binary"):
        score("auc", *_graded(0, 10))


# ---------------------------------------------------------------------------- the rest


def test_secondary_adds_accuracy_to_classification() -> None:
    rows, labels = _binary(0, 50)
    assert secondary("auc", rows, labels) == (score("accuracy", rows, labels),)
    assert secondary("kappa", rows, labels, standard_error=True) == (
        score("accuracy", rows, labels, standard_error=True),
    )
    assert secondary("accuracy", rows, labels) == ()
    assert secondary("dice", np.zeros((2, 3), np.float32), np.zeros(2)) == ()


@pytest.mark.parametrize(
    ("metric", "task", "fits"),
    [
        *(("auc", "binary", True), ("kappa", "multiclass", True), ("dice", "segmentation", True)),
        *(("auc", "multiclass", False), ("dice", "binary", False), ("f1", "binary", False)),
    ],
)
def test_a_metric_must_fit_the_task(metric: str, task: str, fits: bool) -> None:
    if fits:
        check_metric_fits(metric, task)
        return
    with pytest.raises(ConfigError) as caught:
        check_metric_fits(metric, task)
    assert caught.value.key == "dataset.metric"
    assert caught.value.fix.startswith("dataset.metric=")


def test_auc_is_cheap_enough_for_every_round_and_site() -> None:
    rows, labels = _binary(0, 2400)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        score("auc", rows, labels)
        times.append(time.perf_counter() - start)
    # About 0.1 ms on one core; the slack is for busy machines.
    assert min(times) < 5e-3
