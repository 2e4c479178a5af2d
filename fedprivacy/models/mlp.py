"""Multi-layer perceptron for tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class Mlp(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_features: columns of the table.
        hidden: widths of the hidden layers; empty makes a linear model.
        out_features: logits per record.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        super().__init__()
        widths = (in_features, *hidden)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_features)`` of records ``(n, in_features)``."""
        logits: torch.Tensor = self.layers(x)
        return logits
