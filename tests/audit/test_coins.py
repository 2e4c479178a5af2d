"""Coins: fair, independent of training, over the same candidates for every seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.audit.coins import KINDS, CoinPlan, plant
from fedprivacy.data.base import SiteData


def site(n: int = 60, image: bool = False, name: str = "a") -> SiteData:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn((n, 1, 6, 8) if image else (n, 5), generator=draws)
    y = (torch.arange(n) % 3).long()
    names = np.array([f"p{index}" for index in range(n)])
    return SiteData(name, x, y, x[:0], y[:0], names, names[:0])


def rows(x: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.flatten(1).tolist()}


@pytest.mark.parametrize("image", [False, True])
def test_natural_candidates_are_trained_on_as_their_coins_say(image: bool) -> None:
    whole = site(image=image)
    planted, canaries = plant(whole, CoinPlan("natural", 40, 0), 3)
    trained = rows(planted.train_x)
    for record, included in zip(canaries.x, canaries.included, strict=True):
        assert (tuple(record.flatten().tolist()) in trained) is bool(included)
    assert len(planted.train_x) == 60 - int((~canaries.included).sum())
    assert len(planted.train_patients) == len(planted.train_y) == len(planted.train_x)
    assert rows(canaries.known_x) <= trained
    assert not rows(canaries.known_x) & rows(canaries.x)


@pytest.mark.parametrize("image", [False, True])
def test_made_up_candidates_are_added_to_the_sites_own(image: bool) -> None:
    whole = site(image=image)
    planted, canaries = plant(whole, CoinPlan("random_label", 30, 0), 3)
    trained = rows(planted.train_x)
    assert rows(whole.train_x) <= trained
    for record, included in zip(canaries.x, canaries.included, strict=True):
        assert (tuple(record.flatten().tolist()) in trained) is bool(included)
    assert canaries.x.shape[1:] == whole.train_x.shape[1:]
    assert set(canaries.y.tolist()) <= {0, 1, 2}
    assert len(set(planted.train_patients)) == len(planted.train_patients)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_the_same_for_every_seed_and_coins_are_not(kind) -> None:
    found = [plant(site(), CoinPlan(kind, 40, 0), seed)[1] for seed in range(6)]
    for one in found[1:]:
        assert torch.equal(one.x, found[0].x)
        assert list(one.candidate) == list(found[0].candidate)
    assert len({tuple(one.included) for one in found}) == 6
    again = plant(site(), CoinPlan(kind, 40, 0), 0)[1]
    assert list(again.included) == list(found[0].included)


def test_coins_are_fair_and_differ_between_sites() -> None:
    coins = np.stack(
        [plant(site(), CoinPlan("natural", 50, 0), seed)[1].included for seed in range(200)]
    )
    assert stats.binomtest(int(coins.sum()), coins.size, 0.5).pvalue > 0.01
    # Independent: neighbours agree half of the time.
    agree = int((coins[:, 1:] == coins[:, :-1]).sum())
    assert stats.binomtest(agree, coins[:, 1:].size, 0.5).pvalue > 0.01
    other = plant(site(name="b"), CoinPlan("natural", 50, 0), 0)[1]
    assert list(other.included) != list(coins[0])


def test_one_record_is_always_left() -> None:
    planted, canaries = plant(site(4), CoinPlan("natural", 100, 0), 1)
    assert len(canaries) == 3
    assert len(planted.train_x) >= 1
