"""Which way of stacking suits a model."""

from __future__ import annotations

from torch import nn

from fedprivacy.training.losses import Loss
from fedprivacy.training.stacked.chain import ChainGradients, linear_chain
from fedprivacy.training.stacked.functional import FunctionalGradients

StackedGradients = ChainGradients | FunctionalGradients


def stacked_gradients(model: nn.Module, loss: Loss, precision: str = "float32") -> StackedGradients:
    """Batched matrix products for all-Linear networks, ``torch.func`` for all others.

    Args:
        model: without ``functional.stacking_faults``.
        loss: mean loss over a batch.
        precision: see ``precision.model_precision``.
    """
    chain = linear_chain(model)
    if chain is not None:
        return ChainGradients(chain, loss, precision)
    return FunctionalGradients(model, loss, precision)
