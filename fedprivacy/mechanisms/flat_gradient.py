"""All gradients of a model as one vector, so that noise is one draw and the clipped sum one add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedprivacy.mechanisms.grad_engines.base import split_views
from fedprivacy.training.parameters import FlatParameters


@contextmanager
def flat_gradient(parameters: FlatParameters) -> Iterator[torch.Tensor]:
    """One ``(d,)`` vector whose parts are the parameters' ``.grad``; taken away afterwards."""
    tensors = list(parameters.model.parameters())
    gradient = torch.zeros_like(parameters.flat)
    views = split_views(gradient, [tensor.shape for tensor in tensors])
    for tensor, view in zip(tensors, views, strict=True):
        tensor.grad = view
    try:
        yield gradient
    finally:
        for tensor in tensors:
            tensor.grad = None
