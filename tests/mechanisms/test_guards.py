from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.guards import (
    check_noisy,
    check_steps,
    check_strength,
    check_update,
    check_values,
)


def test_finite_flat_float32_passes() -> None:
    check_update(torch.tensor([0.0, -1e30, 3e38]))


@pytest.mark.parametrize(
    ("update", "says"),
    [
        (torch.tensor([1.0, float("nan")]), "1 of 2 values of the update are NaN or infinite"),
        (torch.tensor([float("inf")]), "NaN or infinite"),
        (torch.tensor([-float("inf"), 1.0]), "NaN or infinite"),
        (torch.zeros(0), "empty"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.zeros(3, dtype=torch.float64), "float64"),
        (torch.zeros(3, dtype=torch.int64), "int64"),
        ([1.0, 2.0], "list"),
    ],
)
def test_anything_else_is_refused(update: torch.Tensor, says: str) -> None:
    with pytest.raises(ProtectionError, match=says):
        check_update(update)


def test_finite_flat_float64_passes() -> None:
    check_values(np.array([0.0, -1e300, 5e-324]), "filter")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([1.0, math.nan]), "not finite: 1 of 2 values are NaN or infinite"),
        (np.array([-math.inf, math.inf]), "not finite: 2 of 2"),
        (np.zeros(0), r"shape \(0,\)"),
        (np.array(1.0), r"shape \(\)"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.arange(3), r"int64; nothing was sent\. Convert .*astype\(numpy\.float64\)"),
        (np.ones(3, dtype=bool), "bool"),
        (np.ones(3, dtype=np.float32), "float32"),
        (np.ones(3, dtype=complex), "complex128"),
        (np.array([1.0, "2.0"], dtype=object), "object"),
        ([1.0, 2.0], "list"),
        (torch.ones(3), "Tensor"),
    ],
)
def test_any_other_array_is_refused(values: object, says: str) -> None:
    with pytest.raises(ProtectionError, match=f"^filter: .*{says}") as refusal:
        check_values(values, "filter")
    assert "nothing was sent" in str(refusal.value)


def test_what_overflowed_is_not_let_out() -> None:
    sound = np.array([1e308, -1.0])
    assert check_noisy(sound, "filter") is sound
    with pytest.raises(ProtectionError, match="1 of 2 protected values"):
        check_noisy(np.array([math.inf, -1.0]), "filter")


def test_steps_are_whole_numbers_from_one() -> None:
    for steps in (1, 10**6, np.int64(3)):
        check_steps(steps, "filter")
    for steps in (0, -1, 2.5, 2.0, math.nan, math.inf, None, "3"):
        with pytest.raises(ProtectionError, match=r"filter: steps=.*nothing was sent"):
            check_steps(steps, "filter")


def test_strengths_are_finite_and_from_zero() -> None:
    for strength in (0.0, 1e-300, 3.0):
        check_strength(strength, "filter")
    for strength in (-1e-300, math.nan, math.inf, -math.inf):
        with pytest.raises(ProtectionError, match=r"filter: strength=.*nothing was sent"):
            check_strength(strength, "filter")
