from __future__ import annotations

import pytest
import torch

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.guards import check_update


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
