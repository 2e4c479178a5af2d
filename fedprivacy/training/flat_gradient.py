"""All gradients of a model as one vector: noise is one draw, a step of the optimiser one add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedprivacy.training.parameters import FlatParameters


@contextmanager
def flat_gradient(parameters: FlatParameters) -> Iterator[torch.Tensor]:
    """One ``(d,)`` vector whose parts are the parameters' ``.grad``; taken away afterwards."""
    tensors = parameters.tensors
    gradient = torch.zeros_like(parameters.flat)
    parts = torch.split(gradient, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.grad = part.view_as(tensor)
    try:
        yield gradient
    finally:
        for tensor in tensors:
            tensor.grad = None
