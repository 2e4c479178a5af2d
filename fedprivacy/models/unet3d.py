"""3-D U-Net for volumes, with the channel plan of Perez-Garcia's ``unet`` package.

That package's blocks register every layer twice, which doubles the per-sample gradients that
Opacus' hooks see; the blocks here are our own and register each layer once.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

NORMS = ("group", "none")


def _layer(in_channels: int, out_channels: int, norm: str, groups: int) -> nn.Sequential:
    """3x3x3 convolution that keeps the size, GroupNorm unless ``norm`` is none, PReLU."""
    layers: list[nn.Module] = [
        nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=norm == "none")
    ]
    if norm == "group":
        layers.append(nn.GroupNorm(math.gcd(groups, out_channels), out_channels))
    return nn.Sequential(*layers, nn.PReLU())


class UNet3d(nn.Module):
    """Encoder with max pooling, decoder with trilinear upsampling, skip connections.

    Encoding block i has convolutions to ``f * 2**i`` and ``f * 2**(i + 1)`` channels with
    ``f = first_channels``; decoding block i has two to ``f * 2**(i + 1)``; a 1x1x1 convolution
    makes the logits. The very first convolution is never normalised. With ``norm="none"``, one
    input channel, two output channels, f = 8 and three levels there are 245,900 parameters, as
    in FLamby's Fed-IXI baseline (Ogier du Terrail et al. 2022).

    Pooling rounds sizes up and the decoder crops to the skip connection, so that any size works
    and the logits have the size of the input.

    Args:
        in_channels: channels of one volume.
        out_channels: logits per voxel.
        first_channels: channels f of the first convolution.
        levels: encoding blocks, the bottom one included.
        norm: ``group`` (GroupNorm) or ``none``.
        groups: groups of GroupNorm, lowered to a common divisor with each layer's channels.

    Raises:
        ValueError: ``norm`` is not one of ``NORMS``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        first_channels: int = 8,
        levels: int = 3,
        norm: str = "group",
        groups: int = 4,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is not one of {NORMS}")
        width = [first_channels * 2**i for i in range(levels + 1)]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                _layer(width[i], width[i], norm, groups)
                if i
                else _layer(in_channels, width[0], "none", groups),
                _layer(width[i], width[i + 1], norm, groups),
            )
            for i in range(levels)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(
                _layer(width[i] + width[i + 1], width[i], norm, groups),
                _layer(width[i], width[i], norm, groups),
            )
            for i in range(levels - 1, 0, -1)
        )
        self.head = nn.Conv3d(width[1], out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)`` of volumes ``(n, in_channels, *spatial)``."""
        skips: list[torch.Tensor] = []
        for encoder in self.encoders:
            if skips:
                x = functional.max_pool3d(x, kernel_size=2, ceil_mode=True)
            x = encoder(x)
            skips.append(x)
        skips.pop()
        for decoder in self.decoders:
            skip = skips.pop()
            x = functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            depth, height, width = skip.shape[2:]
            x = x[:, :, :depth, :height, :width]
            x = decoder(torch.cat((skip, x), dim=1))
        logits: torch.Tensor = self.head(x)
        return logits
