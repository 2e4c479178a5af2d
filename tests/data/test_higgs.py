"""The dataset: real layout and generated layout through one loader."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import HiggsConf, IxiConf
from fedprivacy.data import higgs
from fedprivacy.data.base import FederatedData
from fedprivacy.data.higgs import CENTRES, DATASET, SPREADS, event_names
from fedprivacy.data.registry import get_dataset
from fedprivacy.errors import ConfigError, DataError

N = 300


def conf(root: Path, **changes: object) -> HiggsConf:
    settings = {"root": str(root), "partition": "uniform", "metric": "auc", "size": "demo"}
    return HiggsConf(**{**settings, **changes})


def write_real(root: Path, seed: int = 0) -> np.ndarray:
    """A small file as the owner writes it; returns its numbers as float64."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([np.arange(N) % 2, rng.normal(1, 1, (N, 28))]).astype(np.float32)
    text = "".join(",".join(f"{value:.18e}" for value in row) + "\n" for row in rows)
    path = root / "real" / "higgs" / "HIGGS.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("ascii")))
    return rows.astype(np.float64)


def by_event(data: FederatedData) -> dict[int, tuple[bool, np.ndarray, int]]:
    """Row number -> (held out, features, label), over all sites."""
    found = {}
    for site in data.sites:
        for held_out, x, y, names in (
            (False, site.train_x, site.train_y, site.train_patients),
            (True, site.test_x, site.test_y, site.test_patients),
        ):
            for name, features, label in zip(names, x.numpy(), y.tolist(), strict=True):
                assert int(name) not in found
                found[int(name)] = (held_out, features, label)
    return found


@pytest.fixture(scope="module")
def synthetic_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    DATASET.prepare(conf(root))
    return root


@pytest.mark.parametrize("standardize", [False, True])
def test_real_layout_arrives_row_by_row(tmp_path: Path, standardize: bool) -> None:
    rows = write_real(tmp_path)
    settings = conf(tmp_path, source="real", size="full", standardize=standardize)
    DATASET.prepare(settings)
    data = DATASET.load(settings)
    events = by_event(data)
    assert sorted(events) == list(range(N))
    for number, (held_out, features, label) in events.items():
        expected = rows[number, 1:]
        if standardize:
            positive = [0, 3, *range(5, 21, 4), *range(8, 21, 4), *range(21, 28)]
            expected = [
                (value - (column in positive)) / float(SPREADS[column])
                for column, value in enumerate(expected)
            ]
        np.testing.assert_allclose(features, expected, rtol=2e-6, atol=1e-6)
        assert label == rows[number, 0]
        assert held_out == (number >= 240)
    assert not data.synthetic
    assert "as their owners normalised them" in data.assumptions[0]


def test_signed_features_are_not_moved_by_standardising() -> None:
    signed = [1, 2, 4, 6, 7, 10, 11, 14, 15, 18, 19]
    assert (CENTRES[signed] == 0).all()
    assert (SPREADS[signed] == 1).all()
    assert CENTRES.sum() == 28 - len(signed)
    assert SPREADS.min() > 0


def test_synthetic_records_say_so_and_fit_the_interface(synthetic_root: Path) -> None:
    data = DATASET.load(conf(synthetic_root))
    assert data.synthetic
    assert (data.name, data.task, data.n_classes) == ("higgs", "binary", 2)
    assert (data.input_shape, data.metric) == ((28,), "auc")
    assert [site.name for site in data.sites] == ["site-1", "site-2", "site-3"]
    assert sum(len(site.train_x) for site in data.sites) == 9_600
    assert sum(len(site.test_x) for site in data.sites) == 2_400
    for site in data.sites:
        for x, y, names in (
            (site.train_x, site.train_y, site.train_patients),
            (site.test_x, site.test_y, site.test_patients),
        ):
            assert x.dtype == torch.float32
            assert y.dtype == torch.int64
            assert x.is_contiguous()
            assert y.is_contiguous()
            assert x.shape == (len(y), 28)
            assert names.shape == (len(y),)
    patients = np.concatenate(
        [p for site in data.sites for p in (site.train_patients, site.test_patients)]
    )
    assert len(set(patients.tolist())) == 12_000
    features = torch.cat([site.train_x for site in data.sites])
    assert features.mean(0).abs().max() < 0.15
    assert features.std(0).min() > 0.5
    assert features.std(0).max() < 1.5


def test_loading_is_deterministic_and_generates_once(synthetic_root: Path) -> None:
    csv = synthetic_root / "synthetic" / "higgs" / "demo" / "HIGGS.csv.gz"
    before = csv.stat().st_mtime_ns
    first, second = DATASET.load(conf(synthetic_root)), DATASET.load(conf(synthetic_root))
    assert csv.stat().st_mtime_ns == before
    assert first.fingerprint == second.fingerprint == DATASET.fingerprint(conf(synthetic_root))
    for one, other in zip(first.sites, second.sites, strict=True):
        assert torch.equal(one.train_x, other.train_x)
        assert torch.equal(one.test_y, other.test_y)


def test_fingerprint_changes_with_the_records_alone(tmp_path: Path) -> None:
    write_real(tmp_path)
    settings = {"source": "real", "size": "full"}
    found = {
        name: DATASET.fingerprint(conf(tmp_path, **settings, **changes))
        for name, changes in {
            "all": {},
            "again": {"n_sites": 5},
            "first": {"max_rows": 100},
            "raw": {"standardize": False},
        }.items()
    }
    assert found["all"] == found["again"]
    assert len(set(found.values())) == 3
    write_real(tmp_path, seed=1)
    assert DATASET.fingerprint(conf(tmp_path, **settings)) not in found.values()


def test_demo_of_the_real_file_is_its_first_rows(tmp_path: Path, monkeypatch) -> None:
    write_real(tmp_path)
    monkeypatch.setitem(higgs.SIZES, "demo", 200)
    assert sorted(by_event(DATASET.load(conf(tmp_path, source="real")))) == list(range(200))
    few = conf(tmp_path, source="real", max_rows=160)
    assert sorted(by_event(DATASET.load(few))) == list(range(160))


def test_missing_real_file_names_folder_and_command(tmp_path: Path) -> None:
    for call in (DATASET.prepare, DATASET.fingerprint, DATASET.load):
        with pytest.raises(DataError, match="fedprivacy data download higgs") as caught:
            call(conf(tmp_path, source="real"))
        assert str(tmp_path / "real" / "higgs") in str(caught.value)
    assert not (tmp_path / "synthetic").exists()


def test_prepare_refuses_a_convention_that_the_rows_cannot_serve(synthetic_root: Path) -> None:
    for convention in ("baldi", "nvflare"):
        with pytest.raises(ConfigError, match=r"dataset\.test_convention=fraction"):
            DATASET.prepare(conf(synthetic_root, test_convention=convention))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"source": "reel"}, "source"),
        ({"size": "tiny"}, "size"),
        ({"partition": "natural"}, "partition"),
        ({"test_convention": "random"}, "test_convention"),
        ({"max_rows": 0}, "max_rows"),
    ],
)
def test_values_that_cannot_be_used_are_refused(tmp_path: Path, changes, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.{key}=.*Fix: dataset\.{key}="):
        DATASET.prepare(conf(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_another_datasets_configuration_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="HiggsConf"):
        DATASET.prepare(IxiConf())


def test_event_names_are_eight_digits() -> None:
    rows = np.array([0, 7, 65_536, 10_999_999])
    assert event_names(rows).tolist() == [f"{row:08d}" for row in rows]


def test_shipped_configuration_composes_and_loads(synthetic_root: Path) -> None:
    with hydra_ready():
        overrides = ["dataset=higgs", "dataset.size=demo", f"dataset.root={synthetic_root}"]
        settings = to_cell_config(compose_cell(overrides)).dataset
    assert isinstance(settings, HiggsConf)
    assert len(DATASET.load(settings).sites) == settings.n_sites
    # 80 % of 12,000 and of 110,000 rows over three sites.
    assert settings.declared_records == pytest.approx(9_600 / 3, rel=0.05)
    assert settings.declared_by_size["full"] == pytest.approx(88_000 / 3, rel=0.05)


def test_registry_knows_the_dataset() -> None:
    assert get_dataset("higgs") is DATASET
