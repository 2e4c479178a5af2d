"""Chance without predictions is the chance that a scored round reports."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedprivacy.config.schema import CellConfig
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.cache import load_data
from fedprivacy.errors import ClientFailure
from fedprivacy.federation.run import run_federation
from fedprivacy.federation.scoring import chance

Tiny = Callable[..., CellConfig]


def data_of(task: str, metric: str, classes: int, *labels: torch.Tensor) -> FederatedData:
    sites = tuple(
        SiteData(
            name=f"site-{index}",
            train_x=torch.zeros(2, 1),
            train_y=y[:2],
            test_x=torch.zeros(len(y), 1),
            test_y=y,
            train_patients=np.arange(2),
            test_patients=np.arange(len(y)),
        )
        for index, y in enumerate(labels)
    )
    return FederatedData("made-up", task, classes, (1,), metric, sites, True, "0")  # type: ignore[arg-type]


def test_chance_is_that_of_a_scored_round(tiny: Tiny) -> None:
    config = tiny("federation.rounds=1")
    scores = run_federation(config).history[-1].scores
    assert scores is not None
    assert chance(load_data(config.dataset)) == scores.chance


def test_chance_of_several_classes_is_the_largest_class_of_all_sites() -> None:
    data = data_of("multiclass", "accuracy", 4, torch.tensor([3, 3, 0]), torch.tensor([3, 1]))
    assert chance(data) == pytest.approx(3 / 5)


def test_chance_of_masks_is_that_of_the_better_constant_mask() -> None:
    masks = torch.zeros(3, 4, 4, 4)
    masks[:, 0, 0, 0] = 1
    # Dice of the empty mask: 2 * 63 / (63 + 64) for the background and 0 for the brain.
    expected = (2 * 63 / 127) / 2
    assert chance(data_of("segmentation", "dice", 2, masks)) == pytest.approx(expected, abs=1e-5)


def test_what_a_failure_released_survives_pickling() -> None:
    failure = ClientFailure("gone", "site-2", "Traceback")
    failure.released = ({"round": 1},)
    again = pickle.loads(pickle.dumps(failure))
    assert (again.released, again.site, str(again)) == (({"round": 1},), "site-2", str(failure))
    assert ClientFailure("gone").released == ()
