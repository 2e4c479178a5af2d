"""SGD on flat vectors: the bits of ``torch.optim.SGD`` without its walk through the parameters.

A step of a small model takes longer to be looked up, tensor by tensor, than to be computed.
"""

from __future__ import annotations

import torch


class FlatSgd:
    """SGD with momentum, as ``torch.optim.SGD`` without dampening or weight decay.

    Args:
        weights: ``(d,)`` that is moved; any shape will do.
        gradient: of the same shape, which each step reads.
        lr: learning rate.
        momentum: 0: none.
    """

    def __init__(
        self, weights: torch.Tensor, gradient: torch.Tensor, lr: float, momentum: float = 0.0
    ) -> None:
        self._weights, self._gradient = weights, gradient
        self._lr, self._momentum = lr, momentum
        self._velocity: torch.Tensor | None = None

    def step(self) -> None:
        """Move the weights by the gradient as it is now."""
        self._weights.add_(self._direction(), alpha=-self._lr)

    def keep(self, rows: int) -> None:
        """Move the first rows alone from now on; the others stay as they are."""
        if rows < len(self._weights):
            self._weights, self._gradient = self._weights[:rows], self._gradient[:rows]
            if self._velocity is not None:
                self._velocity = self._velocity[:rows]

    def _direction(self) -> torch.Tensor:
        if not self._momentum:
            return self._gradient
        if self._velocity is None:
            self._velocity = self._gradient.clone()
        else:
            self._velocity.mul_(self._momentum).add_(self._gradient)
        return self._velocity
