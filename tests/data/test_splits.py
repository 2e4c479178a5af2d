"""Held-out patients: grouped, stable, independent of each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprivacy.data.splits import cap_records, split_patients
from fedprivacy.errors import ConfigError, DataError

PINNED = [1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0]
PATIENTS = st.lists(st.sampled_from([f"p{i}" for i in range(40)]), min_size=2, max_size=200)


@settings(max_examples=60, deadline=None)
@given(names=PATIENTS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_no_patient_on_both_sides_and_none_empty(
    names: list[str], fraction: float, seed: int
) -> None:
    patients = np.array(names)
    if len(set(names)) < 2:
        with pytest.raises(DataError, match="at least two patients"):
            split_patients(patients, fraction, seed)
        return
    held_out = split_patients(patients, fraction, seed)
    assert held_out.dtype == np.bool_
    assert held_out.shape == patients.shape
    assert not set(patients[held_out]) & set(patients[~held_out])
    assert held_out.any()
    assert not held_out.all()


@settings(max_examples=40, deadline=None)
@given(names=PATIENTS.filter(lambda names: len(set(names)) > 1), seed=st.integers(0, 100))
def test_order_of_records_does_not_matter(names: list[str], seed: int) -> None:
    patients = np.array(names)
    order = np.random.default_rng(seed).permutation(len(patients))
    np.testing.assert_array_equal(
        split_patients(patients[order], 0.3, seed), split_patients(patients, 0.3, seed)[order]
    )


def test_a_patient_more_or_less_moves_nobody_else() -> None:
    patients = np.array([f"p{i:03d}" for i in range(300)])
    whole = split_patients(patients, 0.2, 0)
    for gone in range(0, 300, 7):
        rest = np.arange(300) != gone
        np.testing.assert_array_equal(split_patients(patients[rest], 0.2, 0), whole[rest])
    # A site alone decides as all sites together.
    np.testing.assert_array_equal(split_patients(patients[:60], 0.2, 0), whole[:60])


def test_share_is_met_in_expectation() -> None:
    patients = np.array([f"IXI{i:03d}" for i in range(5000)])
    for fraction in (0.1, 0.2, 0.5):
        shares = [split_patients(patients, fraction, seed).mean() for seed in range(5)]
        sd = (fraction * (1 - fraction) / 5000) ** 0.5
        np.testing.assert_allclose(shares, fraction, atol=4.5 * sd)


def test_seed_changes_the_split_and_the_answer_is_pinned() -> None:
    """Pinned: a change would silently move patients of every published result."""
    patients = np.array([f"p{i}" for i in range(20)])
    assert [int(held) for held in split_patients(patients, 0.3, 0)] == PINNED
    assert not np.array_equal(split_patients(patients, 0.3, 0), split_patients(patients, 0.3, 1))


def test_two_patients_always_split_one_and_one() -> None:
    for seed in range(50):
        for fraction in (0.001, 0.999):
            assert split_patients(np.array(["a", "b"]), fraction, seed).sum() == 1


def test_nothing_held_out_on_request() -> None:
    assert not split_patients(np.array(["a"]), 0.0, 0).any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.test_fraction"):
        split_patients(np.array(["a", "b"]), fraction, 0)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.sampled_from("abcde"), max_size=60), limit=st.integers(1, 5))
def test_cap_equals_a_plain_loop(names: list[str], limit: int) -> None:
    expected, seen = [], dict.fromkeys("abcde", 0)
    for row, name in enumerate(names):
        seen[name] += 1
        if seen[name] <= limit:
            expected.append(row)
    kept = cap_records(np.array(names, dtype=np.str_), limit)
    assert kept.dtype == np.int64
    assert kept.tolist() == expected


def test_cap_can_be_absent_and_must_be_positive() -> None:
    patients = np.array(["a", "a"])
    assert cap_records(patients, None).tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"dataset\.max_records_per_patient=0"):
        cap_records(patients, 0)
