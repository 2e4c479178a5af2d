"""A model called with other tensors in the place of its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call


def call_with(
    model: nn.Module, parameters: Mapping[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """The output of ``model`` on ``x``, computed with ``parameters``; the model is left as found.

    ``functional_call`` by itself puts tensors twice into a module that is registered under two
    names, and leaves them there: the model would no longer see its own parameters. Here each module
    gets its tensors once, and a weight that several modules share is the same tensor in all.

    Args:
        model: without buffers.
        parameters: by the names of ``named_parameters``.
        x: what the model reads.
    """
    of = {id(own): parameters[name] for name, own in model.named_parameters()}
    places = {
        f"{prefix}.{name}" if prefix else name: of[id(own)]
        for prefix, module in model.named_modules()
        for name, own in module.named_parameters(recurse=False, remove_duplicate=False)
    }
    output: torch.Tensor = functional_call(model, places, (x,), tie_weights=False)
    return output
