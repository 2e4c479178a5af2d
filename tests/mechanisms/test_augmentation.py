from __future__ import annotations

import pytest
import torch
from torch import nn

from fedprivacy.mechanisms.augmentation import Augmentation, AugmentedEngine
from fedprivacy.mechanisms.grad_engines.choose import ENGINES, build_engine
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Contribution
from fedprivacy.training.losses import LOSSES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_first_view_is_the_record_itself() -> None:
    for x in (torch.randn(4, 5), torch.randn(4, 1, 6, 7), torch.randn(4, 1, 4, 5, 6)):
        y = torch.arange(4)
        views, labels = Augmentation(3, 0.1, 2)(x, y, seeded())
        assert views.shape == (4, 3, *x.shape[1:])
        assert torch.equal(views[:, 0], x)
        assert not torch.equal(views[:, 1], views[:, 2])
        assert torch.equal(labels, y[:, None].expand(4, 3))


def test_rows_get_gaussian_noise_of_the_stated_deviation() -> None:
    x = torch.ones(2000, 6)
    views, _ = Augmentation(4, jitter=0.3)(x, torch.zeros(2000), seeded())
    noise = views[:, 1:] - 1
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noise.mean())) < 0.01
    columns = noise.reshape(2000, -1).T
    assert float(torch.corrcoef(columns).fill_diagonal_(0).abs().max()) < 0.1


def neighbours(size: int, shift: int, mirrored: bool) -> list[list[int]]:
    """Every order in which an axis may be read."""
    moved = [
        [min(max(i + move, 0), size - 1) for i in range(size)] for move in range(-shift, shift + 1)
    ]
    return moved + ([[size - 1 - i for i in order] for order in moved] if mirrored else [])


def test_images_are_moved_and_mirrored_and_nothing_else() -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    possible = {
        tuple(image[0, 0][rows][:, columns].flatten().tolist())
        for rows in neighbours(4, 1, mirrored=False)
        for columns in neighbours(5, 1, mirrored=True)
    }
    views, _ = Augmentation(400, shift=1)(image, torch.zeros(1), seeded())
    assert {tuple(view.flatten().tolist()) for view in views[0]} == possible


def test_volumes_are_moved_with_their_masks_and_not_mirrored() -> None:
    x = torch.arange(60.0).reshape(1, 1, 3, 4, 5)
    mask = torch.arange(60).reshape(1, 3, 4, 5)
    views, masks = Augmentation(300, shift=1)(x, mask, seeded())
    assert masks.dtype == torch.int64
    assert torch.equal(views[:, :, 0].long(), masks)
    orders = [neighbours(size, 1, mirrored=False) for size in (3, 4, 5)]
    possible = {
        tuple(mask[0][a][:, b][:, :, c].flatten().tolist())
        for a in orders[0]
        for b in orders[1]
        for c in orders[2]
    }
    assert {tuple(one.flatten().tolist()) for one in masks[0]} == possible


def test_records_draw_their_own_views() -> None:
    x = torch.ones(50, 1, 5, 5) * torch.arange(25.0).reshape(5, 5)
    views, _ = Augmentation(2, shift=2)(x, torch.zeros(50), seeded())
    assert len({tuple(view.flatten().tolist()) for view in views[:, 1]}) > 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", ["flat", "adaptive"])
def test_the_engine_of_a_batch_equals_that_of_views_made_beforehand(
    engine: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, loss = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)), LOSSES["binary"]
    x, y = torch.randn(7, 5), torch.arange(7) % 2
    contribution = Contribution(CLIPPINGS[rule], views=3)
    inner = build_engine(engine, model, loss, contribution)
    augmentation = Augmentation(3, jitter=0.2)
    whole = AugmentedEngine(inner, augmentation, seeded()).clipped_sum(x, y, 0.3)
    expected = inner.clipped_sum(*augmentation(x, y, seeded()), 0.3)
    torch.testing.assert_close(whole.total, expected.total)
    assert whole.within == expected.within
    # In slices of two records the draws come in another order: other views, the same law.
    monkeypatch.setattr("fedprivacy.mechanisms.augmentation._SLICE_SCALARS", 30)
    generator = seeded()
    sliced = AugmentedEngine(inner, augmentation, generator).clipped_sum(x, y, 0.3)
    again = seeded()
    parts = [
        inner.clipped_sum(*augmentation(x[a:b], y[a:b], again), 0.3)
        for a, b in ((0, 2), (2, 4), (4, 7))
    ]
    torch.testing.assert_close(sliced.total, sum(part.total for part in parts))


@pytest.mark.parametrize("rule", CLIPPINGS)
def test_no_records_sum_to_zero(rule: str) -> None:
    model, loss = nn.Linear(5, 1), LOSSES["binary"]
    inner = build_engine("auto", model, loss, Contribution(CLIPPINGS[rule], views=2))
    engine = AugmentedEngine(inner, Augmentation(2, 0.1), seeded())
    got = engine.clipped_sum(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), 1.0)
    assert not got.total.any()
    assert (got.within is None) == (rule != "adaptive")
