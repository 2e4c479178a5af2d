from __future__ import annotations

import pytest
import torch

from fedprivacy.models.mlp import Mlp


@pytest.mark.parametrize(
    ("hidden", "parameters"), [([], 29), ([64, 64], 6081), ([300] * 3, 189601)]
)
def test_number_of_parameters(hidden: list[int], parameters: int) -> None:
    model = Mlp(28, hidden, 1)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_equals_matrix_products() -> None:
    model = Mlp(3, [4], 2)
    w1, b1, w2, b2 = model.parameters()
    x = torch.randn(5, 3)
    torch.testing.assert_close(model(x), (x @ w1.T + b1).clamp(min=0) @ w2.T + b2)
