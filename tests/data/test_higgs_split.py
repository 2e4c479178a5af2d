"""Both published test conventions, subsets, and the division over sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedprivacy.config.schema import HiggsConf
from fedprivacy.data.higgs_split import held_out_range, rows_of_sites
from fedprivacy.data.higgs_table import Table
from fedprivacy.errors import ConfigError


def table(n_rows: int, complete: bool = True) -> Table:
    return Table(Path("rows.npy"), n_rows, complete, "")


def conf(**changes: object) -> HiggsConf:
    return HiggsConf(**{"partition": "uniform", "metric": "auc", **changes})


def labels_of(n: int) -> np.ndarray:
    return (np.random.default_rng(0).random(n) < 0.53).astype(np.int64)


def test_published_conventions_train_on_ten_million_rows() -> None:
    whole = table(11_000_000)
    baldi = held_out_range(whole, conf(test_convention="baldi"))
    assert baldi == (range(10_000_000), range(10_500_000, 11_000_000))
    nvflare = held_out_range(whole, conf(test_convention="nvflare"))
    assert nvflare == (range(1_000_000, 11_000_000), range(1_000_000))


def test_nvflare_takes_the_first_rows_of_a_table_that_is_cut_off() -> None:
    cut = table(1_200_000, complete=False)
    train, test = held_out_range(cut, conf(test_convention="nvflare", max_rows=1_200_000))
    assert (train, test) == (range(1_000_000, 1_200_000), range(1_000_000))


@pytest.mark.parametrize("convention", ["baldi", "nvflare"])
@pytest.mark.parametrize("n", [110_000, 1_000_000])
def test_too_few_rows_name_the_convention_that_works(convention: str, n: int) -> None:
    message = rf"test_convention='{convention}'.*{n:,}.*Fix: dataset.test_convention=fraction"
    with pytest.raises(ConfigError, match=message):
        held_out_range(table(n), conf(test_convention=convention))


def test_baldi_needs_the_end_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"max_rows=2000000.*the end of the file.*=fraction"):
        held_out_range(
            table(2_000_000, complete=False), conf(test_convention="baldi", max_rows=2_000_000)
        )


def test_fraction_holds_out_the_last_rows() -> None:
    assert held_out_range(table(1_003), conf(test_fraction=0.2)) == (range(803), range(803, 1_003))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), 0.0001])
def test_fraction_must_leave_both_sides_some_rows(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.test_fraction"):
        held_out_range(table(1_000), conf(test_fraction=fraction))


@pytest.mark.parametrize("kind", ["uniform", "linear", "square", "exponential", "dirichlet"])
def test_every_row_is_at_one_site_on_the_side_it_belongs_to(kind: str) -> None:
    n, settings = 4_000, conf(partition=kind, n_sites=4, dirichlet_alpha=0.7, split_seed=2)
    sites = rows_of_sites(table(n), labels_of(n), settings)
    assert len(sites) == 4
    train = np.concatenate([site[0] for site in sites])
    test = np.concatenate([site[1] for site in sites])
    np.testing.assert_array_equal(np.sort(train), np.arange(3_200))
    np.testing.assert_array_equal(np.sort(test), np.arange(3_200, n))
    again = rows_of_sites(table(n), labels_of(n), settings)
    for one, other in zip(sites, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("uniform", (1 / 3, 1 / 3, 1 / 3)),
        ("linear", (1 / 6, 2 / 6, 3 / 6)),
        ("square", (1 / 14, 4 / 14, 9 / 14)),
        ("exponential", (0.0900, 0.2447, 0.6652)),
    ],
)
def test_quantity_kinds_share_both_sides_alike(kind: str, shares: tuple[float, ...]) -> None:
    n = 20_000
    sites = rows_of_sites(table(n), labels_of(n), conf(partition=kind, n_sites=3))
    for (train, test), share in zip(sites, shares, strict=True):
        assert len(train) == pytest.approx(16_000 * share, abs=2)
        assert len(test) == pytest.approx(4_000 * share, abs=2)


def test_dirichlet_tests_a_site_on_its_own_mixture_of_labels() -> None:
    n = 40_000
    labels = labels_of(n)
    sites = rows_of_sites(
        table(n), labels, conf(partition="dirichlet", n_sites=3, dirichlet_alpha=1.0, split_seed=1)
    )
    mixtures = [(labels[train].mean(), labels[test].mean()) for train, test in sites]
    for train, test in mixtures:
        assert train == pytest.approx(test, abs=0.03)
    assert np.ptp([train for train, _ in mixtures]) > 0.1


def test_baldis_validation_rows_are_at_no_site() -> None:
    n = 1_000_100
    for kind in ("uniform", "dirichlet"):
        settings = conf(test_convention="baldi", partition=kind, n_sites=2, dirichlet_alpha=10.0)
        sites = rows_of_sites(table(n), labels_of(n), settings)
        assert sorted(np.concatenate([train for train, _ in sites])) == list(range(100))
        test = np.sort(np.concatenate([test for _, test in sites]))
        np.testing.assert_array_equal(test, np.arange(500_100, n))


@pytest.mark.parametrize(("kind", "key"), [("exponential", "n_sites"), ("uniform", "n_sites")])
def test_a_site_with_too_few_rows_is_refused(kind: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.{key}=12"):
        rows_of_sites(table(500), labels_of(500), conf(partition=kind, n_sites=12))


def test_dirichlet_that_leaves_a_site_without_held_out_rows_is_refused() -> None:
    settings = conf(partition="dirichlet", n_sites=8, dirichlet_alpha=1.0, test_fraction=0.02)
    with pytest.raises(ConfigError, match=r"dirichlet_alpha.*held-out rows"):
        rows_of_sites(table(1_000), labels_of(1_000), settings)
