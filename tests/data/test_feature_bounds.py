"""The declared range of the features, which noise on records is scaled to, fits the records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedprivacy.config.schema import CellConfig
from fedprivacy.data.registry import dataset_names, get_dataset

CHOSEN = {
    "wisconsin": (),
    "higgs": ("dataset.max_rows=1500",),
    "ixi_tiny": ("dataset.shape=[12,16,12]",),
    "breast_density": ("dataset.image_size=16",),
}


def features(
    compose: Callable[..., CellConfig], root: Path, name: str
) -> tuple[torch.Tensor, list[float]]:
    conf = compose(
        f"dataset={name}", "dataset.size=demo", f"dataset.root={root}", *CHOSEN[name]
    ).dataset
    dataset = get_dataset(name)
    dataset.prepare(conf)
    found = [site.train_x.flatten() for site in dataset.load(conf).sites]
    return torch.cat(found), conf.feature_bounds


def test_every_dataset_is_here() -> None:
    assert set(CHOSEN) == set(dataset_names())


@pytest.mark.parametrize("name", CHOSEN)
def test_few_features_lie_beyond(compose, tmp_path: Path, name: str) -> None:
    x, (low, high) = features(compose, tmp_path, name)
    assert float(((x < low) | (x > high)).float().mean()) < 0.02
    # A range far wider than the records would drown them in noise that protects nothing more.
    assert high - low < 4 * float(torch.quantile(x[:: len(x) // 10000 + 1], 0.995) - x.median())


def test_every_pixel_of_a_mammogram_lies_within(compose, tmp_path: Path) -> None:
    x, (low, high) = features(compose, tmp_path, "breast_density")
    # float32 writes the lowest value as just below it.
    assert low - 1e-6 <= float(x.min())
    assert float(x.max()) <= high
