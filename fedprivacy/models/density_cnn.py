"""Small convolutional network for 2-D images, such as breast density from mammograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def _block(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        # No bias: the affine part of GroupNorm shifts every channel, and each further weight
        # costs noise.
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(math.gcd(groups, out_channels), out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
    )


class DensityCnn(nn.Module):
    """Blocks of 3x3 convolution, GroupNorm, ReLU and 2x2 max pooling; mean over space; linear.

    Args:
        in_channels: channels of one image.
        channels: channels after each block; each block halves height and width (rounding up).
        groups: groups of GroupNorm, lowered to a common divisor with each block's channels.
        out_features: logits per image.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], groups: int, out_features: int
    ) -> None:
        super().__init__()
        widths = (in_channels, *channels)
        self.blocks = nn.Sequential(
            *(_block(before, after, groups) for before, after in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_features)`` of images ``(n, in_channels, height, width)``."""
        logits: torch.Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return logits
