"""A model's parameters as one flat float32 vector, and back."""

from __future__ import annotations

import torch
from torch import nn

from fedprivacy.errors import ProtectionError


class FlatParameters:
    """View of a model's trainable parameters as one contiguous vector.

    The parameters are re-pointed into one flat buffer, so that reading and writing all of them
    is a single copy. Buffers (batch-norm statistics, counters) have no place here: a model that
    has any is refused, because they would leave a site unprotected.

    Attributes:
        model: the module.
        tensors: its parameters, in the order of the vector.
        flat: ``(d,)`` float32, the vector.

    Args:
        model: module whose parameters are all float32 and require gradients.

    Raises:
        ProtectionError: the model has buffers, or parameters that are frozen or not float32.
    """

    def __init__(self, model: nn.Module) -> None:
        buffers = [name for name, _ in model.named_buffers()]
        if buffers:
            raise ProtectionError(
                f"the model keeps buffers {buffers[:3]} that no mechanism protects: they would "
                "leave the site raw. Use GroupNorm instead of BatchNorm."
            )
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        if frozen:
            raise ProtectionError(
                f"parameters {frozen[:3]} are frozen: every parameter is trained, clipped and "
                "noised alike. Leave frozen layers out of the model, and train on their output."
            )
        parameters = list(model.parameters())
        wrong = {str(p.dtype) for p in parameters} - {"torch.float32"}
        if wrong:
            raise ProtectionError(f"parameters must be float32, got {sorted(wrong)}")
        self.model = model
        self.tensors: list[torch.Tensor] = list(parameters)
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.data = self.flat[start:stop].view_as(parameter)
            start = stop

    @property
    def size(self) -> int:
        """Number of scalars d."""
        return self.flat.numel()

    def load(self, vector: torch.Tensor) -> None:
        """Copy ``vector`` ``(d,)`` float32 into the model."""
        self.flat.copy_(vector)

    def snapshot(self) -> torch.Tensor:
        """A copy of the parameters, ``(d,)`` float32 on the CPU."""
        return self.flat.detach().to("cpu", copy=True)
